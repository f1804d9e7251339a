"""What is asked of a judge: which kernel, on which cases, beside which backend; and the request that answers it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

from attnbench.backends import builtin
from attnbench.errors import UserError
from attnbench.messages import TRUSTED, UNTRUSTED
from attnbench.plugins import announced_names, check_spec, split_spec
from attnbench.records.store import refuse_occupied
from attnbench.run.process import RunError
from attnbench.run.runner import RESULTS, Course, Progress, Request, choose_device, unknown_backend
from attnbench.run.supervisor import SEEDS
from attnbench.suite.load import load_suite, with_overrides
from attnbench.suite.suite import Suite

SUITE = "quick"
# A loop waits for every answer: a call that does not return is told after so long, not after the 120 s of a run.
TIMEOUT_S = 30.0


class JudgeError(UserError):
    """A question that cannot be put; the message names the thing and the way out."""


@dataclass(frozen=True)
class Question:
    """candidate: FILE, FILE:function or module:function. against: the backend to be faster than; None: the fastest
    stock one. plugins: kernels that `against` may name. interpret: the mode of interpreters ("auto", "hlo", "tpu"), ""
    for none. trusted: it may share the judge's process. out: the run directory, None for one under results/. seed: the
    run's; None: drawn.
    """

    candidate: str
    suite: str = SUITE
    against: str | None = None
    interpret: str = ""
    trusted: bool = False
    device: str = "auto"
    out: Path | None = None
    timeout_s: float = TIMEOUT_S
    budget_s: float | None = None
    seed: int | None = None
    plugins: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The device: an interpreter's is the CPU. Raises RunError for a name that is no device."""
        return choose_device("cpu" if self.interpret and self.device == "auto" else self.device)

    @property
    def trust(self) -> str:
        return UNTRUSTED if not self.trusted and not self.why_trusted else TRUSTED

    @property
    def why_trusted(self) -> str:
        """Why it shares the judge's process though nobody asked for that; "" where it does not, or was asked to.

        NOTE: the one place that knows when a run can be untrusted.
        """
        if self.trusted:
            return ""
        if self.interpret:
            return "judged in the trusted mode: interpreters watch a kernel from within its process"
        if self.place != "cpu":
            return "judged in the trusted mode: a process of its own for the candidate is for the CPU only so far"
        return ""


@dataclass(frozen=True)
class Prepared:
    """A question whose names are known: the request, and the suite that its cases come from as the user names it."""

    question: Question
    request: Request
    course: Course = field(repr=False)

    @property
    def suite(self) -> Suite:
        return self.request.suite

    @property
    def seed(self) -> int:
        assert self.request.seed is not None, "`prepared` draws one"
        return self.request.seed


def prepared(question: Question, course: Course, progress: Progress) -> Prepared:
    """Raises a user error for what can be told without running anything."""
    for spec in (question.candidate, *question.plugins):
        check_spec(spec)
    device = question.place
    if question.against is not None:
        _check_incumbent(question.against, question.plugins, device)
    suite = with_overrides(load_suite(question.suite), timing={"timeout_s": question.timeout_s})
    out = next(_folders(suite.name)) if question.out is None else question.out
    refuse_occupied(out)
    request = Request(
        replace(suite, backends=None, emulated=False),
        device,
        out,
        progress,
        (question.candidate, *question.plugins),
        interpret=question.interpret,
        budget_s=question.budget_s,
        seed=secrets.randbelow(SEEDS) if question.seed is None else question.seed,
        course=course,
        trust=question.trust,
    )
    return Prepared(question, request, course)


def _check_incumbent(name: str, specs: Sequence[str], device: str) -> None:
    """Raises RunError for a backend that there is not, and JudgeError for one that cannot run here, as far as that can
    be told without importing plugins."""
    known = builtin()
    if name not in known:
        if name not in announced_names(specs) and all(split_spec(spec)[1] for spec in specs):
            raise RunError(f"--against: {unknown_backend(name, (*known, *announced_names(specs)))}")
        return
    kind, backend = device.split(":")[0], known[name]
    reason = backend.unavailable()
    if reason is None and kind not in backend.devices:
        reason = f"it runs on {', '.join(backend.devices)} only, not on {kind}"
    if reason is not None:
        raise JudgeError(f"--against {name}: it cannot run here: {reason}")


def _folders(suite: str) -> Iterator[Path]:
    """Free ones: a loop may ask twice in a second."""
    stem = RESULTS / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-judge-{suite}"
    names = chain([stem], (Path(f"{stem}.{number}") for number in count(2)))
    return (path for path in names if not path.exists())
