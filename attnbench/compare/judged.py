"""Which rules judged NEW, and at which limits, beside those that judged the baseline.

Limits are made from the inputs and from factors of the suite. Whoever loosens the suite's `checks` makes a wrong kernel
right: so a case that was judged by less than the baseline was is told, and what passes only at its looser limit is
wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attnbench.compare.regressions import Change
from attnbench.records.record import LSE_ERROR, Accuracy, Record

LOOSER = "looser checks"
FULL = "full"
# A limit follows the eager reference's own error, which another version of torch moves by a few percent, and the
# largest error's limit the place where it is: up to this factor it is the same limit. Factors of suites are whole or
# half numbers, the nearest pair of them 1.5 and 2.
SAME_LIMIT = 1.25
# Rules named so that more are told in a line than this would hide the rest of what came up.
NAMED = 3


def judged_by_less(base: Sequence[Record], new: Sequence[Record], wrong: str) -> Iterator[Change]:
    """What a right NEW was judged by less than every right record of the baseline.

    wrong: the kind of change that an error beyond the baseline's limit is, whatever limit it passed.
    """
    before = [record.accuracy for record in base if record.status == "ok" and record.accuracy]
    if not before:
        return
    for record in new:
        if record.status == "ok" and record.accuracy:
            yield from _beyond(before, record.accuracy, wrong)
            yield from _less(before, record.accuracy)


def _beyond(before: Sequence[Accuracy], now: Accuracy, wrong: str) -> Iterator[Change]:
    limits = _limits(before)
    for check in now.checks:
        limit = limits.get(check.rule)
        if limit is not None and check.value > SAME_LIMIT * limit:
            said = f"passes a limit of {check.limit:.3g}, and the baseline was held to {limit:.3g}"
            yield Change(wrong, f"{check.rule} {check.value:.3g} {said}")


def _less(before: Sequence[Accuracy], now: Accuracy) -> Iterator[Change]:
    limits, here = _limits(before), {check.rule for check in now.checks}
    always = set.intersection(*({check.rule for check in accuracy.checks} for accuracy in before))
    left_out = [check.rule for check in before[0].checks if check.rule in always - here]
    if left_out:
        yield Change(LOOSER, f"not judged by {_named(dict.fromkeys(left_out))}, as the baseline was")
    looser = [check for check in now.checks if check.limit > SAME_LIMIT * limits.get(check.rule, check.limit)]
    if looser:
        words = (f"{check.rule} {check.limit:.3g} ({limits[check.rule]:.3g} in the baseline)" for check in looser)
        yield Change(LOOSER, f"held to looser limits: {_named(dict.fromkeys(words))}")
    if now.coverage != FULL and all(accuracy.coverage == FULL for accuracy in before):
        yield Change(LOOSER, f"{now.rows:,} query rows were judged, and all of them in the baseline")


def _limits(before: Sequence[Accuracy]) -> dict[str, float]:
    """The loosest limit of every rule. NOTE: without LSE's, which is that of the row where the error was largest."""
    found: dict[str, float] = {}
    for accuracy in before:
        for check in accuracy.checks:
            if not check.rule.endswith(LSE_ERROR):
                found[check.rule] = max(check.limit, found.get(check.rule, check.limit))
    return found


def _named(words: dict[str, None]) -> str:
    listed = list(words)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more
