"""How often `attnbench judge` sees a difference between a kernel and its own copy: promoted and slower are mistakes.

    python benchmarks/judge_null.py [QUESTIONS]

A fused CPU kernel against a copy of the file, on three lengths; 20 questions by default. Exit status 1 where any was
promoted or slower.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from attnbench.judge.question import Question
from attnbench.judge.runner import judge
from attnbench.run.runner import Silent

QUESTIONS = 20
KERNEL = """
import torch


def {name}(q, k, v, *, causal, softmax_scale):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(q, k, v, is_causal=causal, scale=softmax_scale).transpose(1, 2)
"""
SUITE = """
name: copies
groups:
  - name: all
    axes: {dtype: bf16, causal: true, batch: 1, num_heads: 4, head_dim: 64, seqlen: [256, 512, 1k]}
timing: {min_samples: 10, min_time_s: 0.2, max_time_s: 1}
"""


def main(questions: int) -> int:
    verdicts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("one", "two"):
            (folder / f"{name}.py").write_text(KERNEL.format(name=name))
        (folder / "copies.yaml").write_text(SUITE)
        one, two = (f"{folder / name}.py:{name}" for name in ("one", "two"))
        for number in range(questions):
            question = Question(
                one, str(folder / "copies.yaml"), "two", trusted=True, device="cpu", out=folder / str(number),
                plugins=(two,),
            )  # fmt: skip
            told = judge(question, Silent()).judgement
            verdicts[told.verdict] += 1
            print(f"{told.verdict:10} {told.reason}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))
    return int(bool(verdicts["promoted"] or verdicts["slower"]))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else QUESTIONS))
