"""Plugins and all other backends in two workers: turns over both, and nothing of one reaches the other."""

import pytest

from attnbench import load
from attnbench.records import store

SUITE = """
name: two
backends: [naive, cpu_flash]
groups: [{name: all, axes: {batch: 1, num_heads: 1, head_dim: 16, seqlen: 48, dtype: fp16}}]
timing: {min_samples: 5, min_time_s: 0.01, max_time_s: 0.5, warmup_s: 0.01}
"""
PLUGIN = '''
import os

import torch

calls = 0


def right(q, k, v, *, causal, softmax_scale):
    """Right, and every other backend of its process would be wrong."""
    real, torch.nn.functional.scaled_dot_product_attention = attend, refuse
    torch.set_num_threads(3)
    return real(*(x.transpose(1, 2) for x in (q, k, v)), scale=softmax_scale).transpose(1, 2)


attend = torch.nn.functional.scaled_dot_product_attention


def refuse(*given, **named):
    raise RuntimeError("of another backend")


def ends(q, k, v, *, causal, softmax_scale):
    global calls
    calls += 1
    if calls > 60:  # once it is timed
        os._exit(7)
    return attend(*(x.transpose(1, 2) for x in (q, k, v)), scale=softmax_scale).transpose(1, 2)

'''


@pytest.fixture(scope="module")
def run(tmp_path_factory, module_command):
    folder = tmp_path_factory.mktemp("two")
    (folder / "two.yaml").write_text(SUITE)
    (folder / "mine.py").write_text(PLUGIN)
    plugins = [part for name in ("right", "ends") for part in ("--plugin", f"{folder / 'mine.py'}:{name}")]
    out = folder / "out"
    done = module_command("run", folder / "two.yaml", "--device", "cpu", *plugins, "--out", out)
    return done, {record.backend: record for record in store.read(out).records}, out


def test_they_take_turns_and_do_not_disturb_each_other(run):
    _, records, out = run
    timed = [records[name] for name in ("naive", "cpu_flash", "right")]
    assert [record.status for record in timed] == ["ok"] * 3, [record.reason for record in timed]
    assert {record.measurement.together for record in timed} == {("naive", "cpu_flash", "right")}
    assert len({record.measurement.order_seed for record in timed}) == 1
    rounds = [[block.round for block in record.measurement.blocks] for record in timed]
    assert rounds[0] == rounds[1] == rounds[2] and len(rounds[0]) >= 2
    starts = sorted((block.start_s, record.backend) for record in timed for block in record.measurement.blocks)
    turns = [name for _, name in starts]
    first = turns[: 2 * len(timed)]
    assert first == first[::-1] and set(first) == {"naive", "cpu_flash", "right"}, "a row and its mirror image"
    assert any("it changed the number of threads" in warning for warning in records["right"].warnings)
    assert not any("threads" in warning for name in ("naive", "cpu_flash") for warning in records[name].warnings)
    assert len(load(out)) == 4


def test_what_ends_its_process_costs_its_record_alone(run):
    done, records, _ = run
    assert (records["ends"].status, records["ends"].kind) == ("error", "crash")
    assert "exited with status 7" in records["ends"].reason
    assert done.returncode == 3, done.stdout
