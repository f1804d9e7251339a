"""Looking at the machine: GPUs through a fake driver library, memory through fake control files."""
from __future__ import annotations

import sys

import pytest
from fake_nvml import Card, FakeNvml, two_cards

from attnbench import host
from attnbench.environment import Gpu, available_memory_bytes, gpus, module_installed

GIB = 2**30


@pytest.fixture(autouse=True)
def forget_gpus():
    yield
    gpus.cache_clear()


def visible(monkeypatch, value, cards=None):
    FakeNvml(cards or two_cards()).install(monkeypatch)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    return [(gpu.index, gpu.name, gpu.memory_bytes // GIB) for gpu in gpus()]


H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"


def test_gpu_facts(monkeypatch):
    FakeNvml([Card()]).install(monkeypatch)
    assert gpus() == (Gpu(index=0, name=H100, compute_capability=(9, 0), memory_bytes=80 * GIB),)


@pytest.mark.parametrize(
    "listed, expected",
    [
        (None, [(0, H100, 80), (1, H200, 141)]),
        ("1", [(0, H200, 141)]),
        ("1, 0", [(0, H200, 141), (1, H100, 80)]),
        ("GPU-2222", [(0, H200, 141)]),
        ("GPU-", []),  # ambiguous
        ("", []),
        ("-1", []),
        ("0,7,1", [(0, H100, 80)]),  # CUDA stops at the first entry that names nothing
    ],
)
def test_only_visible_gpus_count(monkeypatch, listed, expected):
    assert visible(monkeypatch, listed) == expected


@pytest.mark.parametrize("listed, gib", [(None, 10), ("0", 10), ("MIG-b", 20), ("GPU-1111", 10)])
def test_a_mig_slice_has_its_own_memory(monkeypatch, listed, gib):
    card = Card(slices={"MIG-a": 10 * GIB, "MIG-b": 20 * GIB})
    assert visible(monkeypatch, listed, [card]) == [(0, H100, gib)]


def test_no_module_no_driver_no_gpu(monkeypatch):
    FakeNvml([Card()], driver=False).install(monkeypatch)
    assert gpus() == ()
    gpus.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus() == ()


def test_sessions_are_closed(monkeypatch):
    lib = FakeNvml([Card()]).install(monkeypatch)
    assert len(gpus()) == 1
    assert lib.open_sessions == 0


def test_module_installed_does_not_import(tmp_path, monkeypatch):
    (tmp_path / "explosive.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert module_installed("explosive") and "explosive" not in sys.modules
    assert not module_installed("no_such_module") and not module_installed("no_such_package.module")


def test_device_memory(monkeypatch):
    FakeNvml(two_cards()).install(monkeypatch)
    assert available_memory_bytes("cuda") == 80 * GIB
    assert available_memory_bytes("cuda:1") == 141 * GIB
    with pytest.raises(ValueError, match='no device "cuda:2" here; there are cpu, cuda:0, cuda:1'):
        available_memory_bytes("cuda:2")


def fake_machine(tmp_path, monkeypatch, files):
    for name, text in {"proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB\n", **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(host, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(host, "_SYS", tmp_path / "sys")


@pytest.mark.parametrize(
    "files, gib",
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/memory.max": "max\n"}, 16),
        ({"proc/self/cgroup": "0::/box/in\n", "sys/fs/cgroup/box/in/memory.max": "max", "sys/fs/cgroup/box/memory.max": str(4 * GIB)}, 4),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(8 * GIB)}, 8),
        ({"proc/self/cgroup": "4:memory:/not/mounted\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2 * GIB)}, 2),
        ({"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096)}, 16),
    ],
)  # fmt: skip
def test_memory_is_the_machine_or_the_containers_limit(tmp_path, monkeypatch, files, gib):
    fake_machine(tmp_path, monkeypatch, files)
    assert available_memory_bytes("cpu") == gib * GIB


@pytest.mark.parametrize(
    "files, quota",
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "1:cpu,cpuacct:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ({"proc/self/cgroup": "1:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)  # fmt: skip
def test_cpu_quota_of_a_container(tmp_path, monkeypatch, files, quota):
    fake_machine(tmp_path, monkeypatch, files)
    assert host.cpu_quota() == quota


CPUINFO = """processor\t: 0
model name\t: Example 9000
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu hypervisor

processor\t: 1
model name\t: Example 9000
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu hypervisor
"""


def test_cpu_facts(tmp_path, monkeypatch):
    frequency = "sys/devices/system/cpu/cpu0/cpufreq/"
    fake_machine(tmp_path, monkeypatch, {
        "proc/cpuinfo": CPUINFO, frequency + "scaling_governor": "powersave\n",
        frequency + "cpuinfo_max_freq": "3500000\n", "sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
    })  # fmt: skip
    facts = host.cpu_facts()
    expected = {"model": "Example 9000", "physical_cores": 1, "sockets": 1, "governor": "powersave",
                "max_mhz": 3500, "current_mhz": None, "boost": True, "virtual_machine": True}  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    assert facts["cores"] == len(host.cpus_allowed()) >= 1
