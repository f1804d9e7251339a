"""Is a sequence's answer the same bits whatever its batch holds beside it, and wherever it stands there?

Reproducible serving asks for it: what a request is answered must not depend on who else asks at the time. A kernel that
splits keys, or chooses tiles, by the size of the batch sums in another order there, which is right and other bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from attnbench.backend import Base, Inputs, Outputs, Quantized
from attnbench.case import Case
from attnbench.correctness.determinism import first_difference
from attnbench.records.record import BATCH_DIFFERS, BATCH_TOLD, Check

if TYPE_CHECKING:
    from torch import Tensor


# A sequence that is alone in its case is put into a batch of so many copies.
COPIES = 3


class Elsewhere(NamedTuple):
    """Sequences of a case in another batch. places: (batch element of the case, that element's place here)."""

    words: str
    case: Case
    inputs: Inputs
    places: tuple[tuple[int, int], ...]


def elsewhere(case: Case, inputs: Inputs) -> Iterator[Elsewhere]:
    """The last sequence alone, and all of them one place further; one that is alone, in a batch."""
    if case.batch == 1:
        copies = picked(case, inputs, [0] * COPIES)
        places = tuple((0, place) for place in range(COPIES))
        yield Elsewhere(f"in a batch of {COPIES}", replace(case, batch=COPIES), copies, places)
        return
    last = case.batch - 1
    yield Elsewhere("alone", replace(case, batch=1), picked(case, inputs, [last]), ((last, 0),))
    order = [last, *range(last)]
    places = tuple((element, place) for place, element in enumerate(order))
    yield Elsewhere("at another place of its batch", case, picked(case, inputs, order), places)


def picked(case: Case, inputs: Inputs, elements: Sequence[int]) -> Inputs:
    """These batch elements, in this order."""

    def of(x: Tensor) -> Tensor:
        return x[list(elements)].contiguous()

    def descale(x: Tensor) -> Tensor:
        return x if case.scaling in ("none", "tensor") else of(x)

    held = inputs.quantized
    if held is not None:
        descales = (descale(x) for x in (held.q_descale, held.k_descale, held.v_descale))
        held = Quantized(of(held.q), of(held.k), of(held.v), *descales)
    return Inputs(of(inputs.q), of(inputs.k), of(inputs.v), held)


def batch_checks(
    case: Case, inputs: Inputs, backend: Base, called: Callable[[Case, Inputs], Outputs]
) -> tuple[Check, ...]:
    """Sequences whose bits are others elsewhere. A failure where the backend declares that there are none; where it
    declares nothing it is told. None where it takes no other batch. called: outputs of one call."""
    outputs, compared, differences = None, 0, list[str]()
    for other in elsewhere(case, inputs):
        if backend.unsupported(other.case) is not None:
            continue
        outputs = outputs or called(case, inputs)
        there = called(other.case, other.inputs)
        for element, place in other.places:
            compared += 1
            if found := first_difference(_element(outputs, element), _element(there, place)):
                differences.append(f"batch element {element} {other.words}: {found}")
    if not compared:
        return ()
    count, where = len(differences), differences[0] if differences else ""
    if backend.batch_invariant:
        return (Check(BATCH_DIFFERS, count, 0, count == 0, where),)
    return (Check(BATCH_TOLD, count, compared, True, where),)


def _element(outputs: Outputs, place: int) -> Outputs:
    one = slice(place, place + 1)
    return Outputs(outputs.out[one], None if outputs.lse is None else outputs.lse[one])
