"""`attnbench.check`: judges a kernel from anybody's pytest, in the test's own process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attnbench.backend import Backend, Base, completed
from attnbench.plugins import FunctionBackend
from attnbench.records.record import Record
from attnbench.suite.load import load_suite, with_overrides
from attnbench.suite.suite import Job, parse_only

# Failures that a message shows in full; the rest are counted.
SHOWN = 3
KEYS_LISTED = 12


def check(
    kernel: Callable[..., Any] | Backend,
    suite: str = "edges",
    *,
    only: Mapping[str, Any] | None = None,
    device: str = "cpu",
    deterministic: bool = True,
) -> list[Record]:
    """Judges `kernel` on every case of a suite (a shipped name or a file); nothing is timed.

    kernel: function(q, k, v, *, causal, softmax_scale) -> out or (out, lse), tensors (batch, seqlen, heads, head_dim),
    or an object with the members of `attnbench.Backend`. only: keeps the cases whose fields have these values, such as
    {"dtype": "bf16", "head_dim": [64, 128]}. device: "cpu", "cuda" or "cuda:1". deterministic: whether a function
    repeats bit for bit.

    Returns the records. Raises AssertionError that says which cases failed, by which rule, where, and the likely cause;
    also when the kernel took no case at all, since nothing was checked then. A kernel that crashes takes the test's
    process with it: `attnbench run --plugin` does not.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line
    backend = completed(kernel) if isinstance(kernel, Backend) else _function(kernel, deterministic)
    records = [_record(job, backend, device) for job in _jobs(suite, only)]
    message = failure_message(backend.name, suite, records)
    if message:
        raise AssertionError(message)
    return records


def _function(kernel: Callable[..., Any], deterministic: bool) -> Base:
    name = getattr(kernel, "__name__", type(kernel).__name__)
    return FunctionBackend(name, kernel, source="a function", deterministic=deterministic)


def _jobs(suite: str, only: Mapping[str, Any] | None) -> Sequence[Job]:
    loaded = load_suite(suite)
    if only:
        kept = tuple(parse_only(f"{name}={_values(value)}") for name, value in only.items())
        loaded = with_overrides(loaded, only=kept)
    return loaded.jobs()


def _values(value: Any) -> str:
    values = value if isinstance(value, (list, tuple, set)) else [value]
    return ",".join(str(item).lower() if isinstance(item, bool) else str(item) for item in values)


def _record(job: Job, backend: Base, device: str) -> Record:
    from attnbench.worker.problem import Phases, Problem
    from attnbench.worker.trial import run_trial

    place = "cuda:0" if device == "cuda" else device
    return run_trial(Problem(job.case, place, job.checks, job.timing, 0, Phases()), backend, timed=False)


def failure_message(name: str, suite: str, records: Sequence[Record]) -> str:
    """What an AssertionError says; "" where every case that the kernel took is right, and it took one."""
    taken = [record for record in records if record.status != "unsupported"]
    if not taken:
        reasons = "; ".join(dict.fromkeys(record.reason for record in records))
        return f"{name}: suite {suite} checked nothing, the kernel took none of {len(records)} cases: {reasons}"
    failed = [record for record in taken if record.status != "ok"]
    if not failed:
        return ""
    lines = [f"{name}: {len(failed)} of {len(taken)} cases of suite {suite} failed"]
    for record in failed[:SHOWN]:
        kind = record.kind or record.status
        lines += ["", f"{record.case_key}: {kind}", *(f"  {line}" for line in record.reason.splitlines())]
    others = [record.case_key for record in failed[SHOWN:]]
    if others:
        more = len(others) - KEYS_LISTED
        lines += ["", "also: " + ", ".join(others[:KEYS_LISTED]) + (f" and {more} more" if more > 0 else "")]
    return "\n".join(lines)
