"""A probe's failure can be shown by a script that needs torch and the kernel's file only."""

import subprocess
import sys

import pytest
from report_runs import write_run

from attnbench.bench import Bench
from attnbench.case import Case
from attnbench.phases import Phases
from attnbench.plugins import load
from attnbench.repro import repro_script
from attnbench.suite_model import Checks, Timing
from attnbench.trial import run_trial

KERNEL = '''
import torch


def answer(q, k, v, *, causal, softmax_scale):
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k.float()) * softmax_scale
    if causal:
        last = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        scores = scores.masked_fill(torch.arange(k.shape[1]) > last, -torch.inf)
    p = scores.softmax(dim=-1).to(q.dtype).float()
    return torch.einsum("bhqk,bkhd->bqhd", p, v.float()).to(q.dtype){spoiled}
'''
SPOILED = {
    "right": ("", "nan_v"),
    "hides_nan": (".nan_to_num(nan=0.0)", "nan_v"),
    # Off by less than rounding explains, wherever an output is not a row of v bit for bit.
    "flushes": (".float().mul(1 + 2**-7).to(q.dtype)", "needle"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_the_script_shows_what_the_probe_found(tmp_path, kind):
    spoiled, probe = SPOILED[kind]
    (tmp_path / "kernel.py").write_text(KERNEL.format(spoiled=spoiled))
    spec = f"{tmp_path / 'kernel.py'}:answer"
    fields = {"batch": 1, "seqlen": 70, "num_heads": 2, "head_dim": 64, "causal": True}
    case = Case.make(**fields, inputs=probe) if kind == "right" else Case.make(**fields)
    record = run_trial(Bench(case, "cpu", Checks(probes=(probe,)), Timing(), 0, Phases()), load([spec])["answer"], False)
    assert record.status == ("ok" if kind == "right" else "incorrect")
    run = write_run(tmp_path / "run", [record], {"device": "cpu", "plugins": [spec]})
    script = tmp_path / "repro.py"
    script.write_text(repro_script(run, record.case_key, "answer"))
    assert "import attnbench" not in script.read_text() and "from attnbench" not in script.read_text()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == (0 if kind == "right" else 1), done.stdout + done.stderr
    assert ("WRONG" in done.stdout) == (kind != "right")
