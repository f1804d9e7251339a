"""The parts of a repro script: Python text with `$names` that `repro` fills in; what a run holds comes as literals."""

from __future__ import annotations

from string import Template

HEAD = Template('''\
"""Reproduces one attnbench record, the one that RECORD names.

Run it where torch is installed$needs. Exits 1 when an error is over the limit recorded with it.
"""
from __future__ import annotations

import math
import sys
import zlib
from types import SimpleNamespace

import torch

RECORD = {
    "case_key": $key,
    "backend": $backend,
    "status": $status,
    "reason": $reason,
}
case = SimpleNamespace(**$case)
case.scale = case.head_dim**-0.5 if case.softmax_scale is None else case.softmax_scale
DERIVED = ("scale", "diagonal", "key_dtype")
case.diagonal = 0 if getattr(case, "mask_alignment", "") == "top_left" else case.seqlen_k - case.seqlen_q
case.key_dtype = getattr(case, "kv_dtype", None) or case.dtype
DEVICE = $device
LIMITS = $limits
TYPES = {"fp16": torch.float16, "fp32": torch.float32}
DTYPES = [TYPES.get(name, torch.bfloat16) for name in (case.dtype, case.key_dtype, case.key_dtype)]
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
    return [tensor.to(dtype).to(DEVICE) for tensor, dtype in zip((draw.q, draw.k, draw.v), DTYPES)]


q, k, v = drawn()
""")

LOAD = """

from safetensors.torch import load_file

stored = load_file(case.inputs)


def drawn(input_set=0):
    q, k, v = (stored[name].float() for name in "qkv")
    return [tensor.to(dtype).to(DEVICE) for tensor, dtype in zip((q, k, v.roll(input_set, dims=1)), DTYPES)]


q, k, v = drawn()
"""

FUNCTION = Template('''

import importlib.util
import inspect

PLUGIN = sys.argv[1] if len(sys.argv) > 1 else $file  # or name the file on the command line
spec = importlib.util.spec_from_file_location("plugin", PLUGIN)
plugin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plugin)


def answer(case, q, k, v):
    """(out, lse or None)"""
    function = getattr(plugin, $function)
    told = {name: value for name, value in $told.items() if name in inspect.signature(function).parameters}
    result = function(q, k, v, causal=case.causal, softmax_scale=case.scale, **told)
    return result if isinstance(result, (tuple, list)) else (result, None)
''')

BUILTIN = Template('''

from dataclasses import replace

from attnbench.backend import Inputs
from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.plugins import load
from attnbench.reference.quantize import dequantize, quantize
from attnbench.settings import Emulation

$chosen

def made(case, q, k, v):
    """The case and its inputs as a backend takes them."""
    problem = Case.make(**{name: value for name, value in vars(case).items() if name not in DERIVED})
    return problem, Inputs(q, k, v, quantize(q, k, v, problem) if problem.is_fp8 else None)


def answer(case, q, k, v):
    """(out, lse or None)"""
    outputs = backend.prepare(*made(case, q, k, v))()
    return outputs.out, outputs.lse
''')

CHOSEN = Template("""backend = (builtin() | load($plugins))[$backend]$emulation
""")

INTERPRETED = Template("""from attnbench.interpreters.session import Session

session = Session($mode)
with session.importing():
    backend = session.backend((builtin() | load($plugins))[$backend])
""")

# The kernel's own error is that against the oracle on what it was given.
DEQUANTIZED = """if given.quantized is not None:
    held = given.quantized
    pairs = ((getattr(held, name), getattr(held, f"{name}_descale")) for name in "qkv")
    oracle_q, oracle_k, oracle_v = (dequantize(stored, descale, problem) for stored, descale in pairs)
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

# The same where the earlier numbers were, as a rotation of buffers in use does it.
IN_PLACE = Template("""

answer(case, q, k, v)
for tensor, numbers in zip((q, k, v), drawn($input_set)):
    tensor.copy_(numbers)
out, lse = answer(case, q, k, v)
""")

# What the source of a probe uses of the package, for a script that has none of it.
STAND_INS = """

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
"""

# The same problem put differently, its answer put back: `$relation` as the probe does it.
RELATION_FUNCTION = Template("""

$source

changed = $relation(case, Inputs(q, k, v))
answered = Outputs(*answer(changed.case, changed.inputs.q, changed.inputs.k, changed.inputs.v))
out, lse = vars(changed.undo(answered)).values()
""")

RELATION_BUILTIN = Template("""

from attnbench.correctness.relations import RELATIONS

changed = RELATIONS[$probe](*made(case, q, k, v))
answered = changed.undo(backend.prepare(changed.case, changed.inputs)())
out, lse = answered.out, answered.lse
""")

# Two halves of the keys, put together by their lse.
MERGED_FUNCTION = Template("""

$source

parts = [Outputs(*answer(half, given.q, given.k, given.v)) for half, given in halves(case, Inputs(q, k, v))]
out, lse = vars(merged(*parts)).values()
""")

MERGED_BUILTIN = """

from attnbench.correctness.merged import halves, merged

answered = merged(*(backend.prepare(*half)() for half in halves(*made(case, q, k, v))))
out, lse = answered.out, answered.lse
"""

# One head, or one batch element, of k and v for all, by strides of 0: each against its own oracle.
BROADCAST_FUNCTION = Template("""

$source

answers = []
for posed, given in broadcast(case, Inputs(q, k, v)):
    try:
        out, lse = answer(posed, given.q, given.k, given.v)
    except $refusals as error:
        print(f"it refuses strides of 0: {error}")
        continue
    name = f"k {tuple(given.k.shape)}, strides {given.k.stride()}"
    answers.append((name, posed, given.q, given.k, given.v, out, lse))
""")

BROADCAST_BUILTIN = Template("""

from attnbench.correctness.broadcast import broadcast
from attnbench.correctness.probes import REFUSALS

answers = []
for problem, given in broadcast(*made(case, q, k, v)):
    if backend.unsupported(problem) is not None:
        continue
    try:
        answered = backend.prepare(problem, given)()
    except REFUSALS as error:
        print(f"it refuses strides of 0: {error}")
        continue
    oracle_q, oracle_k, oracle_v = given.q, given.k, given.v
$dequantized
    name = f"k {tuple(given.k.shape)}, strides {given.k.stride()}"
    answers.append((name, problem, oracle_q, oracle_k, oracle_v, answered.out, answered.lse))
""")

# A sequence of calls that keeps state: every step against its own oracle.
STEPS = """

from attnbench.reference.inputs import make_inputs
from attnbench.worker.steps import inputs_of_step, step_case, whole_case

problem, _ = made(case, q, k, v)
whole = make_inputs(whole_case(problem), DEVICE)
call, answers = None, []
for number in range(problem.calls):
    given, posed = inputs_of_step(problem, whole, number)
    call = call or backend.prepare(problem, given)
    answered = call(number, given.q, given.k, given.v)
    lse = None if answered.lse is None else answered.lse.clone()
    name = f"step {number}"
    answers.append((name, step_case(problem, number), posed.q, posed.k, posed.v, answered.out.clone(), lse))
"""

# The same sequences in other batches, whose bits must be those of the first call.
BATCHES = """

from attnbench.correctness.batches import batch_checks


def called(problem, given):
    answered = backend.prepare(problem, given)()
    return replace(answered, out=answered.out.clone(), lse=None if answered.lse is None else answered.lse.clone())


checks = batch_checks(*made(case, q, k, v), backend, called)
differing = {check.rule: int(check.value) for check in checks}
print(*(check for check in checks if check.value), sep="\\n")
"""

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


differing = {$rule: again()}
''')

JUDGE = Template("""

$source

differing = {rule: (count, "") for rule, count in globals().get("differing", {}).items()}
found = measured(case, oracle_q, oracle_k, oracle_v, out, lse)
sys.exit(told({**found, **differing}, LIMITS))
""")

# Of several answers; rules of a sequence's steps begin with their step.
JUDGE_EACH = Template("""

$source

wrong = False
for name, *answered in answers:
    print(name)
    own = {rule.removeprefix(f"{name}: "): limit for rule, limit in LIMITS.items() if not rule.startswith("step ")
           or rule.startswith(f"{name}: ")}
    wrong |= told(measured(*answered), own)
sys.exit(wrong)
""")
