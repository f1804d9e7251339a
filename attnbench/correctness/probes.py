"""Probes: problems with a known answer, posed beside a case's own, at its shape and in its dtype.

A suite asks for them by `checks: {probes: all}` or by name. Three kinds: other inputs (`distributions`, judged against
their own oracle and by their own rule), the same problem put differently (`relations`, judged against the case's own
oracle), and extreme descales. A probe that passes leaves its most strained check on the record, one that fails all
that failed; the names of checks begin with the probe's.

Method: metamorphic testing (Chen, Cheung and Yiu, HKUST-CS98-01) where no oracle is needed, an exact oracle elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from attnbench.backend import Base, Inputs, Outputs
from attnbench.case import Case
from attnbench.correctness.batches import batch_checks
from attnbench.correctness.broadcast import broadcast
from attnbench.correctness.determinism import pressure_check, repeatable, stream_check
from attnbench.correctness.merged import first_keys, halves, merged, merged_attention
from attnbench.correctness.relations import RELATIONS
from attnbench.records.record import V_DESCALE_ZERO, Accuracy, Check
from attnbench.reference.distributions import PROBE_INPUTS

if TYPE_CHECKING:
    from attnbench.reference.oracle import Reference


# Their numbers leave fp16: heads of a millionth are below it, v of 448 times a weight is not.
NOT_IN_FP16 = ("fp8_descales",)
# Rises by less than what 8 bits tell apart.
NOT_IN_8_BITS = ("v_trend",)
# Ahead of the rules of a call on other numbers in the memory of the checked ones, which ends what is not timed.
IN_PLACE = "fresh_inputs_in_place"
# What a refusal of strides and places may be raised as.
REFUSALS = (ValueError, RuntimeError, NotImplementedError, AssertionError)
RECHECK_SET = 1  # its input set, and that of the recheck after timing
FRESH_SET = 2  # an input set that none of these uses


class ProbeContext(Protocol):
    """What a probe may ask of a trial; `attnbench.worker.trial.LiveProbeContext` answers in the worker."""

    @property
    def case(self) -> Case: ...

    @property
    def reference(self) -> Reference: ...

    def posed(self, case: Case, input_set: int = 0, inputs: Inputs | None = None) -> Reference:
        """The reference of another case, of another input set, or of these very inputs."""

    def called(self, case: Case, inputs: Inputs, backend: Base) -> Outputs:
        """The outputs of one call; raises ContractError where they are not what the case asks for."""

    def judged(self, reference: Reference, backend: Base, outputs: Outputs) -> Accuracy: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """cannot: why it has no meaning for a case, or None. run: its checks; none where the backend takes no such case."""

    name: str
    about: str
    cannot: Callable[[Case], str | None]
    run: Callable[[ProbeContext, Base], Sequence[Check]]


def run_probes(names: Sequence[str], context: ProbeContext, backend: Base) -> Iterator[Check]:
    """The checks of the named probes that apply to the case and that the backend takes. ("all",): every probe."""
    for name in probe_names(names):
        probe = PROBES[name]
        if probe.cannot(context.case) is None:
            with _named(name):
                yield from kept(name, probe.run(context, backend))


def probe_names(names: Sequence[str]) -> Sequence[str]:
    return tuple(PROBES) if tuple(names) == ("all",) else tuple(names)


def kept(name: str, checks: Sequence[Check]) -> list[Check]:
    """All that failed; where none did, the one nearest to its limit."""
    failed = [check for check in checks if not check.passed]
    if checks and not failed:
        failed = [max(checks, key=lambda check: check.value / check.limit if check.limit else 0.0)]
    return [replace(check, rule=f"{name}: {check.rule}") for check in failed]


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the probe's name before the text of whatever is raised inside."""
    try:
        yield
    except Exception as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (f"in probe {name}: {error.args[0]}", *error.args[1:])
        raise


def _judge_inputs(context: ProbeContext, backend: Base, reference: Reference) -> Sequence[Check]:
    if backend.unsupported(reference.case) is not None:
        return ()
    outputs = context.called(reference.case, reference.inputs, backend)
    return context.judged(reference, backend, outputs).checks


def _of_inputs(name: str, about: str) -> Probe:
    def cannot(case: Case) -> str | None:
        if case.inputs == name:
            return "these are the case's own inputs"
        if case.is_fp8 and name in NOT_IN_8_BITS:
            return "8 bits hold no such rise"
        return "its numbers leave fp16" if case.dtype == "fp16" and name in NOT_IN_FP16 else None

    def run(context: ProbeContext, backend: Base) -> Sequence[Check]:
        return _judge_inputs(context, backend, context.posed(replace(context.case, inputs=name)))

    return Probe(name, about, cannot, run)


def _fresh(context: ProbeContext, backend: Base) -> Sequence[Check]:
    return _judge_inputs(context, backend, context.posed(context.case, FRESH_SET))


def _anywhere(case: Case) -> str | None:
    return None


def _refused(error: Exception) -> Check:
    """A check that passed, unless the error is the device's, which is no refusal."""
    if "CUDA error" in str(error):
        raise error
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Check(f"refused: {lines[0][:80]}", 0, 0, True)


def _of_relation(
    name: str,
    about: str,
    cannot: Callable[[Case], str | None] = _anywhere,
    may_refuse: bool = False,
) -> Probe:
    def run(context: ProbeContext, backend: Base) -> Sequence[Check]:
        changed = RELATIONS[name](context.case, context.reference.inputs)
        if backend.unsupported(changed.case) is not None:
            return ()
        try:
            outputs = context.called(changed.case, changed.inputs, backend)
        except REFUSALS as error:
            if not may_refuse:
                raise
            return (_refused(error),)
        return context.judged(context.reference, backend, changed.undo(outputs)).checks

    return Probe(name, about, cannot, run)


def _alone(case: Case) -> str | None:
    return "it has one head and one batch element" if case.num_heads == case.batch == 1 else None


def _broadcast(context: ProbeContext, backend: Base) -> Sequence[Check]:
    """Each against its own oracle; a backend may refuse a stride of 0."""
    checks: list[Check] = []
    for case, inputs in broadcast(context.case, context.reference.inputs):
        if backend.unsupported(case) is not None:
            continue
        reference = context.posed(case, inputs=inputs)
        try:
            outputs = context.called(case, inputs, backend)
        except REFUSALS as error:
            checks.append(_refused(error))
            continue
        checks += context.judged(reference, backend, outputs).checks
    return checks


def _one_row(case: Case) -> str | None:
    return "no tensor has a second row" if case.batch == case.seqlen_q == case.seqlen_k == 1 else None


def _no_groups(case: Case) -> str | None:
    return "every query head has its own key and value" if case.num_heads == case.num_heads_kv else None


def _no_halves(case: Case) -> str | None:
    if case.causal:
        return "its mask hides other keys in each half"
    return None if 0 < first_keys(case) < case.seqlen_k else "there are no two halves of the keys"


def _lse_merged(context: ProbeContext, backend: Base) -> Sequence[Check]:
    """Each half against its own oracle; where both are right, both together against that of the case."""
    whole, parts = context.reference, halves(context.case, context.reference.inputs)
    if any(backend.unsupported(case) is not None for case, _ in parts):
        return ()
    first, second = (context.called(case, inputs, backend) for case, inputs in parts)
    if first.lse is None or second.lse is None:
        return ()
    posed = [context.posed(case, inputs=inputs) for case, inputs in parts]
    for reference, outputs in zip(posed, (first, second)):
        checks = context.judged(reference, backend, outputs).checks
        if not all(check.passed for check in checks):
            return checks
    budgets = {name: merged_attention([half.eager(name) for half in posed], first.out) for name in whole.budgets}
    return context.judged(replace(whole, budgets=budgets), backend, merged(first, second)).checks


def _not_fp8(case: Case) -> str | None:
    return None if case.is_fp8 else f"{case.dtype} has no descales"


def _zero_descales(context: ProbeContext, backend: Base) -> Iterator[Check]:
    """q_descale 0: all logits 0, the output is the mean of v. v_descale 0: the output is 0 everywhere."""
    inputs = context.reference.inputs
    if backend.own_quantizer:
        return
    quantized = inputs.quantized
    assert quantized is not None, "`_not_fp8` refuses cases without descales"
    flat = replace(inputs, quantized=replace(quantized, q_descale=quantized.q_descale * 0))
    yield from _judge_inputs(context, backend, context.posed(context.case, inputs=flat))
    nothing = replace(inputs, quantized=replace(quantized, v_descale=quantized.v_descale * 0))
    out = context.called(context.case, nothing, backend).out
    wrong = int((out != 0).sum())
    yield Check(V_DESCALE_ZERO, wrong, 0, wrong == 0)


def _same_bits(
    check: Callable[[Case, Base, Inputs, Outputs], Check],
) -> Callable[[ProbeContext, Base], Sequence[Check]]:
    def run(context: ProbeContext, backend: Base) -> Sequence[Check]:
        if not repeatable(backend):
            return ()
        inputs = context.reference.inputs
        return (check(context.case, backend, inputs, context.called(context.case, inputs, backend)),)

    return run


def _batches(context: ProbeContext, backend: Base) -> Sequence[Check]:
    if not repeatable(backend) or backend.batch_invariant is False:
        return ()
    called = partial(context.called, backend=backend)
    return batch_checks(context.case, context.reference.inputs, backend, called)


# What a probe alone tells that fails where the case's own numbers, in their own places, came out right.
BLAMES: Mapping[str, str] = {
    "half_scale": "scale: right with the case's softmax_scale, wrong with half of it",
    "permuted": "order: right as it is, wrong with batch elements and heads in reverse",
    "gqa_dense": "groups: right with fewer key/value heads, wrong with one a query head",
    "strided": "strides: right with rows before heads in memory, wrong with heads before rows",
    "layouts": "strides: right where q, k and v lie alike, wrong where each lies in an order of its own",
    "broadcast": "strides: wrong where a stride is 0, for heads or for batch elements",
    "misaligned": "alignment: wrong where tensors start at odd elements",
    "far_apart": "offsets: wrong where rows lie more than 2^31 elements apart, as of 32-bit offsets",
    "guarded": "bounds: what lies beside the tensors reaches the output",
    "padded": "bounds: it reads past the end of each sequence, and what lies there reaches the output",
    "used_memory": "memory that nobody initialized reaches the output",
    "batch_invariant": "batch: what else is in a batch, or the place in it, decides how keys are split or summed",
    "other_stream": "it works on a stream or thread of its own, and nobody waits for it",
}

PROBES: Mapping[str, Probe] = {
    probe.name: probe
    for probe in (
        _of_inputs("outliers", "N(0, 1) with rare large entries"),
        _of_inputs("sink", "a first key that collects most of the weight"),
        _of_inputs("large_logits", "scaled logits up to about 1000"),
        _of_inputs("rising", "a new running maximum in every key tile"),
        _of_inputs("falling", "the first tile's maximum must survive"),
        *(_of_inputs(name, inputs.about) for name, inputs in PROBE_INPUTS.items()),
        _of_relation("v_small", "v about 1e-4 times as large: so must the output be"),
        _of_relation("v_large", "v about 1e4 times as large: so must the output be"),
        _of_relation("half_scale", "softmax_scale halved and q doubled: the same logits", may_refuse=True),
        _of_relation("permuted", "batch elements and heads in reverse order"),
        _of_relation("gqa_dense", "key/value heads written out, one a query head", _no_groups),
        _of_relation("strided", "heads before rows in memory", may_refuse=True),
        _of_relation("layouts", "q, k and v each in an order of its own in memory", may_refuse=True),
        Probe("broadcast", "k and v of one head, or one batch element, for all: strides of 0", _alone, _broadcast),
        _of_relation("misaligned", "tensors that start at odd elements", may_refuse=True),
        _of_relation("far_apart", "rows more than 2^31 elements apart in memory", _one_row, may_refuse=True),
        _of_relation("guarded", "NaN before and after each tensor"),
        _of_relation("padded", "NaN after each sequence", may_refuse=True),
        Probe("lse_merged", "two halves of the keys, merged by their lse, are the whole", _no_halves, _lse_merged),
        Probe("descale_zero", "q_descale 0 gives the mean of v, v_descale 0 gives 0", _not_fp8,
              lambda context, backend: tuple(_zero_descales(context, backend))),
        Probe("batch_invariant", "the same bits alone, in a batch and elsewhere in it (where declared; else told)",
              _anywhere, _batches),
        Probe("other_stream", "the same bits on another stream (on the CPU: another thread)", _anywhere,
              _same_bits(stream_check)),
        Probe("used_memory", "the same bits in memory that others left full of NaN", _anywhere,
              _same_bits(pressure_check)),
        Probe("fresh_inputs", "other numbers than before: an answer kept from an earlier call is wrong", _anywhere,
              _fresh),
    )
}  # fmt: skip
