"""`attnbench.check` and `attnbench.cases`: judge a kernel from anybody's pytest, in the test's own process."""

from __future__ import annotations

import contextlib
import re
import sys
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from attnbench.backend import Backend, Base, completed
from attnbench.case import Case
from attnbench.plugins import FunctionBackend
from attnbench.records.record import Record
from attnbench.settings import Checks, Emulation, Timing
from attnbench.suite.load import load_suite, with_overrides
from attnbench.suite.suite import Job, parse_only

# Causes of which a message shows a case in full; the rest are counted.
SHOWN = 3
KEYS_LISTED = 12
# How an error map's first line begins (`correctness.diagnose`), which explains its signs; once a message is enough.
LEGEND = "error by head and tile"


@dataclass(frozen=True)
class SuiteCase:
    """One case of a suite, to be judged by a test of its own. pytest names the test by the case's key."""

    suite: str
    job: Job

    @property
    def case(self) -> Case:
        return self.job.case

    @property
    def __name__(self) -> str:  # what pytest makes the id of a parameter of
        return self.job.case.key

    def __repr__(self) -> str:
        return self.job.case.key


def cases(suite: str = "edges", *, only: Mapping[str, Any] | None = None) -> list[SuiteCase]:
    """The cases of a suite (a shipped name or a file) for `pytest.mark.parametrize`: one test a case, named by its key.

    only: keeps the cases whose fields have these values, such as {"dtype": "bf16", "head_dim": [64, 128]}. Each goes
    to `check` as its second argument. A key that two groups of a suite share cannot be: a suite has no case twice.
    """
    return [SuiteCase(suite, job) for job in _jobs(suite, only)]


def check(
    kernel: Callable[..., Any] | Backend,
    suite: str | SuiteCase | Case = "edges",
    *,
    only: Mapping[str, Any] | None = None,
    device: str = "cpu",
    deterministic: bool = True,
    interpret: bool | str = False,
) -> list[Record]:
    """Judges `kernel` on every case of a suite (a shipped name or a file), or on one case; nothing is timed.

    kernel: function(q, k, v, *, causal, softmax_scale) -> out or (out, lse), tensors (batch, seqlen, heads, head_dim),
    or an object with the members of `attnbench.Backend`. only: keeps the cases whose fields have these values, such as
    {"dtype": "bf16", "head_dim": [64, 128]}. device: "cpu", "cuda" or "cuda:1". deterministic: whether a function
    repeats bit for bit. interpret: its Triton or Pallas kernels run in an interpreter on the CPU
    (docs/how-to/triton.md); "hlo" or "tpu" names the one for Pallas.

    Returns the records. Raises AssertionError that says which cases failed, by which rule, where, and the likely cause;
    also when the kernel took no case at all, since nothing was checked then. Of one case that it does not take, the
    test is skipped with the reason. What the kernel prints is printed, below a line with the case's key. A kernel that
    crashes takes the test's process with it: `attnbench run --plugin` does not.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line
    backend = completed(kernel) if isinstance(kernel, Backend) else _function(kernel, deterministic)
    if interpret:
        from attnbench.interpreters.session import Session

        backend = Session("auto" if interpret is True else interpret).backend(backend)
    if isinstance(suite, str):
        jobs, name = _jobs(suite, only), f"suite {suite}"
    elif only:
        raise TypeError("only= chooses among the cases of a suite; one case was given")
    else:
        jobs, name = [_job(suite)], ""
    records = []
    for job in jobs:
        with _prints_of(job.case.key) if name else contextlib.nullcontext():
            records.append(_record(job, backend, device))
    if not name and records[0].status == "unsupported":
        raise unittest.SkipTest(f"{backend.name}: {records[0].reason}")  # pytest reports it as skipped, with the reason
    message = failure_message(backend.name, name, records)
    if message:
        raise AssertionError(message)
    return records


def _job(given: SuiteCase | Case) -> Job:
    """Of a case that stands in no suite: with the default checks."""
    if isinstance(given, SuiteCase):
        return given.job
    return Job(given, "", time=False, timing=Timing(), checks=Checks(), emulation=Emulation())


@contextlib.contextmanager
def _prints_of(key: str) -> Iterator[None]:
    """What is printed meanwhile goes where it went, below a line with the case's key."""
    if sys.stdout is None:
        yield
        return
    with contextlib.redirect_stdout(_Headed(sys.stdout, f"-- {key}\n")):
        yield


class _Headed:
    """A text stream that writes a line ahead of the first text."""

    def __init__(self, stream: IO[str], head: str):
        self._stream, self._head = stream, head

    def write(self, text: str) -> int:
        head, self._head = self._head, ""
        self._stream.write(head)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


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
    from attnbench.worker.phases import Phases
    from attnbench.worker.problem import Problem
    from attnbench.worker.trial import run_trial

    place = "cuda:0" if device == "cuda" else device
    return run_trial(Problem(job.case, place, job.checks, job.timing, 0, Phases()), backend, timed=False)


def failure_message(name: str, suite: str, records: Sequence[Record]) -> str:
    """What an AssertionError says; "" where every case that the kernel took is right, and it took one.

    suite: "suite edges"; "" of a single case. Cases of one cause are told once: the first in full, the others by key.
    """
    taken = [record for record in records if record.status != "unsupported"]
    if not taken:
        reasons = "; ".join(dict.fromkeys(record.reason for record in records))
        return f"{name}: {suite} checked nothing, the kernel took none of {len(records)} cases: {reasons}"
    failed = [record for record in taken if record.status != "ok"]
    if not failed:
        return ""
    if not suite:
        return "\n".join((f"{name}: {_headline(failed[0])}", *_body(failed[0])))
    by_cause: dict[str, list[Record]] = {}
    for record in failed:
        by_cause.setdefault(re.sub(r"\d+", "#", _cause(record)), []).append(record)
    lines = [f"{name}: {len(failed)} of {len(taken)} cases of {suite} failed"]
    legends: set[str] = set()
    for alike in list(by_cause.values())[:SHOWN]:
        first, cause = alike[0], _cause(alike[0])
        lines += ["", f"{_counted(len(alike))}: {cause}", _headline(first) if first.likely_cause else first.case_key]
        lines += [line for line in _body(first, cause) if line not in legends]
        legends.update(line for line in lines if LEGEND in line)
        lines += _others(alike[1:])
    if len(by_cause) > SHOWN:
        rest = [record for alike in list(by_cause.values())[SHOWN:] for record in alike]
        lines += ["", f"{_counted(len(rest))}: {len(by_cause) - SHOWN} more causes", *_others(rest)]
    return "\n".join(lines)


def _counted(number: int) -> str:
    return f"{number} {'case' if number == 1 else 'cases'}"


def _cause(record: Record) -> str:
    """What cases that failed alike share, but for numbers in it: the likely cause, or what the kernel raised."""
    if record.likely_cause:
        return f"likely cause: {record.likely_cause}"
    told = "no likely cause found" if record.status == "incorrect" else record.reason.partition("\n")[0]
    return f"{record.kind or record.status}: {told}"


def _headline(record: Record) -> str:
    return f"{record.case_key}: {record.kind or record.status}"


def _body(record: Record, cause: str = "") -> Iterator[str]:
    """The reason's lines, without what the line on the cause has said already."""
    for line in record.reason.splitlines():
        left = "" if cause.endswith(f": {line}") else line.removesuffix(f"; {cause}")
        if left:
            yield f"  {left}"


def _others(records: Sequence[Record]) -> Iterator[str]:
    keys = [record.case_key for record in records]
    more = len(keys) - KEYS_LISTED
    if keys:
        yield "also: " + ", ".join(keys[:KEYS_LISTED]) + (f" and {more} more" if more > 0 else "")
