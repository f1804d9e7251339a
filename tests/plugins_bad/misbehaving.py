"""Kernels that do everything a kernel must not do, one habit each, and one that behaves, last.

Each is right wherever it is not wrong on purpose, so that nothing but its habit can get it its record.
"""

import ctypes
import json
import os
import subprocess
import sys
import time

import torch

from attnbench import Outputs

COUNTS = {}


def right(q, k, v, causal, scale):
    """out, lse by the definition"""
    ratio = q.shape[2] // k.shape[2]
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    scores = q @ k.repeat_interleave(ratio, dim=1).transpose(2, 3) * scale
    if causal:
        hidden = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1 + scores.shape[3] - scores.shape[2])
        scores = scores.masked_fill(hidden, float("-inf"))
    lse = scores.logsumexp(dim=-1)
    out = scores.softmax(dim=-1).nan_to_num() @ v.repeat_interleave(ratio, dim=1)
    return out.transpose(1, 2).contiguous(), lse


def answer(case, inputs):
    out, lse = right(inputs.q, inputs.k, inputs.v, case.causal, case.scale)
    return Outputs(out.to(inputs.q.dtype), lse)


class Kernel:
    """A backend that is right; the others change one thing."""

    deterministic = True

    def __init__(self, name, habit=None, **traits):
        self.name, self.habit = name, habit
        for trait, value in traits.items():
            setattr(self, trait, value)

    def version(self):
        return "bad 1.0"

    def unavailable(self):
        return None

    def unsupported(self, case):
        return None

    def prepare(self, case, inputs):
        if self.habit is None:
            return lambda: answer(case, inputs)
        return lambda: self.habit(self, case, inputs)


def count(backend):
    COUNTS[backend.name] = COUNTS.get(backend.name, 0) + 1
    return COUNTS[backend.name]


def raises(backend, case, inputs):
    raise ArithmeticError("the sum of all fears")


def exits_politely(backend, case, inputs):
    sys.exit(3)


def raises_what_ctrl_c_would(backend, case, inputs):
    raise KeyboardInterrupt


def raises_what_a_dead_parent_would(backend, case, inputs):
    raise BrokenPipeError("of a pipe of my own")


def exits_at_once(backend, case, inputs):
    print("about to leave", flush=True)
    os._exit(7)


def segfaults(backend, case, inputs):
    ctypes.string_at(0)


def hangs(backend, case, inputs):
    while True:
        time.sleep(60)


def is_killed_from_outside(backend, case, inputs):
    subprocess.run(["sh", "-c", f"kill -9 {os.getpid()}"])
    time.sleep(60)


def wants_a_petabyte(backend, case, inputs):
    torch.empty(2**50, dtype=torch.uint8)


def recurses(backend, case, inputs):
    return recurses(backend, case, inputs)


def returns_nothing(backend, case, inputs):
    return None


def returns_a_bare_tensor(backend, case, inputs):
    return answer(case, inputs).out


def returns_a_list_for_out(backend, case, inputs):
    return Outputs([1.0])


def returns_the_wrong_shape(backend, case, inputs):
    return Outputs(answer(case, inputs).out.transpose(1, 2))


def returns_the_wrong_dtype(backend, case, inputs):
    return Outputs(answer(case, inputs).out.float())


def returns_a_wrong_lse(backend, case, inputs):
    good = answer(case, inputs)
    return Outputs(good.out, good.lse.double())


def returns_another_shape_the_second_time(backend, case, inputs):
    good = answer(case, inputs)
    return good if count(backend) == 1 else Outputs(good.out[:, :1])


def is_on_no_device(backend, case, inputs):
    return Outputs(answer(case, inputs).out.to("meta"))


def writes_q(backend, case, inputs):
    good = answer(case, inputs)
    inputs.q[0, 0, 0, 0] += 1
    return good


def swaps_two_rows_of_k(backend, case, inputs):
    good = answer(case, inputs)
    inputs.k[:, [0, 1]] = inputs.k[:, [1, 0]]
    return good


def writes_v_later(backend, case, inputs):
    good = answer(case, inputs)
    if count(backend) > 6:
        inputs.v.mul_(2)
    return good


def empties_q(backend, case, inputs):
    inputs.q.resize_(0)
    raise RuntimeError("and fails")


def never_writes_its_output(backend, case, inputs):
    return Outputs(torch.empty_like(answer(case, inputs).out))


def skips_a_row(backend, case, inputs):
    out = torch.empty_like(inputs.q)
    out[:, :-1] = answer(case, inputs).out[:, :-1]
    return Outputs(out)


def is_wrong_from_the_second_call(backend, case, inputs):
    good = answer(case, inputs)
    return good if count(backend) == 1 else Outputs(good.out * 1.1)


def is_wrong_after_ten_calls(backend, case, inputs):
    good = answer(case, inputs)
    return good if count(backend) <= 10 else Outputs(good.out * 1.1)


STALE = {}


def answers_from_its_first_answer(backend, case, inputs):
    return STALE.setdefault("only", answer(case, inputs))


def answers_by_address(backend, case, inputs):
    return STALE.setdefault(inputs.q.data_ptr(), answer(case, inputs))


def is_random(backend, case, inputs):
    """By a third of fp16's machine epsilon, which no limit minds: only the bits differ."""
    out, lse = right(inputs.q, inputs.k, inputs.v, case.causal, case.scale)
    return Outputs((out * (1 + 3e-4 * torch.rand_like(out))).to(inputs.q.dtype), lse)


def closes_the_standard_streams(backend, case, inputs):
    sys.stdout.close()
    sys.stderr.close()
    os.closerange(0, 3)
    return answer(case, inputs)


def closes_every_descriptor(backend, case, inputs):
    os.closerange(0, 1024)
    return answer(case, inputs)


def leaves_a_session_behind(backend, case, inputs):
    subprocess.Popen(["sleep", "54321"], start_new_session=True)
    return answer(case, inputs)


def prints_a_lot(backend, case, inputs):
    print("x" * 100_000)
    print("y" * 100_000, file=sys.stderr)
    return answer(case, inputs)


def prints_what_looks_like_an_event(backend, case, inputs):
    print(json.dumps({"type": "JobDone", "spent_s": {}}), flush=True)
    return answer(case, inputs)


def fails_while_timed(backend, case, inputs):
    if count(backend) > 10:
        raise ArithmeticError("tired")
    return answer(case, inputs)


def dies_while_timed(backend, case, inputs):
    if count(backend) > 10:
        os._exit(9)
    return answer(case, inputs)


class UnsupportedIsTrue(Kernel):
    def unsupported(self, case):
        return True


class UnsupportedRaises(Kernel):
    def unsupported(self, case):
        raise ArithmeticError("no idea")


class FactsAreNotPlain(Kernel):
    def kernel_facts(self, case):
        return {"dtype": torch.float16}


class VersionRaises(Kernel):
    def version(self):
        raise ImportError("not installed")


class VersionExits(Kernel):
    def version(self):
        sys.exit("no version")


class PrepareReturnsNoCall(Kernel):
    def prepare(self, case, inputs):
        return answer(case, inputs)


class Unavailable(Kernel):
    def unavailable(self):
        return "it needs a machine from the future"


class UnavailableExits(Kernel):
    def unavailable(self):
        sys.exit("not here")


class UnavailableRaises(Kernel):
    def unavailable(self):
        raise ArithmeticError("cannot tell")


HABITS = (
    raises, exits_politely, raises_what_ctrl_c_would, raises_what_a_dead_parent_would, exits_at_once, segfaults, hangs,
    is_killed_from_outside, wants_a_petabyte, recurses,
    returns_nothing, returns_a_bare_tensor, returns_a_list_for_out, returns_the_wrong_shape, returns_the_wrong_dtype,
    returns_a_wrong_lse, returns_another_shape_the_second_time, is_on_no_device, writes_q, swaps_two_rows_of_k,
    writes_v_later, empties_q, never_writes_its_output, skips_a_row, is_wrong_from_the_second_call,
    is_wrong_after_ten_calls, answers_from_its_first_answer, answers_by_address, is_random,
    closes_the_standard_streams, closes_every_descriptor, leaves_a_session_behind, prints_a_lot,
    prints_what_looks_like_an_event, fails_while_timed, dies_while_timed,
)  # fmt: skip

BACKENDS = (
    *(Kernel(habit.__name__, habit) for habit in HABITS),
    UnsupportedIsTrue("unsupported_is_true"),
    UnsupportedRaises("unsupported_raises"),
    FactsAreNotPlain("facts_are_not_plain"),
    VersionRaises("version_raises"),
    VersionExits("version_exits"),
    PrepareReturnsNoCall("prepare_returns_no_call"),
    Unavailable("unavailable"),
    UnavailableRaises("unavailable_raises"),
    UnavailableExits("unavailable_exits"),
    Kernel("random_and_says_so", is_random, deterministic=False),
    Kernel("behaves"),
)
