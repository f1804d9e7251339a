"""`attnbench run --untrusted` as a user calls it."""

import json

from attnbench.records import store
from attnbench.report.page import trust_words

PLUGIN = """
import sys
import torch


def mine(q, k, v, *, causal, softmax_scale):
    assert not any(name.startswith("attnbench.worker") for name in sys.modules)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2)
"""


def test_a_run_says_whether_it_trusted_its_plugins(command, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    suite = command.suite("batch: [1], seqlen: [32], num_heads: [2], head_dim: [16], dtype: [fp32]")
    done = command("run", suite, "--plugin", "mine.py:mine", "--backend", "mine", "--backend", "naive", "--untrusted",
                   "--device", "cpu", "--no-time", "--out", "out")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    environment = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert environment["trust"]["mode"] == "untrusted"
    missing = environment["trust"]["missing"]
    said = [line for line in done.stdout.splitlines() if line.startswith("--untrusted, without: ")]
    assert bool(said) == bool(missing)
    assert "trust" not in environment["worker"]
    assert {record.backend: record.status for record in store.read(tmp_path / "out").records} == {
        "mine": "ok", "naive": "ok",
    }  # fmt: skip
    refused = command("run", suite, "--plugin", "mine.py:mine", "--untrusted", "--interpret")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--untrusted and --interpret exclude each other" in refused.stderr


def test_a_report_says_so():
    assert trust_words({"mode": "trusted"}) == trust_words({}) == "not recorded"
    assert trust_words({"mode": "untrusted", "missing": []}) == "untrusted, in processes of their own"
    told = trust_words({"mode": "untrusted", "missing": ["Landlock: no kernel", "seccomp: no library"]})
    assert told.endswith("; without Landlock: no kernel; seccomp: no library")
