"""`attnbench behaviour`: answers that are known beforehand, backends that crash or refuse, and what is printed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch

from attnbench.backend import Base, Outputs
from attnbench.backends import builtin
from attnbench.behaviour import questions
from attnbench.behaviour.questions import Asked, answers


class Posed(Base):
    """Right attention whose choices are arguments."""

    name = "posed"

    def __init__(self, corner="bottom_right", blind="zero", scale=None, base=1.0, lse16=False, modulo=False, low=None):
        self.corner, self.blind, self.scale, self.base = corner, blind, scale, base
        self.lse16, self.modulo, self.low = lse16, modulo, low

    def unsupported(self, case):
        return None if case.mask_alignment == self.corner or not case.causal else f"only {self.corner}"

    def prepare(self, case, inputs):
        def call():
            ratio = case.num_heads // case.num_heads_kv
            heads = torch.arange(case.num_heads)
            heads = heads % case.num_heads_kv if self.modulo else heads // ratio
            q, k, v = inputs.q.float(), inputs.k.float()[:, :, heads], inputs.v.float()[:, :, heads]
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (self.scale or case.scale)
            if self.low == "scores":
                scores = scores.to(inputs.q.dtype).float()
            if case.causal:
                shift = case.seqlen_k - case.seqlen_q if self.corner == "bottom_right" else 0
                hidden = torch.arange(case.seqlen_k) > torch.arange(case.seqlen_q)[:, None] + shift
                scores = scores.masked_fill(hidden, -math.inf if self.blind != "mean" else -1e9)
            lse = scores.logsumexp(-1)
            p = torch.softmax(scores, -1)
            p = p if self.blind != "zero" else p.nan_to_num(0.0)
            out = torch.einsum("bhqk,bkhd->bqhd", p, v)
            if self.low == "sums" and case.seqlen_k > 2048:
                out = out * math.inf
            lse = lse / self.base
            return Outputs(out.to(inputs.q.dtype), lse.half().float() if self.lse16 else lse)

        return call


def told(question, **choices):
    return question(Asked(Posed(**choices), "bf16"))


@pytest.mark.parametrize(
    ("question", "choices", "answer"),
    [
        ("causal_alignment", {}, "bottom right"),
        ("causal_alignment", {"corner": "top_left"}, "top left"),
        ("row_without_keys", {}, "0, lse -inf"),
        ("row_without_keys", {"blind": "nan"}, "NaN, lse -inf"),
        ("row_without_keys", {"blind": "mean"}, "mean of all v, lse -1e+09"),
        ("hidden_nan_in_k", {"blind": "nan"}, "stays out of rows that do not see it"),
        ("hidden_nan_in_v", {}, "reaches rows that do not see it"),
        ("softmax_scale", {}, "as given"),
        ("softmax_scale", {"scale": 64**-0.5}, "ignored: 1 / sqrt(head_dim)"),
        ("softmax_scale", {"scale": 1.0}, "ignored: 1"),
        ("softmax_scale", {"scale": 2.0}, "neither as given nor a usual one: a weight of 0.980"),
        ("log_sum_exp", {}, "natural logarithm"),
        ("log_sum_exp", {"base": math.log(2.0)}, "to base 2 logarithm"),
        ("log_sum_exp", {"lse16": True}, "natural logarithm, rounded to 16 bits"),
        ("log_sum_exp", {"base": 10.0}, "another quantity"),
        ("grouped_heads", {}, "head h uses h // ratio"),
        ("grouped_heads", {"modulo": True}, "head h uses h % heads_kv"),
        ("scores", {}, "in fp32"),
        ("scores", {"low": "scores"}, "rounded to 16 bits"),
        ("sums", {}, "in fp32, or as exact"),
        ("sums", {"low": "sums"}, "in 16 bits: the mean of 100 is inf, of 1.375 inf"),
        ("same_bits", {}, "yes"),
    ],
)
def test_each_answer_is_given_by_a_backend_that_does_so(question, choices, answer):
    assert told(getattr(questions, question), **choices) == answer


def test_the_built_in_ones():
    naive, flash = answers(builtin()["naive"]), answers(builtin()["cpu_flash"])
    assert (
        naive["causal mask, 3 queries and 5 keys"] == flash["causal mask, 3 queries and 5 keys"] == "either, as asked"
    )
    assert naive["row that sees no key"] == "0, lse -inf" and flash["row that sees no key"] == "0"
    with pytest.raises(questions.RefusedError, match="not here: it needs an NVIDIA GPU"):
        answers(builtin()["fa2"])


def test_what_a_backend_does_not_take_or_raises_is_its_answer():
    class Odd(Posed):
        def unsupported(self, case):
            return "one query only" if case.seqlen_q > 64 else None

        def prepare(self, case, inputs):
            if case.causal:
                raise ValueError("no mask\nhere")
            return super().prepare(case, inputs)

    found = answers(Odd())
    assert found["same bits again"] == "not taken: one query only"
    assert found["row that sees no key"] == "raises ValueError: no mask"
    assert list(found) == ["asked in", *(question.name for question in questions.QUESTIONS)]


def run(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "attnbench", "behaviour", *arguments]
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True, env={**os.environ, **environment})


PLUGIN = """
import os
import torch

def crashes(q, k, v, *, causal, softmax_scale):
    os._exit(9)

def prints(q, k, v, *, causal, softmax_scale):
    print("noise")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return sdpa(q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True).transpose(1, 2)
"""


def test_the_command(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    done = run("naive", "crashes", "prints", "--plugin", "mine.py:crashes", "--plugin", "mine.py:prints", "--json",
               cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["backends"]
    assert found["crashes"]["refused"].startswith("not asked: its process ended with status 9")
    assert found["prints"]["answers"]["causal mask, 3 queries and 5 keys"] == "top left"
    assert (
        found["naive"]["answers"]["log-sum-exp"] == "natural logarithm"
        and found["prints"]["answers"]["log-sum-exp"] == "none"
    )
    own = run("--plugin", "mine.py:prints", cwd=tmp_path, COLUMNS="80")
    assert own.stdout.startswith("prints: mine.py:prints\n") and max(map(len, own.stdout.splitlines())) <= 80
    for arguments, words in (
        (("niave",), 'no backend "niave" (did you mean "naive"?)'),
        ((), "name a backend (attnbench list backends), or give one with --plugin"),
        (("--plugin", "none.py:f"), 'plugin "none.py:f": no file none.py'),
    ):
        wrong = run(*arguments, cwd=tmp_path)
        assert (wrong.returncode, wrong.stdout) == (2, "") and words in wrong.stderr and "Traceback" not in wrong.stderr
