"""`attnbench repro`: a script that shows one record again, with as little as possible around the kernel.

A plugin function needs torch and its own file only; a built-in backend, and an 8-bit case, also import attnbench.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from string import Template
from types import CodeType, FunctionType

from attnbench import inputs as drawing
from attnbench.case import Case
from attnbench.input_file import is_file
from attnbench.record import Record
from attnbench.store import StoreError, read
from attnbench.suite_yaml import suggest

_HEAD = Template('''\
"""Reproduces one attnbench record: $key on $backend.

Recorded: $status
Run it where torch is installed$needs. Exits 1 when an error is over the limit recorded with it.
"""
from __future__ import annotations

import math
import sys
import zlib
from types import SimpleNamespace

import torch

case = SimpleNamespace(**$case)
case.scale = case.head_dim**-0.5 if case.softmax_scale is None else case.softmax_scale
DEVICE = "$device"
LIMITS = $limits
DTYPE = {"fp16": torch.float16}.get(case.dtype, torch.bfloat16)
''')

_DRAW = Template("""

def generator(name):
    return torch.Generator().manual_seed(zlib.crc32(f"{case.inputs}.{case.seed}.{name}.0".encode()))


def randn(name, seqlen, heads, dim):
    return torch.randn((case.batch, seqlen, heads, dim), generator=generator(name))


$distribution

draw = SimpleNamespace(
    q=randn("q", case.seqlen_q, case.num_heads, case.head_dim),
    k=randn("k", case.seqlen_k, case.num_heads_kv, case.head_dim),
    v=randn("v", case.seqlen_k, case.num_heads_kv, case.head_dim_v),
    case=case,
    generator=generator("more"),
)
$apply(draw)
q, k, v = (tensor.to(DTYPE).to(DEVICE) for tensor in (draw.q, draw.k, draw.v))
""")

_LOAD = """

from safetensors.torch import load_file

stored = load_file(case.inputs)
q, k, v = (stored[name].float().to(DTYPE).to(DEVICE) for name in "qkv")
"""

_FUNCTION = Template("""

import importlib.util

PLUGIN = sys.argv[1] if len(sys.argv) > 1 else "$file"  # or name the file on the command line
spec = importlib.util.spec_from_file_location("plugin", PLUGIN)
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)
result = plugin.$function(q, k, v, causal=case.causal, softmax_scale=case.scale)
out, lse = result if isinstance(result, (tuple, list)) else (result, None)
oracle_q, oracle_k, oracle_v = q, k, v
""")

_BUILTIN = Template("""

from attnbench.backend import Inputs
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.plugins import load
from attnbench.quantize import dequantize, quantize

problem = Case.make(**{name: value for name, value in vars(case).items() if name != "scale"})
quantized = quantize(q, k, v, problem) if problem.is_fp8 else None
backend = (builtin() | load($plugins))["$backend"]
outputs = backend.prepare(problem, Inputs(q, k, v, quantized))()
out, lse = outputs.out, outputs.lse
oracle_q, oracle_k, oracle_v = q, k, v
if quantized is not None:  # the kernel's own error: against the oracle on what it was given
    oracle_q, oracle_k, oracle_v = (
        dequantize(getattr(quantized, name), getattr(quantized, f"{name}_descale"), problem) for name in "qkv"
    )
""")

_JUDGE = '''

def oracle(batch, head):
    """fp64 attention of one head: (seqlen_q, head_dim_v), (seqlen_q,)"""
    kv_head = head // (case.num_heads // case.num_heads_kv)
    scores = oracle_q[batch, :, head].double() @ oracle_k[batch, :, kv_head].double().T * case.scale
    if case.causal:
        rows = torch.arange(case.seqlen_q, device=DEVICE)[:, None] + case.seqlen_k - case.seqlen_q
        scores.masked_fill_(torch.arange(case.seqlen_k, device=DEVICE) > rows, -math.inf)
    lse = scores.logsumexp(dim=-1)
    p = (scores - lse.nan_to_num(neginf=0.0)[:, None]).exp()
    return p @ oracle_v[batch, :, kv_head].double(), lse


def hides_nan(batch, head):
    """Rows that see a NaN of v, and whose output shows none; None where v of the head holds no NaN."""
    nan = oracle_v[batch, :, head // (case.num_heads // case.num_heads_kv)].isnan().any(-1)
    if not bool(nan.any()):
        return None
    first = case.seqlen_k - case.seqlen_q if case.causal else case.seqlen_k
    rows = torch.arange(case.seqlen_q, device=DEVICE) + 1 + first
    return int(((rows > int(nan.int().argmax())) & ~out[batch, :, head].isnan().any(-1)).sum())


squared = total = count = 0.0
worst, largest, worst_lse = (-1.0, ""), (-1.0, ""), 0.0
hidden = strayed = missed = 0
for batch in range(case.batch):
    for head in range(case.num_heads):
        exact, exact_lse = oracle(batch, head)
        hides = hides_nan(batch, head)
        if hides is not None:  # 0 x NaN is NaN: the head's other rows may be either
            hidden += hides
            continue
        strayed += int((~out[batch, :, head].isfinite()).sum())
        # Retrieval is exact in 16 bits; a descaled v may round the other way, by one unit in the last place.
        slack = 2.0**-7 * exact.abs() if case.dtype in ("e4m3", "e5m2") else 0.0
        missed += int(((out[batch, :, head].double() - exact.to(DTYPE).double()).abs() > slack).any(-1).sum())
        error = out[batch, :, head].double() - exact
        squared += float(error.square().sum())
        total += float(exact.square().sum())
        count += error.numel()
        norms = exact.square().mean(-1).sqrt()
        rows = (error.square().mean(-1).sqrt() / norms).masked_fill(norms == 0, 0.0).nan_to_num(nan=math.inf)
        peaks = error.abs().amax(-1).nan_to_num(nan=math.inf)
        worst = max(worst, (float(rows.max()), f"batch {batch}, head {head}, row {int(rows.argmax())}"))
        largest = max(largest, (float(peaks.max()), f"batch {batch}, head {head}, row {int(peaks.argmax())}"))
        if lse is not None:
            both_blind = (lse[batch, head] == -math.inf) & (exact_lse == -math.inf)
            differ = (lse[batch, head] - exact_lse).abs().masked_fill(both_blind, 0.0).nan_to_num(nan=math.inf)
            worst_lse = max(worst_lse, float(differ.max()))

count = count or 1
rms = math.sqrt(total / count) or 1.0
found = {
    "relative RMSE": (math.sqrt(squared / count) / rms, ""),
    "worst row's relative RMSE": worst,
    "max error": (largest[0] / rms, largest[1]),
    "rows that see a NaN of v and hide it": (hidden, ""),
}
if case.inputs.startswith("needle"):
    found["rows that did not retrieve their key's v"] = (missed, "")
if lse is not None:
    found["LSE error"] = (worst_lse, "")
failed = False
for rule, (value, where) in found.items():
    limit = LIMITS.get(rule)
    wrong = limit is not None and not value <= limit
    failed |= wrong
    print(f"{rule}: {value:.4g}" + (f", limit {limit:.4g}" if limit is not None else "") + (f"  WRONG {where}" if wrong else ""))
print("non-finite outputs:", strayed)
sys.exit(1 if failed or strayed else 0)
'''


def repro_script(run_directory: Path, case_key: str, backend: str) -> str:
    """The script's text. Raises StoreError when the run has no such record."""
    run = read(run_directory)
    record = next((r for r in run.records if r.case_key == case_key and r.backend == backend), None)
    if record is None:
        keys = {r.case_key for r in run.records}
        if case_key not in keys:
            raise StoreError(f'{run_directory}: no case "{case_key}"{suggest(case_key, sorted(keys)[:20])}')
        names = [r.backend for r in run.records if r.case_key == case_key]
        raise StoreError(f'{run_directory}: no record of backend "{backend}" for that case{suggest(backend, names)}')
    device = run.environment.get("device", "cpu")
    return _script(record, device, tuple(run.environment.get("plugins", ())))


def _failed_problem(record: Record) -> tuple[Case, dict[str, float]]:
    """What to show, and its limits: the case, or the inputs of the probe that failed where the case itself passed.

    A probe leaves its failed checks only, under its name.
    """
    checks = record.accuracy.checks if record.accuracy else ()
    for check in checks:
        probe, separator, _ = check.rule.partition(": ")
        if not check.passed and separator and probe in drawing.DISTRIBUTIONS:
            own = [c for c in checks if c.rule.startswith(f"{probe}: ")]
            return replace(record.case, inputs=probe), {c.rule.removeprefix(f"{probe}: "): c.limit for c in own}
    return record.case, {check.rule: check.limit for check in checks}


def _script(record: Record, device: str, plugins: tuple[str, ...]) -> str:
    case, limits = _failed_problem(record)
    spec = next((spec for spec in plugins if spec.endswith(f".py:{record.backend}")), None)
    status = record.status + (f": {record.reason}" if record.reason else "")
    head = _HEAD.substitute(
        key=record.case_key,
        backend=record.backend,
        status=status.replace('"""', "'''").replace("\\", "\\\\"),
        needs="" if spec else ", and attnbench",
        case=case.to_dict(),
        device=device,
        limits=limits,
    )
    if is_file(case.inputs):
        draw = _LOAD
    else:
        apply = drawing.DISTRIBUTIONS[case.inputs].apply
        draw = _DRAW.substitute(distribution=_source(apply), apply=apply.__name__)
    if spec:
        file, _, function = spec.rpartition(":")
        kernel = _FUNCTION.substitute(file=file, function=function)
    else:
        kernel = _BUILTIN.substitute(backend=record.backend, plugins=list(plugins))
    return (head + draw + kernel + _JUDGE).rstrip()


def _source(function: FunctionType) -> str:
    """A distribution's own code, after the constants and functions of its module that it uses, directly or not."""
    parts: dict[str, str] = {}
    _collect(function, parts)
    return "\n\n".join(parts.values())


def _collect(function: FunctionType, parts: dict[str, str]) -> None:
    for name in _global_names(function.__code__):
        value = function.__globals__.get(name)
        if name in parts or name == function.__name__:
            continue
        if isinstance(value, (int, float, str, tuple)):
            parts[name] = f"{name} = {value!r}\n"
        elif inspect.isfunction(value):
            _collect(value, parts)
    parts[function.__name__] = inspect.getsource(function)


def _global_names(code: CodeType) -> list[str]:
    """Names that the code and those nested in it (lambdas, comprehensions) look up outside of themselves."""
    nested = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _global_names(constant)]
    return [*code.co_names, *nested]
