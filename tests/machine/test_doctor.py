"""The doctor on machines that are made up: what it finds, how it judges it, and the command it gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes.nvml import Card, FakeNvml

from attnbench.cli import doctor
from attnbench.cli import doctor as examination
from attnbench.machine import findings as machine_findings
from attnbench.machine import host
from attnbench.machine.findings import ADVICE, NOT_APPLICABLE, OK, PROBLEM, Finding
from attnbench.machine.nvml import gpus

GIB = 2**30


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    """A healthy bare machine without a GPU; each test spoils one thing."""
    FakeNvml([]).install(monkeypatch)
    cpu = {"model": "Example 9000", "cores": 8, "logical": 8, "governor": "performance", "quota_cores": None}
    monkeypatch.setattr(host, "cpu_facts", lambda: {**cpu, "virtual_machine": False})
    monkeypatch.setattr(host, "memory_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(machine_findings.os, "getloadavg", lambda: (0.1, 0, 0))
    monkeypatch.setattr(machine_findings.shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * GIB))
    monkeypatch.setattr(machine_findings, "installed_version", lambda name: "2.13.0")
    monkeypatch.setattr(machine_findings, "lacks_cuda_torch", lambda: None)
    monkeypatch.setattr(machine_findings, "torch_cuda_version", lambda: "13.0")
    monkeypatch.setattr(machine_findings, "_nvidia_card_present", lambda: False)
    yield
    gpus.cache_clear()


def told(topic, severity):
    return [(finding.what, finding.mend) for finding in topic() if finding.severity == severity]


def test_a_bare_machine_is_fit(capsys):
    assert doctor.run_doctor() == 0
    printed = capsys.readouterr().out
    assert "not applicable no NVIDIA GPU: the CPU backends can be measured" in printed
    assert printed.splitlines()[-1].startswith("fit to measure")
    assert not [finding for finding in doctor.all_findings() if finding.severity == PROBLEM]


def test_every_shortcoming_says_why_and_most_say_what_to_do(monkeypatch):
    spoiled = Card(power_limit_mw=350_000, persistence=0, compute_pids=(1,), throttle_reasons=0x42)
    FakeNvml([spoiled]).install(monkeypatch)
    findings = doctor.all_findings()
    assert {finding.severity for finding in findings} >= {OK, ADVICE, PROBLEM}
    for finding in findings:
        if finding.severity in (ADVICE, PROBLEM):
            assert finding.why and (finding.mend or finding.what == "a virtual machine"), finding
        else:
            assert not finding.mend, finding


def test_a_healthy_card(monkeypatch):
    FakeNvml([Card()]).install(monkeypatch)
    what = "GPU 0: NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0, driver 580.82.07 (CUDA 13.0)"
    assert list(machine_findings.gpu_findings()) == [Finding(OK, what)]


CARDS = [
    ({"compute_pids": (1,)}, PROBLEM, "GPU 0: 1 other compute process", "nvidia-smi --query-compute-apps"),
    ({"compute_pids": (1, 2)}, PROBLEM, "GPU 0: 2 other compute processes", "nvidia-smi --query-compute-apps"),
    (
        {"throttle_reasons": 0x20},
        PROBLEM,
        "GPU 0: clocks are held down now (software thermal slowdown), 31 C",
        "let it",
    ),
    (
        {"throttle_reasons": 0x88},
        PROBLEM,
        "GPU 0: clocks are held down now (hardware slowdown, power brake), 31 C",
        "let",
    ),
    (
        {"throttle_reasons": 0x02},
        ADVICE,
        "GPU 0: application clocks are set",
        "sudo nvidia-smi -i 0 -rac; sudo nvidia-smi -i 0 -rgc",
    ),
    (
        {"application_sm_clock_mhz": 1500},
        ADVICE,
        "GPU 0: application clocks are set (1500 MHz, default 1980)",
        "sudo nvidia-smi -i 0 -rac",
    ),
    (
        {"enforced_power_limit_mw": 600_000},
        ADVICE,
        "GPU 0: 600 W are enforced, below its own limit of 700 W",
        "nvidia-smi -i 0 -q -d POWER",
    ),
    ({"ecc_pending": 0}, ADVICE, "GPU 0: ECC is on, and will be off after the next reset", "sudo nvidia-smi -i 0 -e 1"),
    (
        {"ecc": 0, "ecc_pending": 1},
        ADVICE,
        "GPU 0: ECC is off, and will be on after the next reset",
        "sudo nvidia-smi -i 0 -e 0",
    ),
    ({"compute_mode": 2}, PROBLEM, "GPU 0: its compute mode is prohibited", "sudo nvidia-smi -i 0 -c DEFAULT"),
    (
        {"power_limit_mw": 350_000},
        ADVICE,
        "GPU 0: power limit 350 W, its default is 700 W",
        "sudo nvidia-smi -i 0 -pl 700",
    ),
    ({"persistence": 0}, ADVICE, "GPU 0: persistence mode is off", "sudo nvidia-smi -i 0 -pm 1"),
    ({"slices": {"MIG-a": 10 * GIB}}, ADVICE, "GPU 0: a MIG slice", "sudo nvidia-smi -mig 0"),
]


@pytest.mark.parametrize("change, severity, what, mend", CARDS)
def test_what_is_wrong_with_a_card(monkeypatch, change, severity, what, mend):
    FakeNvml([Card(**change)]).install(monkeypatch)
    found = [finding for finding in machine_findings.gpu_findings() if finding.severity != OK]
    assert [(finding.severity, finding.what) for finding in found] == [(severity, what)]
    assert found[0].mend.startswith(mend)
    assert doctor.run_doctor() == (3 if severity == PROBLEM else 0)


def test_a_multi_process_server(monkeypatch, tmp_path):
    FakeNvml([Card()]).install(monkeypatch)
    monkeypatch.setattr(host, "_PROC", tmp_path)
    for pid, name in ((12, "bash"), (13, "nvidia-cuda-mps")):
        (tmp_path / str(pid)).mkdir()
        assert told(machine_findings.gpu_findings, PROBLEM) == []
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
    what, mend = "GPU 0: the Multi-Process Service runs here", "echo quit | sudo nvidia-cuda-mps-control"
    assert told(machine_findings.gpu_findings, PROBLEM) == [(what, mend)]


def test_the_power_cap_and_idle_are_no_fault(monkeypatch):
    FakeNvml([Card(throttle_reasons=0x05, power_limit_mw=None, persistence=None)]).install(monkeypatch)
    assert [finding.severity for finding in machine_findings.gpu_findings()] == [OK]


def test_a_driver_older_than_torch(monkeypatch):
    FakeNvml([Card()]).install(monkeypatch)
    monkeypatch.setattr(FakeNvml, "nvmlSystemGetCudaDriverVersion", lambda self: 12080)
    problem = told(machine_findings.gpu_findings, PROBLEM)
    assert problem == [
        (
            "GPU 0: its driver knows CUDA 12.8, torch was built for CUDA 13.0",
            "update the driver, or install a torch built for CUDA 12.8",
        )
    ]


def test_a_card_without_a_driver(monkeypatch):
    monkeypatch.setattr(machine_findings, "_nvidia_card_present", lambda: True)
    assert [what for what, _ in told(machine_findings.gpu_findings, PROBLEM)] == [
        "an NVIDIA card is here, but its driver does not answer"
    ]


def test_hidden_cards(monkeypatch):
    FakeNvml([Card()]).install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(host, "read_text", lambda path: "NVRM version")
    assert told(machine_findings.gpu_findings, ADVICE) == [
        ('CUDA_VISIBLE_DEVICES="" leaves no GPU visible', "unset CUDA_VISIBLE_DEVICES")
    ]


@pytest.mark.parametrize(
    "version, lacking, what, mend",
    [
        (None, None, "torch is not installed", 'pip install "torch>=2.9"'),
        ("2.8.1", None, "torch 2.8.1 is too old", 'pip install --upgrade "torch>=2.9"'),
        (
            "2.13.0+cpu",
            "a CPU build; get one: pip install x",
            "torch 2.13.0+cpu cannot use the GPU here",
            "pip install x",
        ),
    ],
)
def test_torch_that_will_not_do(monkeypatch, version, lacking, what, mend):
    FakeNvml([Card()]).install(monkeypatch)
    monkeypatch.setattr(machine_findings, "installed_version", lambda name: version)
    monkeypatch.setattr(machine_findings, "lacks_cuda_torch", lambda: lacking)
    assert told(machine_findings.torch_findings, PROBLEM) == [(what, mend)]


def test_a_cpu_torch_is_right_without_a_gpu(monkeypatch):
    monkeypatch.setattr(machine_findings, "lacks_cuda_torch", lambda: "a CPU build; get one: pip install x")
    assert [finding.severity for finding in machine_findings.torch_findings()] == [OK]


@pytest.mark.parametrize(
    "change, what, mend",
    [
        ({"governor": "powersave"}, 'CPU clock policy is "powersave"', "sudo cpupower frequency-set -g performance"),
        ({"quota_cores": 1.5}, "the container may use 1.5 of 8 cores' time", "taskset -c 0-0 attnbench ..."),
        ({"virtual_machine": True}, "a virtual machine", ""),
        ({"boost": True}, "CPU boost is on", "switch it off in the firmware"),
        (
            {"stolen": 0.034},
            "the host kept 3.4% of CPU time for others since boot",
            "a machine with CPUs of its own",
        ),
    ],
)
def test_a_cpu_that_is_not_steady(monkeypatch, change, what, mend):
    facts = {**host.cpu_facts(), **change}
    monkeypatch.setattr(host, "cpu_facts", lambda: facts)
    assert told(machine_findings.cpu_findings, ADVICE) == [(what, mend)]


@pytest.mark.parametrize(
    ("file", "text", "command"),
    [("intel_pstate/no_turbo", "0", "echo 1 | sudo tee {}"), ("cpufreq/boost", "1", "echo 0 | sudo tee {}")],
)
def test_how_boost_is_switched_off(monkeypatch, tmp_path, file, text, command):
    monkeypatch.setattr(host, "_SYS", tmp_path)
    assert host.boost_switch() is None and host.boost() is None
    path = tmp_path / "devices/system/cpu" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert host.boost() is True
    assert host.boost_switch() == command.format(path)


def test_the_share_that_the_host_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "_PROC", tmp_path)
    assert host.stolen_share() is None
    (tmp_path / "stat").write_text("cpu  100 0 0 850 0 0 0 50 30 0\ncpu0 1\n")
    assert host.stolen_share() == 0.05


def test_a_busy_machine(monkeypatch):
    assert told(machine_findings.cpu_findings, ADVICE) == []
    monkeypatch.setattr(machine_findings.os, "getloadavg", lambda: (5.25, 0, 0))
    assert [what for what, _ in told(machine_findings.cpu_findings, ADVICE)] == ["load average 5.2 on 8 cores"]
    monkeypatch.setattr(machine_findings.os, "getloadavg", lambda: (8.25, 0, 0))
    assert [what for what, _ in told(machine_findings.cpu_findings, PROBLEM)] == ["load average 8.2 on 8 cores"]
    monkeypatch.setattr(machine_findings, "gpus", lambda: (object(),))  # the work is the GPU's, launches are hidden
    assert [what for what, _ in told(machine_findings.cpu_findings, ADVICE)] == ["load average 8.2 on 8 cores"]


@pytest.mark.parametrize("gib, severity", [(64, OK), (4, ADVICE), (1, PROBLEM)])
def test_memory(monkeypatch, gib, severity):
    monkeypatch.setattr(host, "memory_bytes", lambda: gib * GIB)
    assert [finding.severity for finding in machine_findings.memory_findings()] == [severity]


@pytest.mark.parametrize("free_bytes, severity", [(100 * GIB, OK), (GIB, ADVICE), (10**7, PROBLEM)])
def test_disk(monkeypatch, free_bytes, severity):
    monkeypatch.setattr(machine_findings.shutil, "disk_usage", lambda path: SimpleNamespace(free=free_bytes))
    assert [finding.severity for finding in machine_findings.disk_findings()] == [severity]


def stub_backend(name, devices, reason):
    return name, SimpleNamespace(name=name, devices=devices, unavailable=lambda: reason)


def test_backends_by_what_keeps_them_out(monkeypatch):
    import attnbench.backends

    rows = [
        stub_backend("eager", ("cpu", "cuda"), None),
        stub_backend("peer", ("cuda",), "not installed; get it with: pip install peer"),
        stub_backend("other", ("cuda",), "it needs compute capability 10.0"),
        stub_backend("own", ("cuda",), "fwd.cu is not built; build it: attnbench kernels build"),
    ]
    monkeypatch.setattr(attnbench.backends, "builtin", lambda: dict(rows))
    assert list(examination.backend_findings()) == [
        Finding(OK, "backends that can run: eager"),
        Finding(NOT_APPLICABLE, "backends that need a GPU: peer, other, own"),
    ]
    FakeNvml([Card()]).install(monkeypatch)
    monkeypatch.setattr(examination, "installed_version", lambda name: None)
    assert list(examination.backend_findings()) == [
        Finding(OK, "backends that can run: eager"),
        Finding(ADVICE, "peer: not installed; get it with", "The run goes on without it.", "pip install peer"),
        Finding(NOT_APPLICABLE, "other: it needs compute capability 10.0"),
        Finding(
            ADVICE,
            "nvidia-cudnn-frontend is not installed",
            "cudnn then has no e4m3, and no causal mask where seqlen_q != seqlen_k.",
            "pip install --no-deps nvidia-cudnn-frontend",
        ),
    ]


def test_kernels_and_their_compiler(monkeypatch):
    from attnbench.hopper import schedules, toolchain
    from attnbench.machine_code.disassembler import ToolMissing

    def no_nvcc():
        raise ToolMissing("no nvcc")

    monkeypatch.setattr(toolchain, "find_nvcc", no_nvcc)
    monkeypatch.setattr(schedules, "missing", lambda schedule: "fwd.cu is not built; build it: attnbench kernels build")
    assert [what for what, _ in told(examination.kernel_findings, ADVICE)] == ["no nvcc"]
    FakeNvml([Card()]).install(monkeypatch)
    assert told(examination.kernel_findings, ADVICE)[1:] == [("fwd.cu is not built", "attnbench kernels build")]
    monkeypatch.setattr(schedules, "missing", lambda schedule: None)
    assert told(examination.kernel_findings, OK) == [("our own kernels are built and fresh", "")]


def test_printed_lines(monkeypatch, capsys):
    findings = [
        Finding(OK, "all well"),
        Finding(ADVICE, "a draught", "It is felt. " * 12, "close --the window"),
        Finding(PROBLEM, "a fire", "It burns.", "water"),
    ]
    monkeypatch.setattr(doctor, "all_findings", lambda: findings)
    assert doctor.run_doctor() == 3
    assert capsys.readouterr().out == (
        "ok             all well\n"
        "advice         a draught\n"
        + " " * 15 + "It is felt. It is felt. It is felt. It is felt. It is felt. It is felt. It is felt. It is felt.\n"
        + " " * 15 + "It is felt. It is felt. It is felt. It is felt.\n"
        + " " * 15 + "-> close --the window\n"
        "problem        a fire\n"
        + " " * 15 + "It burns.\n"
        + " " * 15 + "-> water\n"
        "not fit to measure: 1 problem, 1 piece of advice\n"
    )  # fmt: skip


def test_what_makes_figures_doubtful_is_one_line(monkeypatch):
    """Of the device that is measured, the gravest first, and nothing that only costs time or memory."""
    assert doctor.doubt_line("cpu") == "" and doctor.doubt_line("cuda") == ""
    monkeypatch.setattr(machine_findings.os, "getloadavg", lambda: (9.0, 0, 0))
    monkeypatch.setattr(host, "memory_bytes", lambda: GIB)
    monkeypatch.setattr(host, "cpu_facts", lambda: {
        "model": "x", "cores": 8, "logical": 8, "governor": "powersave", "boost": True, "quota_cores": 2.0,
        "virtual_machine": False,
    })  # fmt: skip
    assert doctor.doubt_line("cpu") == (
        'figures will be doubtful: load average 9.0 on 8 cores, CPU clock policy is "powersave", CPU boost is on and 1 '
        "more (attnbench doctor: why, and what to do)"
    )
    cards = [Card(), Card(uuid="GPU-2", persistence=0, ecc_pending=0, compute_pids=(7,), power_limit_mw=350_000)]
    FakeNvml(cards).install(monkeypatch)
    assert doctor.doubt_line("cuda") == doctor.doubt_line("cuda:0") == doctor.doubt_line("cuda:9") == ""
    assert doctor.doubt_line("cuda:1") == (
        "figures will be doubtful: GPU 1: 1 other compute process, GPU 1: power limit 350 W, its default is 700 W "
        "(attnbench doctor: why, and what to do)"
    )


@pytest.mark.parametrize(("options", "told"), [((), True), (("--no-time",), False), (("--dry-run",), False)])
def test_a_run_that_times_begins_with_that_line(monkeypatch, tmp_path, options, told):
    from click.testing import CliRunner

    from attnbench.cli.verbs import main
    from attnbench.run.runner import Outcome

    monkeypatch.setattr(machine_findings.os, "getloadavg", lambda: (9.0, 0, 0))
    monkeypatch.setattr("attnbench.cli.running.command.run_suite", lambda request: Outcome(request.out))
    words = ["run", "quick", "--device", "cpu", "--out", str(tmp_path / "run"), *options]
    printed = CliRunner().invoke(main, words).stdout
    assert printed.startswith("figures will be doubtful: load average 9.0 on 8 cores (attn") == told
    assert ("doubtful" in printed) == told


def test_it_needs_no_torch():
    code = (
        "import sys; from attnbench.cli.doctor import doubt_line, run_doctor; doubt_line('cpu'); run_doctor(); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "fit to measure" in done.stdout.splitlines()[-1]
