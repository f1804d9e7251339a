"""What a record says beside its verdict: which checks failed, in one line, and what it is stamped with."""

from __future__ import annotations

import math

from attnbench.backend import Base
from attnbench.case import Case
from attnbench.records.record import (
    BATCH_TOLD,
    LIKELY_CAUSE,
    LSE_LIMIT,
    LSE_VALUE,
    NO_ANSWER,
    RELATIVE_RMSE,
    Accuracy,
)
from attnbench.reference.oracle import TF32
from attnbench.settings import Factors

# RMS of an 8-bit answer's error over the RMS of the right answer, beyond which it is no answer: half.
NOTHING_TO_DO_WITH_IT = 0.5


def failures_told(accuracy: Accuracy) -> str:
    """What failed on the case's own inputs, and how many probes beside it; else the probes that failed."""
    failures = accuracy.failures
    own = [check for check in failures if ": " not in check.rule]
    posed = [check for check in failures if ": " in check.rule]
    if not own or not posed:
        return "; ".join(map(str, failures))
    names = tuple(dict.fromkeys(check.rule.partition(":")[0] for check in posed))
    worst = max(posed, key=lambda check: check.value / check.limit if check.limit else check.value)
    also = f"{len(names)} {'probe fails' if len(names) == 1 else 'probes fail'} as well, worst in {worst}"
    return "; ".join((*map(str, own), also))


def reason_of(accuracy: Accuracy, cause: str) -> str:
    """Of an incorrect record: what failed, the likely cause, the error map."""
    reason = failures_told(accuracy) + (LIKELY_CAUSE + cause if cause else "")
    return "\n".join((reason, *accuracy.error_map))


def fp8_warnings(accuracy: Accuracy) -> tuple[str, ...]:
    """An 8-bit answer that is far from the one asked for is stamped, however right the kernel is."""
    far = {name: accuracy.values.get(name, 0.0) for name in ("e2", "e3")}
    beyond = [f"{name.upper()} {value:.2g}" for name, value in far.items() if not value <= NOTHING_TO_DO_WITH_IT]
    if not beyond:
        return ()
    return (
        f"{NO_ANSWER}: {', '.join(beyond)}, bound {NOTHING_TO_DO_WITH_IT:g} "
        "(E2 quantization, E3 end to end, relative to the right answer); the scheme cannot hold these inputs",
    )


def accumulator_warnings(backend: Base, accuracy: Accuracy) -> tuple[str, ...]:
    """A kernel that is right by the accumulator it declares, and would not be by fp32's, is stamped."""
    declared, values = backend.accumulator, accuracy.values
    if declared == "fp32" or "e1" not in values:
        return ()
    limit = Factors().fp8 * values["e1_emulated"]
    if values["e1"] <= limit:
        return ()
    return (f"E1 {values['e1']:.3g} is over {limit:.3g}, the limit with fp32 accumulation; it declares {declared}",)


def declared_warnings(backend: Base, case: Case, accuracy: Accuracy) -> tuple[str, ...]:
    """A kernel that is held against fewer digits than others of its dtype are, as it declares, is stamped."""
    found, values = [], accuracy.values
    if case.dtype == "fp32" and backend.accumulator == TF32:
        found.append("it declares tf32: its limits are those of factors with 10 fraction bits, not of fp32")
    exact = values.get("exact_scores_rmse")
    rmse = next((check.value for check in accuracy.checks if check.rule == RELATIVE_RMSE), None)
    if exact is not None and rmse is not None:
        trait, limits = ("scores_int8", "8-bit integers") if backend.scores_int8 else ("scores_16bit", "rounded scores")
        words = f"it declares {trait}: relative RMSE {rmse:.3g}, and {exact:.3g} with exact scores"
        found.append(f"{words}; its limits are those of {limits}")
    limit = values.get(LSE_LIMIT)
    if limit is not None and not values.get(LSE_VALUE, math.inf) <= limit:
        error = f"{values[LSE_VALUE]:.3g}" if LSE_VALUE in values else "not finite, or finite where it must not be"
        found.append(f"its lse is for information only, as it declares: off by {error}, where {limit:.3g} is the limit")
    return tuple(found)


def batch_warnings(accuracy: Accuracy) -> tuple[str, ...]:
    """A kernel whose bits depend on the batch, and which does not say whether they may."""
    for check in accuracy.checks:
        if check.rule.endswith(BATCH_TOLD) and check.value > 0:
            return (f"its bits depend on the batch, and it declares nothing of it (batch_invariant): {check.where}",)
    return ()


def stamps(backend: Base, case: Case, accuracy: Accuracy) -> tuple[str, ...]:
    of_declared = (*accumulator_warnings(backend, accuracy), *declared_warnings(backend, case, accuracy))
    return (*of_declared, *fp8_warnings(accuracy), *batch_warnings(accuracy))
