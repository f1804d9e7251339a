"""The parts of a repro script: each is Python text with `$names` that `repro` fills in."""

from __future__ import annotations

from string import Template

HEAD = Template('''\
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

DRAW = Template("""

def generator(name, input_set):
    return torch.Generator().manual_seed(zlib.crc32(f"{case.inputs}.{case.seed}.{name}.{input_set}".encode()))


def randn(name, input_set, seqlen, heads, dim):
    return torch.randn((case.batch, seqlen, heads, dim), generator=generator(name, input_set))


$distribution

def drawn(input_set=0):
    draw = SimpleNamespace(
        q=randn("q", input_set, case.seqlen_q, case.num_heads, case.head_dim),
        k=randn("k", input_set, case.seqlen_k, case.num_heads_kv, case.head_dim),
        v=randn("v", input_set, case.seqlen_k, case.num_heads_kv, case.head_dim_v),
        case=case,
        generator=generator("more", input_set),
    )
    $apply(draw)
    return [tensor.to(DTYPE).to(DEVICE) for tensor in (draw.q, draw.k, draw.v)]


q, k, v = drawn()
""")

LOAD = """

from safetensors.torch import load_file

stored = load_file(case.inputs)


def drawn(input_set=0):
    q, k, v = (stored[name].float() for name in "qkv")
    return [tensor.to(DTYPE).to(DEVICE) for tensor in (q, k, v.roll(input_set, dims=1))]


q, k, v = drawn()
"""

FUNCTION = Template('''

import importlib.util

PLUGIN = sys.argv[1] if len(sys.argv) > 1 else "$file"  # or name the file on the command line
spec = importlib.util.spec_from_file_location("plugin", PLUGIN)
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)


def answer(case, q, k, v):
    """(out, lse or None)"""
    result = plugin.$function(q, k, v, causal=case.causal, softmax_scale=case.scale)
    return result if isinstance(result, (tuple, list)) else (result, None)
''')

BUILTIN = Template('''

from dataclasses import replace

from attnbench.backend import Inputs
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.plugins import load
from attnbench.quantize import dequantize, quantize

backend = (builtin() | load($plugins))["$backend"]


def made(case, q, k, v):
    """The case and its inputs as a backend takes them."""
    problem = Case.make(**{name: value for name, value in vars(case).items() if name != "scale"})
    return problem, Inputs(q, k, v, quantize(q, k, v, problem) if problem.is_fp8 else None)


def answer(case, q, k, v):
    """(out, lse or None)"""
    outputs = backend.prepare(*made(case, q, k, v))()
    return outputs.out, outputs.lse
''')

# The kernel's own error is that against the oracle on what it was given.
DEQUANTIZED = """if given.quantized is not None:
    oracle_q, oracle_k, oracle_v = (
        dequantize(getattr(given.quantized, name), getattr(given.quantized, f"{name}_descale"), problem) for name in "qkv"
    )
"""

GIVEN = """problem, given = made(case, q, k, v)
"""

ORACLE_INPUTS = """
oracle_q, oracle_k, oracle_v = q, k, v
"""

PLAIN = """

out, lse = answer(case, q, k, v)
"""

# An answer kept from earlier numbers shows on later ones.
FRESH = Template("""

answer(case, q, k, v)
q, k, v = drawn($input_set)
out, lse = answer(case, q, k, v)
""")

# The same problem put differently, its answer put back: `$relation` as the probe does it.
RELATION_FUNCTION = Template("""

from typing import NamedTuple


class Inputs(SimpleNamespace):
    def __init__(self, q, k, v, quantized=None):
        super().__init__(q=q, k=k, v=v, quantized=quantized)


class Outputs(SimpleNamespace):
    def __init__(self, out, lse=None):
        super().__init__(out=out, lse=lse)


class Changed(NamedTuple):
    case: object
    inputs: Inputs
    undo: object


def replace(thing, **changes):
    changed = type(thing)(**{**vars(thing), **changes})
    if "softmax_scale" in changes:
        changed.scale = changes["softmax_scale"]
    return changed


$source

changed = $relation(case, Inputs(q, k, v))
answered = Outputs(*answer(changed.case, changed.inputs.q, changed.inputs.k, changed.inputs.v))
out, lse = vars(changed.undo(answered)).values()
""")

RELATION_BUILTIN = Template("""

from attnbench.relations import RELATIONS

changed = RELATIONS["$probe"](*made(case, q, k, v))
answered = changed.undo(backend.prepare(changed.case, changed.inputs)())
out, lse = answered.out, answered.lse
""")

ZERO_DESCALE = Template("""
given = replace(given, quantized=replace(given.quantized, $name=given.quantized.$name * 0))
answered = backend.prepare(problem, given)()
out, lse = answered.out, answered.lse
""")

# Further calls, whose bits must be those of the first.
AGAIN = Template('''

import threading


def again(times=$times):
    """Calls that give other bits than the first: $how."""
    differ = 0
    for _ in range(times):
        got = []
        $call
        differ += any(
            one is not None and not torch.equal(bits(one), bits(other)) for one, other in zip((out, lse), got[0])
        )
    return differ


def bits(tensor):
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def on_another_stream(got):
    """On the CPU, which has no streams: on another thread."""
    if DEVICE == "cpu":
        thread = threading.Thread(target=lambda: got.append(answer(case, q, k, v)))
        thread.start()
        thread.join()
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got.append(answer(case, q, k, v))
    torch.cuda.current_stream().wait_stream(stream)


def in_used_memory(got):
    blocks = [torch.full_like(out, math.nan) for _ in range(16)]
    del blocks[::2]
    got.append(answer(case, q, k, v))


differing = {"$rule": again()}
''')

JUDGE = '''

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
hidden = strayed = missed = signed_count = 0
power = blind_largest = furthest = furthest_mean = signed = 0.0
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
        power += float(out[batch, :, head].double().square().sum())
        blind = exact_lse == -math.inf
        blind_largest = max(blind_largest, float(out[batch, :, head][blind].abs().max()) if bool(blind.any()) else 0.0)
        off = (error.abs() / exact.abs())[~blind].nan_to_num(nan=math.inf)
        v_max = oracle_v[batch, :, head // (case.num_heads // case.num_heads_kv)].double().abs().max()
        unit = 2.0**-11 if DTYPE is torch.float16 else 2.0**-8
        off_mean = (error.abs() / (exact.abs() + 2.0**-14 / unit * v_max))[~blind].nan_to_num(nan=math.inf)
        if off.numel():
            furthest, furthest_mean = max(furthest, float(off.max())), max(furthest_mean, float(off_mean.max()))
            signed += float((error / exact)[~blind].sum())
            signed_count += off.numel()
        worst = max(worst, (float(rows.max()), f"batch {batch}, head {head}, row {int(rows.argmax())}"))
        largest = max(largest, (float(peaks.max()), f"batch {batch}, head {head}, row {int(peaks.argmax())}"))
        if lse is not None:
            both_blind = (lse[batch, head] == -math.inf) & (exact_lse == -math.inf)
            differ = (lse[batch, head] - exact_lse).abs().masked_fill(both_blind, 0.0).nan_to_num(nan=math.inf)
            worst_lse = max(worst_lse, float(differ.max()))

count = count or 1
rms = math.sqrt(total / count) or 1.0
differing = globals().get("differing", {})
found = {
    "relative RMSE": (math.sqrt(squared / count) / rms, ""),
    "worst row's relative RMSE": worst,
    "max error": (largest[0] / rms, largest[1]),
    "rows that see a NaN of v and hide it": (hidden, ""),
    "RMS(out) / RMS(ref) - 1": (abs(math.sqrt(power / total) - 1.0) if total else 0.0, ""),
    "output of rows that see no key": (blind_largest, ""),
    "non-finite outputs": (strayed, ""),
    "outputs that are not 0 with v_descale 0": (int((out != 0).sum()), ""),
    **{rule: (count, "") for rule, count in differing.items()},
}
if case.inputs.startswith("needle"):
    found["rows that did not retrieve their key's v"] = (missed, "")
if case.inputs == "v_ones":
    found["output with v = 1, off 1 by"] = (furthest, "")
if case.inputs == "equal_logits":
    found["output off the mean of v"] = (furthest_mean, "")
if case.inputs == "same_sign_v":
    found["mean signed error with v of one sign"] = (abs(signed / max(signed_count, 1)), "")
if lse is not None:
    found["LSE error"] = (worst_lse, "")
ALWAYS = ("relative RMSE", "worst row's relative RMSE", "max error", "LSE error")
failed = False
for rule, (value, where) in found.items():
    limit = LIMITS.get(rule)
    wrong = limit is not None and not value <= limit
    failed |= wrong
    if limit is None and rule not in ALWAYS:
        continue
    print(f"{rule}: {value:.4g}" + (f", limit {limit:.4g}" if limit is not None else "") + (f"  WRONG {where}" if wrong else ""))
for rule in LIMITS:
    if rule not in found:
        print(f"{rule}: recorded with the record, and not computed here")
if "non-finite outputs" not in LIMITS:
    print("non-finite outputs:", strayed)
sys.exit(1 if failed or strayed else 0)
'''
