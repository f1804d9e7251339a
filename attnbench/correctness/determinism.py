"""Does the same call give the same bits: again, on another stream, and with memory laid out differently?"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.backend import Base, Call, Inputs, Outputs
from attnbench.case import Case
from attnbench.contract import check_contract
from attnbench.records.record import (
    MEMORY_DIFFERS,
    PROCESSES_DIFFER,
    REPEATS_DIFFER,
    STREAMS_DIFFER,
    THREADS_DIFFER,
    Check,
)

if TYPE_CHECKING:
    from torch import Tensor


# Further calls that are made however long they take, and seconds for the others: a call that fails once in a hundred is
# found where calls are short.
REPEATS_AT_LEAST = 3
REPEATS_S = 0.5
# Blocks of the output's size that are filled with NaN; every other one is then freed for the kernel to find.
PRESSURE_BLOCKS = 16


def first_difference(a: Outputs, b: Outputs) -> str:
    """The first element that is not the same bit for bit, with both values; "" where all are. NaN equals NaN."""
    for name, names in (("out", ("batch", "row", "head", "column")), ("lse", ("batch", "head", "row"))):
        one, other = getattr(a, name), getattr(b, name)
        if (one is None) != (other is None):
            return f"{name}: one call gave it, another did not"
        if one is None:
            continue
        differ = (_bits(one) != _bits(other)).nonzero()
        if len(differ):
            place = tuple(int(index) for index in differ[0])
            where = ", ".join(f"{what} {index}" for what, index in zip(names, place))
            return f"{name}, {where}: {float(one[place]):.9g} and {float(other[place]):.9g}, {len(differ):,} in all"
    return ""


def _bits(tensor: Tensor) -> Tensor:
    import torch

    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def _difference(case: Case, inputs: Inputs, outputs: Outputs, again: Outputs) -> str:
    """As `first_difference`. Raises ContractError where a further call breaks the contract that the first one kept."""
    check_contract(case, inputs, again)
    return first_difference(outputs, again)


def repeat_check(
    case: Case,
    backend: Base,
    inputs: Inputs,
    outputs: Outputs,
    repeats: int,
    alive: Callable[[], None] = lambda: None,
) -> tuple[Check, int]:
    """`repeats` further calls of one `prepare` against the first outputs, and how many there was time for: after
    REPEATS_AT_LEAST they end once REPEATS_S are over. alive: called ahead of each."""
    alive()
    call, end = backend.prepare(case, inputs), time.monotonic() + REPEATS_S
    differences: list[str] = []
    while len(differences) < repeats:
        if len(differences) >= REPEATS_AT_LEAST and time.monotonic() > end:
            break
        alive()
        differences.append(_difference(case, inputs, outputs, call()))
    return _counted(REPEATS_DIFFER, differences), len(differences)


def stream_check(case: Case, backend: Base, inputs: Inputs, outputs: Outputs) -> Check:
    """On a stream of its own; on the CPU, which has none, from another thread."""
    import torch

    call = backend.prepare(case, inputs)
    if not inputs.q.is_cuda:
        difference = _difference(case, inputs, outputs, _in_thread(call))
        return _counted(THREADS_DIFFER, [difference])
    stream = torch.cuda.Stream(inputs.q.device)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = call()
    torch.cuda.current_stream().wait_stream(stream)
    return _counted(STREAMS_DIFFER, [_difference(case, inputs, outputs, other)])


def _in_thread(call: Call) -> Outputs:
    answer: list[Outputs] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            answer.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return answer[0]


def pressure_check(case: Case, backend: Base, inputs: Inputs, outputs: Outputs) -> Check:
    """In memory that others have used and left full of NaN, in pieces."""
    import torch

    blocks = [torch.full_like(outputs.out, float("nan")) for _ in range(PRESSURE_BLOCKS)]
    del blocks[::2]
    difference = _difference(case, inputs, outputs, backend.prepare(case, inputs)())
    return _counted(MEMORY_DIFFERS, [difference])


def process_check(folder: Path, backend: Base, outputs: Outputs) -> Check:
    """Against the outputs that another process left in `folder`; the first one leaves its own there."""
    import torch

    path = folder / f"{zlib.crc32(backend.name.encode())}.pt"
    if not path.exists():
        torch.save([None if x is None else x.cpu() for x in (outputs.out, outputs.lse)], path)
        return _counted(PROCESSES_DIFFER, [])
    first = Outputs(*torch.load(path, weights_only=True))
    here = Outputs(outputs.out.cpu(), None if outputs.lse is None else outputs.lse.cpu())
    return _counted(PROCESSES_DIFFER, [first_difference(first, here)])


def _counted(rule: str, differences: list[str]) -> Check:
    found = [difference for difference in differences if difference]
    return Check(rule, len(found), 0, not found, found[0] if found else "")


def repeatable(backend: Base) -> bool:
    """Whether the outputs of the forward pass are declared to be the same bits every time."""
    declared = backend.deterministic
    return bool(declared) if isinstance(declared, bool) else not declared & {"out", "lse"}
