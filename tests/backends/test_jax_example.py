"""The plugin for jax that docs/how-to/cpu-peers.md shows."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from attnbench import check, plugins
from attnbench.case import Case
from attnbench.machine import facts

SUITE = """
groups:
  - name: one
    axes: {batch: 2, num_heads: 4, num_heads_kv: 2, head_dim: 32, dtype: bf16, causal: [false, true], seqlen: 33}
timing: {max_time_s: 1}
"""


@pytest.fixture
def shown(tmp_path):
    text = (ROOT / "docs" / "how-to" / "cpu-peers.md").read_text()
    (block,) = re.findall(r"^```python\n(# jax_attention\.py\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "jax_attention.py").write_text(block)
    (backend,) = plugins.load([str(tmp_path / "jax_attention.py")]).values()
    return backend


def test_it_is_right(shown, tmp_path):
    pytest.importorskip("jax", reason="not run: jax is not installed (pip install 'attnbench[jax]')")
    (tmp_path / "suite.yaml").write_text(SUITE)
    assert [record.status for record in check(shown, str(tmp_path / "suite.yaml"))] == ["ok", "ok"]


def test_it_says_what_it_does_not_take(shown):
    def reason(**values):
        return shown.unsupported(Case.make(**{"batch": 1, "num_heads": 2, "head_dim": 32, **values}))

    assert reason(seqlen=8, causal=True) is None
    assert reason(seqlen=8, dtype="fp16") == "on the CPU it compiles in bf16, not in fp16"
    assert reason(seqlen=8, head_dim_v=16) == "it takes one head_dim for q, k and v"
    assert reason(seqlen_q=4, seqlen_k=8, causal=True).startswith("its causal mask is top-left aligned")


def test_without_jax(shown, monkeypatch):
    monkeypatch.setitem(type(shown).unavailable.__globals__, "module_installed", lambda name: False)
    assert shown.unavailable() == 'jax is not installed; get it with: pip install "attnbench[jax]"'
    assert facts.package_version("no-such-package") == "not installed"
