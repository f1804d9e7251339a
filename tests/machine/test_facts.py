"""Looking at the machine: GPUs through a fake driver library, memory through fake control files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.nvml import Card, FakeNvml, two_cards
from paths import ROOT

from attnbench.machine import facts as environment
from attnbench.machine import host
from attnbench.machine.facts import available_memory_bytes, module_installed
from attnbench.machine.nvml import Gpu, gpus

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
        ({"proc/self/cgroup": "0::/box/in\n", "sys/fs/cgroup/box/in/memory.max": "max",
          "sys/fs/cgroup/box/memory.max": str(4 * GIB)}, 4),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(8 * GIB)}, 8),
        ({"proc/self/cgroup": "4:memory:/not/mounted\n",
          "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2 * GIB)}, 2),
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


def test_the_outermost_caches_count_once_each(tmp_path, monkeypatch):
    files = {}
    for cpu, group in ((0, "0-1"), (1, "0-1"), (2, "2")):
        for index, (level, kind, size) in enumerate(
            ((1, "Instruction", "1024K"), (1, "Data", "32K"), (3, "Unified", "2M"))
        ):
            folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}/"
            files |= {folder + "level": f"{level}\n", folder + "type": kind, folder + "size": size}
            files[folder + "shared_cpu_list"] = group if level == 3 else str(cpu)
    fake_machine(tmp_path, monkeypatch, files)
    monkeypatch.setattr(host, "cpus_allowed", lambda: (0, 1, 2))
    assert host.cache_bytes() == 4 * 2**20
    monkeypatch.setattr(host, "cpus_allowed", lambda: (7,))
    assert host.cache_bytes() is None


def test_collect_on_a_gpu(monkeypatch):
    FakeNvml([Card(power_limit_mw=500_000, ecc=None, compute_pids=(1, 999_999_999, os.getpid()))]).install(monkeypatch)
    facts = environment.collect("cuda:0")
    gpu = facts["gpu"]
    assert (gpu["name"], gpu["compute_capability"], gpu["memory_bytes"]) == (H100, "9.0", 80 * GIB)
    assert (gpu["power_limit_w"], gpu["default_power_limit_w"], gpu["ecc"], gpu["persistence"]) == (
        500.0,
        700.0,
        None,
        True,
    )
    assert (gpu["driver"], gpu["cuda_driver"], gpu["max_sm_clock_mhz"], gpu["sm_clock_mhz"]) == (
        "580.82.07",
        "13.0",
        1980,
        345,
    )
    assert gpu["other_processes"] == 2 and gpu["mig"] is False
    assert (gpu["enforced_power_limit_w"], gpu["ecc_pending"], gpu["compute_mode"], gpu["mps"]) == (
        500.0, None, "default", False,
    )  # fmt: skip
    assert (gpu["application_sm_clock_mhz"], gpu["default_application_sm_clock_mhz"]) == (1980, 1980)
    assert facts["gpu_count"] == 1
    assert "GPU-1111aaaa" not in json.dumps(facts)


def test_collect_on_a_slice_and_beyond_the_last_card(monkeypatch):
    FakeNvml([Card(slices={"MIG-a": 10 * GIB})]).install(monkeypatch)
    gpu = environment.collect("cuda")["gpu"]
    assert gpu["mig"] is True and gpu["memory_bytes"] == 10 * GIB and gpu["power_limit_w"] == 700.0
    assert environment.collect("cuda:3")["gpu"] is None


def test_an_old_driver_that_knows_less(monkeypatch):
    lib = FakeNvml([Card()]).install(monkeypatch)
    monkeypatch.delattr(FakeNvml, "nvmlDeviceGetCurrentClocksEventReasons")
    lib.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 4
    assert environment.collect("cuda")["gpu"]["clock_event_reasons"] == 4


def test_collect_on_the_cpu_is_json_and_needs_no_torch():
    code = (
        "import json, sys; from attnbench.machine.facts import collect; facts = collect('cpu');"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules); print(json.dumps(facts))"
    )
    facts = json.loads(
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )
    assert facts["device"] == "cpu" and facts["gpu"] is None and facts["memory_bytes"] > 2**28
    assert facts["versions"]["torch"] and facts["versions"]["numpy"]
    assert facts["cpu"]["cores"] >= 1 and facts["os"]["system"] == "Linux"
    assert len(facts["machine"]) == 16


def strings(value):
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_nothing_personal_is_collected(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/data/people/ann"))
    # NOTE: not one of the real variables: libgomp hangs on nonsense in GOMP_CPU_AFFINITY when torch loads it.
    monkeypatch.setattr(host, "THREAD_VARIABLES", ("PINS",))
    monkeypatch.setenv("PINS", "/data/people/ann/pins:/home/bob/x:/root/y:/opt/root/z:/data/people/anna")
    facts = environment.with_worker(environment.collect("cpu"), environment.worker_facts("cpu"))
    assert facts["threads"]["variables"]["PINS"] == "~/pins:~/x:~/y:/opt/root/z:/data/people/anna"
    for text in strings(facts):
        assert "/home/" not in text and not text.startswith(("/root", str(Path(sys.prefix))))
        assert platform.node() not in (text, "") or len(platform.node()) < 4
    # torch adds its build to the version ("2.14.1+cu130"), which pip may know without it.
    worker, installed = facts["worker"]["torch"]["version"], facts["versions"]["torch"]
    assert worker.partition("+")[0] == installed.partition("+")[0]
    assert facts["worker"]["threads"]["intra_op"] >= 1


def test_what_torch_knows_of_the_gpu_joins_the_rest():
    facts = environment.with_worker(
        {"gpu": {"name": "x"}, "device": "cuda"}, {"gpu": {"sm_count": 132}, "cache_bytes": 5}
    )
    assert facts == {"gpu": {"name": "x", "sm_count": 132}, "device": "cuda", "worker": {"cache_bytes": 5}}
    assert environment.with_worker({"gpu": None}, {"gpu": None})["gpu"] is None


def git(folder, *arguments):
    subprocess.run(
        ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@y", *arguments], check=True, capture_output=True
    )


def test_revision_and_whether_the_sources_changed(tmp_path):
    assert environment.revision(tmp_path) == {"revision": None, "dirty": None}
    git(tmp_path, "init")
    assert environment.revision(tmp_path) == {"revision": None, "dirty": False}
    (tmp_path / "attnbench").mkdir()
    (tmp_path / "attnbench" / "a.py").write_text("1")
    git(tmp_path, "add", "attnbench")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "notes.txt").write_text("elsewhere")
    clean = environment.revision(tmp_path)
    assert len(clean["revision"]) == 40 and clean["dirty"] is False
    (tmp_path / "attnbench" / "a.py").write_text("2")
    assert environment.revision(tmp_path) == {"revision": clean["revision"], "dirty": True}


def test_fingerprint_tells_cards_apart(monkeypatch):
    FakeNvml(two_cards()).install(monkeypatch)
    first, second, cpu = (environment.collect(device)["machine"] for device in ("cuda:0", "cuda:1", "cpu"))
    assert len({first, second, cpu}) == 3
    assert environment.collect("cuda:0")["machine"] == first


def test_a_host_is_told_from_another_without_showing_its_id(tmp_path, monkeypatch):
    ids = tmp_path / "etc", tmp_path / "dbus"
    monkeypatch.setattr(host, "_MACHINE_IDS", ids)
    assert host.identity() is None
    ids[1].write_text("0123456789abcdef0123456789abcdef\n")
    ids[0].write_text("")  # a container's, before its first boot
    one = host.identity()
    ids[0].write_text("fedcba9876543210fedcba9876543210\n")
    assert len(one) == 16 and one not in ids[1].read_text() and host.identity() != one
