"""`attnbench repro`: a script that shows one record again, with as little as possible around the kernel.

A plugin function needs torch and its own file only; a built-in backend, and an 8-bit case, also import attnbench.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from attnbench.case import FURTHER_FIELDS, Case, LaterCase
from attnbench.correctness.broadcast import broadcast
from attnbench.correctness.merged import halves, merged
from attnbench.correctness.probes import FRESH_SET, IN_PLACE, RECHECK_SET, REFUSALS
from attnbench.correctness.relations import RELATIONS
from attnbench.errors import suggest
from attnbench.records.record import (
    EMULATED,
    INTERPRETED,
    MEMORY_DIFFERS,
    REPEATS_DIFFER,
    STREAMS_DIFFER,
    THREADS_DIFFER,
    V_DESCALE_ZERO,
    Record,
)
from attnbench.records.store import Run, StoreError, read
from attnbench.reference.distributions import DISTRIBUTIONS
from attnbench.reference.inputs import is_file
from attnbench.repro import judge
from attnbench.repro import templates as text

# Rules about bits that must come again, as `determinism` names them: how the script asks for them, and how often.
AGAIN = {
    REPEATS_DIFFER: ("the same call", "got.append(answer(case, q, k, v))", 20),
    THREADS_DIFFER: ("from another thread", "on_another_stream(got)", 3),
    STREAMS_DIFFER: ("on another stream", "on_another_stream(got)", 3),
    MEMORY_DIFFERS: ("in memory full of NaN", "in_used_memory(got)", 3),
}
IN_PROBE = re.compile(r"in probe (\w+):")
# Keys of a run that are listed where none is near the one that was asked for.
KEYS_LISTED = 20
# Names that the script defines for itself.
OWN = ("Inputs", "Outputs", "Changed", "Quantized", "replace")


def repro_script(run_directory: Path, case_key: str, backend: str) -> str:
    """The script's text. Raises StoreError when the run has no such record, or one of a case that was not taken."""
    return script_of(read(run_directory), case_key, backend)


def script_of(run: Run, case_key: str, backend: str) -> str:
    """The same for a run that was read."""
    run_directory = run.path
    record = next((r for r in run.records if r.case_key == case_key and r.backend == backend), None)
    if record is None:
        keys = {r.case_key for r in run.records}
        if case_key not in keys:
            named = difflib.get_close_matches(case_key, keys, n=1) or sorted(keys)[:KEYS_LISTED]
            raise StoreError(f'{run_directory}: no case "{case_key}"{suggest(case_key, named)}')
        names = [r.backend for r in run.records if r.case_key == case_key]
        raise StoreError(f'{run_directory}: no record of backend "{backend}" for that case{suggest(backend, names)}')
    if isinstance(record.case, LaterCase):
        raise StoreError(f"{run_directory}: {case_key} has fields that are unknown here; {run.later}")
    if not is_file(record.case.inputs) and record.case.inputs not in DISTRIBUTIONS:
        known = suggest(record.case.inputs, DISTRIBUTIONS)
        raise StoreError(f'{run_directory}: {case_key} has inputs "{record.case.inputs}", which nobody can draw{known}')
    if record.status == "unsupported":
        raise StoreError(f"{run_directory}: {backend} did not take that case, so that nothing ran: {record.reason}")
    device = run.environment.get("device") or "cpu"
    interpret = str(run.environment.get("interpret") or "auto")
    return _script(record, device, tuple(run.environment.get("plugins") or ()), interpret)


@dataclass(frozen=True)
class _Problem:
    """What to show: the case, perhaps with a probe's inputs; the probe that poses it otherwise; the limits of rules."""

    case: Case
    probe: str = ""
    limits: dict[str, float] = field(default_factory=dict)


def _failed_problem(record: Record) -> _Problem:
    """The case, or the probe that failed where the case itself passed. A probe leaves its failed checks only."""
    checks = record.accuracy.checks if record.accuracy else ()
    if record.case.calls > 1:
        return _Problem(record.case, "", {check.rule: check.limit for check in checks})
    raised = IN_PROBE.search(record.reason)
    failed = next((check.rule for check in checks if not check.passed), "")
    probe = failed.partition(": ")[0] if ": " in failed else raised[1] if raised else ""
    if not probe:
        return _Problem(record.case, "", {check.rule: check.limit for check in checks if ": " not in check.rule})
    if probe == IN_PLACE:  # only a few of its rows were judged, by limits of their own: those of the first inputs do
        return _Problem(record.case, probe, {check.rule: check.limit for check in checks if ": " not in check.rule})
    limits = {c.rule.removeprefix(f"{probe}: "): c.limit for c in checks if c.rule.startswith(f"{probe}: ")}
    if probe in DISTRIBUTIONS:
        return _Problem(replace(record.case, inputs=probe), "", limits)
    return _Problem(record.case, probe, limits)


def _script(record: Record, device: str, plugins: tuple[str, ...], interpret: str) -> str:
    problem = _failed_problem(record)
    case = problem.case
    interpreted = INTERPRETED in (record.kernel or {})
    spec = next((spec for spec in plugins if spec.endswith(f".py:{record.backend}") and not interpreted), None)
    head = text.HEAD.substitute(
        key=literal(record.case_key),
        backend=literal(record.backend),
        status=literal(record.status if record.kind is None else f"{record.status}: {record.kind}"),
        reason=_lines(record.reason),
        needs="" if spec else ", and attnbench",
        case=literal(case.to_dict()),
        device=literal(device),
        limits=literal({rule: limit for rule, limit in problem.limits.items() if not math.isnan(limit)}),
    )
    if is_file(case.inputs):
        draw = text.LOAD
    else:
        apply = DISTRIBUTIONS[case.inputs].apply
        draw = text.DRAW.substitute(distribution=_source(apply), apply=apply.__name__)
    if spec:
        file, _, function = spec.rpartition(":")
        told = {name: getattr(case, name) for name in FURTHER_FIELDS}
        kernel = text.FUNCTION.substitute(file=literal(file), function=literal(function), told=literal(told))
    else:
        found = {"backend": literal(record.backend), "plugins": literal(list(plugins))}
        if interpreted:
            chosen = text.INTERPRETED.substitute(mode=literal(interpret), **found)
        else:
            chosen = text.CHOSEN.substitute(emulation=_emulation(record.kernel or {}), **found)
        kernel = text.BUILTIN.substitute(chosen=chosen)
    return (head + draw + kernel + _call(problem, standalone=bool(spec)) + _judging(problem)).rstrip()


def _emulation(kernel: Mapping[str, Any]) -> str:
    """How an emulated kernel was launched; the seed of its first launch stands for what follows from the case."""
    if EMULATED not in kernel:
        return ""
    facts = kernel[EMULATED]
    names = [f"random:{facts['seed']}" if name == "random" else name for name in facts["delivery"].split(",")]
    return f".under(Emulation(delivery={literal(names)}, checks={literal(facts['checks'])}))"


def literal(value: Any) -> str:
    """Python text that is nothing but this value: what a run directory holds gets into a script in no other way.

    Texts are ASCII: what only looks like another letter is written as its number. Raises ValueError where the literal
    would not be the value.
    """
    text = ascii(value) if isinstance(value, str) else _written(value)
    if ast.literal_eval(text) != value:
        raise ValueError(f"{text} is not what it is to stand for")
    return text


def _written(value: Any) -> str:
    """`repr`, with the number that Python reads as infinite for one that is, which has no literal of its own."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(name)}: {_written(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        items = ", ".join(map(_written, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    return ascii(value)


def _lines(text: str) -> str:
    """A text of several lines as literals that follow each other, a line each."""
    lines = text.splitlines(keepends=True)
    if len(lines) < 2:
        return literal(text)
    return "(\n" + "\n".join(f"        {literal(line)}" for line in lines) + "\n    )"


def _call(problem: _Problem, standalone: bool) -> str:
    """From q, k, v to out and lse, and what the oracle is to take; or to several `answers`."""
    if problem.case.calls > 1:
        return text.STEPS
    if problem.probe == "broadcast":
        if standalone:
            refusals = f"({', '.join(error.__name__ for error in REFUSALS)})"
            return text.STAND_INS + text.BROADCAST_FUNCTION.substitute(source=_source(broadcast), refusals=refusals)
        return text.BROADCAST_BUILTIN.substitute(dequantized=textwrap.indent(text.DEQUANTIZED, " " * 4).rstrip())
    if standalone:
        return _answered(problem, standalone) + text.ORACLE_INPUTS
    if problem.probe == "descale_zero":
        zero = text.ZERO_DESCALE.substitute(name="v_descale" if V_DESCALE_ZERO in problem.limits else "q_descale")
        return "\n\n" + text.GIVEN + zero + text.DEQUANTIZED
    return _answered(problem, standalone) + text.ORACLE_INPUTS + text.GIVEN + text.DEQUANTIZED


def _answered(problem: _Problem, standalone: bool) -> str:
    if problem.probe == "fresh_inputs":
        return text.FRESH.substitute(input_set=FRESH_SET)
    if problem.probe == IN_PLACE:
        return text.IN_PLACE.substitute(input_set=RECHECK_SET)
    if problem.probe == "lse_merged":
        source = "\n\n".join(_source(function) for function in (halves, merged))
        return text.STAND_INS + text.MERGED_FUNCTION.substitute(source=source) if standalone else text.MERGED_BUILTIN
    if problem.probe == "batch_invariant" and not standalone:
        return text.PLAIN + text.BATCHES
    if problem.probe not in RELATIONS:
        return text.PLAIN + _again(problem)
    if not standalone:
        return text.RELATION_BUILTIN.substitute(probe=literal(problem.probe))
    relation = RELATIONS[problem.probe]
    return text.STAND_INS + text.RELATION_FUNCTION.substitute(relation=relation.__name__, source=_source(relation))


def _again(problem: _Problem) -> str:
    """Further calls, where that is what failed, or was asked."""
    rule = next((rule for rule in problem.limits if rule in AGAIN), None)
    if rule is None:
        return ""
    how, call, times = AGAIN[rule]
    return text.AGAIN.substitute(how=how, call=call, times=times, rule=literal(rule))


def _judging(problem: _Problem) -> str:
    parts: dict[str, str] = {}
    for function in (judge.measured, judge.told):
        _collect(function, parts)
    several = problem.case.calls > 1 or problem.probe == "broadcast"
    return (text.JUDGE_EACH if several else text.JUDGE).substitute(source="\n\n".join(parts.values()))


def _source(function: Callable[..., object]) -> str:
    """A function's own code, after the constants, modules and functions of its module that it uses, directly or not."""
    parts: dict[str, str] = {}
    _collect(function, parts)
    return "\n\n".join(parts.values())


def _collect(function: Callable[..., object], parts: dict[str, str]) -> None:
    assert isinstance(function, FunctionType), "what is copied has source code"
    for name in _global_names(function.__code__):
        value = function.__globals__.get(name)
        if name in parts or name in OWN or name == function.__name__:
            continue
        if isinstance(value, ModuleType):
            parts[name] = f"import {value.__name__} as {name}\n"
        elif _is_plain(value):
            parts[name] = f"{name} = {value!r}\n"
        elif inspect.isfunction(value):
            _collect(value, parts)
    parts[function.__name__] = inspect.getsource(function)


def _is_plain(value: object) -> bool:
    """Whether its `repr` is the constant itself."""
    if not isinstance(value, (int, float, str, tuple, dict)):
        return False
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def _global_names(code: CodeType) -> list[str]:
    """Names that the code and those nested in it (lambdas, comprehensions) look up outside of themselves."""
    nested = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _global_names(constant)]
    return [*code.co_names, *nested]
