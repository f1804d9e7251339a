"""What a backend prints while it is checked is told on its record."""

from __future__ import annotations

import subprocess
import sys

import pytest

from attnbench import load

STREAMS = """
import ctypes, os, sys
from attnbench.worker.streams import Streams
streams = Streams()
found = []
for write in (
    lambda: None,
    lambda: print("by Python"),
    lambda: ctypes.CDLL(None).printf(b"by C\\n"),
    lambda: os.write(2, b"\\n  \\nby the kernel, from " + os.getcwd().encode() + b"/x.cpp:3\\nmore\\n"),
    lambda: print("x" * 5000),
):
    before = streams.printed_bytes()
    write()
    sys.stdout.flush()
    found.append(streams.first_line(before))
os.write(int(sys.argv[1]), repr(found).encode())
"""


@pytest.mark.parametrize("mode", ["w+", "w"])
def test_the_first_line(mode, tmp_path):
    """From Python, from libc's buffer, from the descriptor; nothing where the file may not be read."""
    with open(tmp_path / "output", mode) as output, open(tmp_path / "found", "w+") as found:
        given = [sys.executable, "-c", STREAMS, str(found.fileno())]
        options = {"stdout": output, "stderr": subprocess.STDOUT, "pass_fds": [found.fileno()], "cwd": tmp_path}
        subprocess.run(given, check=True, timeout=60, **options)
    lines = ["", "by Python", "by C", "by the kernel, from x.cpp:3", "x" * 200]
    assert (tmp_path / "found").read_text() == repr(lines if mode == "w+" else [""] * 5)


def test_a_terminal_or_a_pipe_is_not_read(tmp_path):
    with open(tmp_path / "found", "w+") as found:
        given = [sys.executable, "-c", STREAMS, str(found.fileno())]
        subprocess.run(given, check=True, timeout=60, stdout=subprocess.PIPE, pass_fds=[found.fileno()])
    assert (tmp_path / "found").read_text() == repr([""] * 5)


PLUGIN = """
import sys

def attend(q, k, v, causal, softmax_scale):
    import torch
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2)

def loud(q, k, v, *, causal, softmax_scale):
    print("loading the tuned kernel")
    return attend(q, k, v, causal, softmax_scale)

def quiet(q, k, v, *, causal, softmax_scale):
    return attend(q, k, v, causal, softmax_scale)

def failing(q, k, v, *, causal, softmax_scale):
    print("head_dim not supported", file=sys.stderr)
    return torch_empty(q)

def torch_empty(q):
    import torch
    return torch.empty_like(q)
"""


def test_on_the_record(tmp_path, command):
    (tmp_path / "mine.py").write_text(PLUGIN)
    names = ("loud", "quiet", "failing")
    plugins = [word for name in names for word in ("--plugin", f"{tmp_path / 'mine.py'}:{name}", "--backend", name)]
    axes = ["--axis", "seqlen=16", "--axis", "head_dim=16", "--no-time", "--device", "cpu"]
    command("run", *axes, *plugins, "--out", tmp_path / "run")
    kept = load(tmp_path / "run").set_index("backend")
    assert kept.loc["loud", "warnings"] == 'it printed while it was checked: "loading the tuned kernel"'
    assert kept.loc["quiet", "warnings"] == ""
    assert kept.loc["failing", "warnings"] == 'it printed while it was checked: "head_dim not supported"'
    assert (kept.loc["loud", "status"], kept.loc["failing", "status"]) == ("ok", "incorrect")
