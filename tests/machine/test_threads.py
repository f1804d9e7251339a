"""Threads that a library starts, where OpenMP has bound the one that starts them."""

import os
import subprocess
import sys

import pytest

from attnbench.machine import host
from attnbench.machine.threads import on_every_cpu

PROGRAM = """
import os, threading
from attnbench.machine.host import cpus_allowed
cpus_allowed()  # as a worker asks, ahead of torch
import torch
from attnbench.machine.threads import on_every_cpu

def started():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(len(os.sched_getaffinity(0))))
    thread.start(); thread.join()
    return seen[0]

bound = os.sched_getaffinity(0)
alone = started()
with on_every_cpu():
    wide = started()
print(len(bound), alone, wide == len(cpus_allowed()) > 1, os.sched_getaffinity(0) == bound, started())
"""


@pytest.mark.skipif(len(host.cpus_allowed()) < 2, reason="not run: one CPU is allowed here")
def test_threads_started_inside_may_run_everywhere():
    environment = {**os.environ, "OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["1", "1", "True", "True", "1"], done.stdout + done.stderr


def test_the_thread_is_put_back_whatever_happens():
    before = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), on_every_cpu():
        raise RuntimeError
    assert os.sched_getaffinity(0) == before


def test_flags(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu avx2 f16c\n\nprocessor : 1\nflags : fpu\n")
    monkeypatch.setattr(host, "_PROC", tmp_path)
    assert host.cpu_flags() == {"fpu", "avx2", "f16c"}
    (tmp_path / "cpuinfo").write_text("")
    assert host.cpu_flags() == frozenset()
