"""`attnbench repro`: a script that shows one record again, with as little as possible around the kernel.

A plugin function needs torch and its own file only; a built-in backend, and an 8-bit case, also import attnbench.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from attnbench.case import Case
from attnbench.correctness.probes import FRESH_SET
from attnbench.correctness.relations import RELATIONS
from attnbench.errors import suggest
from attnbench.records.record import (
    EMULATED,
    MEMORY_DIFFERS,
    REPEATS_DIFFER,
    STREAMS_DIFFER,
    THREADS_DIFFER,
    V_DESCALE_ZERO,
    Record,
)
from attnbench.records.store import StoreError, read
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
    run = read(run_directory)
    record = next((r for r in run.records if r.case_key == case_key and r.backend == backend), None)
    if record is None:
        keys = {r.case_key for r in run.records}
        if case_key not in keys:
            named = difflib.get_close_matches(case_key, keys, n=1) or sorted(keys)[:KEYS_LISTED]
            raise StoreError(f'{run_directory}: no case "{case_key}"{suggest(case_key, named)}')
        names = [r.backend for r in run.records if r.case_key == case_key]
        raise StoreError(f'{run_directory}: no record of backend "{backend}" for that case{suggest(backend, names)}')
    if record.status == "unsupported":
        raise StoreError(f"{run_directory}: {backend} did not take that case, so that nothing ran: {record.reason}")
    device = run.environment.get("device", "cpu")
    return _script(record, device, tuple(run.environment.get("plugins", ())))


@dataclass(frozen=True)
class _Problem:
    """What to show: the case, perhaps with a probe's inputs; the probe that poses it otherwise; the limits of rules."""

    case: Case
    probe: str = ""
    limits: dict[str, float] = field(default_factory=dict)


def _failed_problem(record: Record) -> _Problem:
    """The case, or the probe that failed where the case itself passed. A probe leaves its failed checks only."""
    checks = record.accuracy.checks if record.accuracy else ()
    raised = IN_PROBE.search(record.reason)
    failed = next((check.rule for check in checks if not check.passed), "")
    probe = failed.partition(": ")[0] if ": " in failed else raised[1] if raised else ""
    if not probe:
        return _Problem(record.case, "", {check.rule: check.limit for check in checks if ": " not in check.rule})
    limits = {c.rule.removeprefix(f"{probe}: "): c.limit for c in checks if c.rule.startswith(f"{probe}: ")}
    if probe in DISTRIBUTIONS:
        return _Problem(replace(record.case, inputs=probe), "", limits)
    return _Problem(record.case, probe, limits)


def _script(record: Record, device: str, plugins: tuple[str, ...]) -> str:
    problem = _failed_problem(record)
    case = problem.case
    spec = next((spec for spec in plugins if spec.endswith(f".py:{record.backend}")), None)
    status = record.status + (f": {record.reason}" if record.reason else "")
    head = text.HEAD.substitute(
        key=record.case_key,
        backend=record.backend,
        status=status.replace('"""', "'''").replace("\\", "\\\\"),
        needs="" if spec else ", and attnbench",
        case=case.to_dict(),
        device=device,
        limits=problem.limits,
    )
    if is_file(case.inputs):
        draw = text.LOAD
    else:
        apply = DISTRIBUTIONS[case.inputs].apply
        draw = text.DRAW.substitute(distribution=_source(apply), apply=apply.__name__)
    if spec:
        file, _, function = spec.rpartition(":")
        kernel = text.FUNCTION.substitute(file=file, function=function)
    else:
        kernel = text.BUILTIN.substitute(
            backend=record.backend, plugins=list(plugins), emulation=_emulation(record.kernel or {})
        )
    return (head + draw + kernel + _call(problem, standalone=bool(spec)) + _judging()).rstrip()


def _emulation(kernel: Mapping[str, Any]) -> str:
    """How an emulated kernel was launched; the seed of its first launch stands for what follows from the case."""
    if EMULATED not in kernel:
        return ""
    facts = kernel[EMULATED]
    names = [f"random:{facts['seed']}" if name == "random" else name for name in facts["delivery"].split(",")]
    return f".under(Emulation(delivery={names!r}, checks={facts['checks']!r}))"


def _call(problem: _Problem, standalone: bool) -> str:
    """From q, k, v to out and lse, and what the oracle is to take."""
    if standalone:
        return _answered(problem, standalone) + text.ORACLE_INPUTS
    if problem.probe == "descale_zero":
        zero = text.ZERO_DESCALE.substitute(name="v_descale" if V_DESCALE_ZERO in problem.limits else "q_descale")
        return "\n\n" + text.GIVEN + zero + text.DEQUANTIZED
    return _answered(problem, standalone) + text.ORACLE_INPUTS + text.GIVEN + text.DEQUANTIZED


def _answered(problem: _Problem, standalone: bool) -> str:
    if problem.probe == "fresh_inputs":
        return text.FRESH.substitute(input_set=FRESH_SET)
    if problem.probe not in RELATIONS:
        return text.PLAIN + _again(problem)
    if not standalone:
        return text.RELATION_BUILTIN.substitute(probe=problem.probe)
    relation = RELATIONS[problem.probe]
    return text.RELATION_FUNCTION.substitute(relation=relation.__name__, source=_source(relation))


def _again(problem: _Problem) -> str:
    """Further calls, where that is what failed, or was asked."""
    rule = next((rule for rule in problem.limits if rule in AGAIN), None)
    if rule is None:
        return ""
    how, call, times = AGAIN[rule]
    return text.AGAIN.substitute(how=how, call=call, times=times, rule=rule)


def _judging() -> str:
    parts: dict[str, str] = {}
    for function in (judge.measured, judge.told):
        _collect(function, parts)
    return text.JUDGE.substitute(source="\n\n".join(parts.values()))


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
