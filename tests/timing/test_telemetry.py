"""Telemetry of a fake GPU with a scripted life, and of a made-up /proc, on a fake clock: nothing here waits."""

import json
import os
import sys
import time

import pytest
import torch
from fakes.nvml import Card, FakeNvml, two_cards
from fakes.timing import COUNTED, OPTIONS, FakeClock, FakeRule, FakeTimer

from attnbench.machine import host, nvml
from attnbench.records.measurement import Conditions
from attnbench.settings import Timing
from attnbench.timing import conditions
from attnbench.timing import telemetry as telemetry_process
from attnbench.timing.conditions import Reading, make_judge, summarize
from attnbench.timing.measure import Turns, measure
from attnbench.timing.sampling import Unstable, Usability
from attnbench.timing.sensors import CPUINFO_EVERY, SLOW_EVERY, CpuSensor, NvmlSensor
from attnbench.timing.sentinel import take_sentinel
from attnbench.timing.telemetry import PERIOD_S, Telemetry, TelemetryProcess
from attnbench.timing.timers import CpuTimer


class ScriptedGpu:
    """A card, its telemetry, and a clock that both go by: `at` says what becomes of the card when."""

    def __init__(self, monkeypatch, **card):
        self.card = Card(sm_clock_mhz=1755, **card)
        self.lib = FakeNvml([self.card]).install(monkeypatch)
        self.clock = FakeClock()
        self.telemetry = Telemetry(NvmlSensor(0), self.clock, cpus=8)
        self.events: list[tuple[float, dict]] = []

    def at(self, time_s, **changes):
        self.events.append((time_s, changes))
        return self

    def run_until(self, end_s, watts=700.0):
        """Goes on in periods; the energy counter follows the power."""
        while self.clock.time_s < end_s - 1e-9:
            self.clock.time_s += PERIOD_S
            for time_s, changes in self.events:
                if time_s <= self.clock.time_s:
                    for name, value in changes.items():
                        setattr(self.card, name, value)
            if self.card.energy_mj is not None:
                self.card.energy_mj += round(watts * 1000 * PERIOD_S)
            self.telemetry.tick()
        return self


@pytest.fixture
def gpu(monkeypatch):
    return lambda **card: ScriptedGpu(monkeypatch, **card)


def test_a_block_is_joined_with_what_was_seen_while_it_ran(gpu):
    device = gpu(instant_power_mw=640_500, temperature_c=63, memory_temperature_c=71)
    device.at(1000.995, sm_clock_mhz=1700).at(1002.015, sm_clock_mhz=1980, temperature_c=90)
    device.run_until(1003.0)
    found = device.telemetry.between(1001.0 - 1e-6, 1002.0 + 1e-6)
    assert found.telemetry_samples == 101
    assert (found.sm_clock_mhz, found.sm_clock_spread) == (1700, 0)
    assert (found.power_w, found.power_limit_w, found.temperature_c, found.memory_temperature_c) == (640.5, 700, 63, 71)
    assert found.energy_j == pytest.approx(700.0) and found.energy_span_s == pytest.approx(1.0)
    assert (found.reasons, found.problems) == ((), ())


def test_the_mean_clock_and_its_spread(gpu):
    device = gpu().at(1000.505, sm_clock_mhz=1665)
    found = device.run_until(1001.0).telemetry.between(1000.0, 1001.0)
    assert found.sm_clock_mhz == pytest.approx((50 * 1755 + 50 * 1665) / 100)
    assert found.sm_clock_spread == pytest.approx(90 / 1755, rel=1e-5)
    assert device.telemetry.usability(found) == Usability(flags=(conditions.CLOCK_VARIED,))


@pytest.mark.parametrize(
    ("bits", "usability"),
    [
        (0x00, Usability()),
        (0x01, Usability(flags=("host_bound",))),
        (0x02, Usability(flags=("application_clocks",))),
        (0x04, Usability(flags=("power_capped",))),
        (0x08, Usability(discard="hardware slowdown")),
        (0x10, Usability()),
        (0x20, Usability(discard="software thermal slowdown")),
        (0x40, Usability(discard="hardware thermal slowdown")),
        (0x80, Usability(discard="power brake")),
        (0x100, Usability()),
        (0x06, Usability(flags=("application_clocks", "power_capped"))),
        (0x48, Usability(discard="hardware slowdown + hardware thermal slowdown")),
        (0x24, Usability(discard="software thermal slowdown", flags=("power_capped",))),
    ],
)
def test_every_reason_and_what_it_means_for_a_block(gpu, bits, usability):
    device = gpu(throttle_reasons=bits).run_until(1000.5)
    found = device.telemetry.between(1000.0, 1000.5)
    assert found.reasons == nvml.names(bits)
    assert device.telemetry.usability(found) == usability


def test_one_reading_of_a_slowdown_spoils_a_block_and_one_of_idle_does_not():
    def block(bits, places):
        readings = [Reading(n * PERIOD_S, reasons=bits if n in places else 0) for n in range(50)]
        return make_judge(8)(summarize(readings, 0.0, 0.5))

    assert block(0x40, {17}) == Usability(discard="hardware thermal slowdown")
    assert block(0x01, {0}) == Usability()  # how the GPU stood before the block
    assert block(0x01, {20, 21}) == Usability(flags=("host_bound",))


def test_a_reason_without_a_name_is_shown_by_its_number():
    assert nvml.names(0x204) == ("power cap", "reason 0x200")


def test_a_block_shorter_than_the_period_has_its_neighbours_readings(gpu):
    device = gpu().run_until(1000.1)
    found = device.telemetry.between(1000.052, 1000.058)
    assert found.telemetry_samples == 0 and found.sm_clock_mhz == 1755 and found.problems == ()
    late = device.telemetry.between(1005.0, 1005.1)
    assert late == Conditions(problems=("no reading in time",))
    assert device.telemetry.usability(late).flags == ("telemetry_incomplete",)


def test_what_a_card_does_not_answer_is_named_once_and_not_asked_again(gpu):
    device = gpu(energy_mj=None, memory_temperature_c=None, power_limit_mw=None).run_until(1001.0)
    found = device.telemetry.between(1000.0, 1001.0)
    assert (found.energy_j, found.memory_temperature_c, found.power_limit_w, found.problems) == (None, None, None, ())
    assert device.telemetry.usability(found) == Usability()
    never = {"energy_j", "memory_temperature_c", "power_limit_w"}
    assert device.telemetry.facts()["unsupported"] == dict.fromkeys(sorted(never), "Not Supported")
    assert device.lib.asked.count("nvmlDeviceGetTotalEnergyConsumption") == 1
    assert device.lib.asked.count("nvmlDeviceGetClockInfo") == 100 + 100 // SLOW_EVERY


def test_without_instant_power_the_drivers_average_is_taken_and_said(gpu):
    device = gpu(instant_power_mw=None, power_mw=333_000).run_until(1000.5)
    assert device.telemetry.between(1000.0, 1000.5).power_w == 333
    assert device.telemetry.facts() == {"sensor": "nvml", "period_s": 0.01, "power": "average", "unsupported": {}}


def test_a_query_that_fails_now_and_then_stands_in_the_conditions(gpu):
    device = gpu()
    device.at(1000.505, failing={"nvmlDeviceGetCurrentClocksEventReasons": "Unknown Error"}).run_until(1000.6)
    device.card.failing.clear()
    device.events.clear()
    device.run_until(1001.0)
    found = device.telemetry.between(1000.0, 1001.0)
    assert found.problems == ("reasons: Unknown Error",) and found.sm_clock_mhz == 1755
    assert device.telemetry.usability(found) == Usability(flags=("telemetry_incomplete",))
    assert device.telemetry.between(1000.7, 1001.0).problems == ()


def test_a_card_that_disappears_ends_nothing(gpu):
    device = gpu().at(1000.505, lost=True).run_until(1001.0)
    found = device.telemetry.between(1000.0, 1001.0)
    assert "sm_clock_mhz: GPU is lost" in found.problems and found.sm_clock_mhz == 1755
    gone = device.telemetry.between(1000.8, 1001.0)
    assert gone.sm_clock_mhz is None and "power_w: GPU is lost" in gone.problems
    assert device.telemetry.usability(gone) == Usability(flags=("telemetry_incomplete",))


@pytest.mark.parametrize(
    ("driver", "index", "text"), [(False, 0, "NVML: no driver answers"), (True, 3, "NVML: no such GPU")]
)
def test_a_gpu_that_nobody_can_watch_is_said_to_be_so(monkeypatch, driver, index, text):
    FakeNvml([Card()], driver=driver).install(monkeypatch)
    telemetry = Telemetry(NvmlSensor(index), clock := FakeClock())
    telemetry.tick()
    assert telemetry.between(clock.time_s - 1, clock.time_s).problems == (text,)


def test_the_card_that_was_asked_for_is_watched_and_the_session_is_closed(monkeypatch):
    cards = two_cards()
    cards[1].sm_clock_mhz = 1200
    lib = FakeNvml(cards).install(monkeypatch)
    sensor = NvmlSensor(1)
    assert sensor.values()["sm_clock_mhz"] == 1200 and lib.open_sessions == 1
    sensor.close()
    assert lib.open_sessions == 0


def test_a_slice_is_watched_by_its_whole_card(monkeypatch):
    FakeNvml([Card(slices={"MIG-a": 10 * 2**30}, sm_clock_mhz=1410)]).install(monkeypatch)
    assert NvmlSensor(0).values()["sm_clock_mhz"] == 1410


def test_an_old_driver_calls_the_reasons_otherwise(monkeypatch):
    lib = FakeNvml([Card()]).install(monkeypatch)
    monkeypatch.delattr(FakeNvml, "nvmlDeviceGetCurrentClocksEventReasons")
    lib.nvmlDeviceGetCurrentClocksThrottleReasons = lambda card: 0x04
    assert NvmlSensor(0).values()["reasons"] == 0x04


def test_an_energy_counter_that_runs_backwards_gives_no_energy(gpu):
    device = gpu().at(1000.5, energy_mj=3).run_until(1000.51)
    found = device.telemetry.between(1000.0, 1000.51)
    assert (found.energy_j, found.energy_span_s) == (None, None)
    assert found.problems == ("energy counter: a clock went backwards",)
    assert device.telemetry.usability(found) == Usability(flags=("clock_backwards",))


def test_readings_of_a_clock_that_was_set_back_are_not_mixed(gpu):
    device = gpu().run_until(1000.5)
    device.clock.time_s = 1000.1
    device.run_until(1000.3)
    found = device.telemetry.between(1000.1, 1000.3)
    assert "telemetry: a clock went backwards" in found.problems
    assert 20 <= found.telemetry_samples <= 22
    assert device.telemetry.usability(found) == Usability(flags=("clock_backwards",))


class BrokenSensor:
    name = "broken"

    def values(self):
        raise OSError("the bus is on fire")

    def facts(self):
        return {}

    def close(self):
        pass


def test_a_sensor_that_raises_is_data_too():
    telemetry = Telemetry(BrokenSensor(), FakeClock())
    telemetry.tick()
    assert telemetry.between(999.0, 1001.0).problems == ("broken: the bus is on fire",)


class WatchedTimer(FakeTimer):
    """Runs on the scripted GPU: the telemetry ticks while samples are taken, and clocks decide their length."""

    def __init__(self, device):
        super().__init__(device.clock, iter(()))
        self.device = device

    def take(self, calls, count, calls_per_sample, before):
        samples = []
        for _ in range(count):
            next(calls)()
            sample_s = 0.01 * 1755 / self.device.card.sm_clock_mhz
            self.device.run_until(self.clock.time_s + sample_s)
            samples.append(sample_s)
        return samples


def measured(device, enough=40):
    def watched_sleep(seconds):
        device.run_until(device.clock.time_s + seconds)
        device.clock.slept.append(seconds)

    device.clock.sleep = watched_sleep
    timer = WatchedTimer(device)
    options = OPTIONS.model_copy(update={"max_time_s": 100.0})
    return measure(Turns(COUNTED), options, timer, device.clock, FakeRule(enough), watch=device.telemetry)


def test_a_throttled_block_enters_no_number_and_is_counted(gpu):
    """The card throttles to half its clock for a while in the middle: no sample of that time is in the measurement."""
    device = gpu()
    start_s = 1000.0 + 0.05 + 0.5  # the warm-up
    device.at(start_s + 0.15, throttle_reasons=0x40, sm_clock_mhz=877)
    device.at(start_s + 2.0, throttle_reasons=0, sm_clock_mhz=1755)
    found = measured(device)
    assert set(found.samples_s) == {0.01}
    assert found.discarded == {"hardware thermal slowdown": 1}
    assert [block.conditions.sm_clock_mhz for block in found.blocks] == [1755.0] * len(found.blocks)
    assert all("hardware thermal slowdown" not in block.conditions.reasons for block in found.blocks)
    assert 40 <= sum(block.sample_count for block in found.blocks) < 50


def test_a_card_that_throttles_throughout_is_unstable(gpu):
    with pytest.raises(Unstable, match=r"software thermal slowdown \(4 blocks\)"):
        measured(gpu(throttle_reasons=0x20))


def test_a_power_cap_is_kept_and_said(gpu):
    found = measured(gpu(throttle_reasons=0x04))
    assert found.flags == ("power_capped",) and found.discarded == {} and len(found.samples_s) >= 40


PROC = {
    "proc/stat": "cpu  1000 0 500 8000 0 0 0 500 77 0\ncpu0 1 2 3\n",
    "proc/loadavg": "2.50 1.00 0.50 3/99 12345\n",
    "proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2600.5\n\nprocessor\t: 1\ncpu MHz\t\t: 2400.5\n",
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(host, "_SYS", tmp_path / "sys")
    monkeypatch.setattr(host, "cpus_allowed", lambda: (0, 1))

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write(PROC)
    return write


def test_a_machine_without_a_gpu_is_watched_by_its_cpus(machine):
    telemetry = Telemetry(CpuSensor(), clock := FakeClock(), cpus=2)
    telemetry.tick()
    machine({"proc/stat": "cpu  1080 0 510 8000 0 0 0 510 77 0\n"})  # 100 ticks more, 10 of them stolen
    clock.time_s += 1.0
    telemetry.tick()
    found = telemetry.between(1000.0, 1001.0)
    assert (found.cpu_clock_mhz, found.load, found.telemetry_samples) == (2500.5, 2.5, 2)
    assert found.stolen == pytest.approx(0.1)
    assert telemetry.usability(found) == Usability(flags=("cpu_stolen",))
    assert telemetry.facts() == {"sensor": "proc", "period_s": 0.01, "cpu_clock_from": "cpuinfo", "steal": True}
    machine({"proc/loadavg": "2.51 1 1 1/1 1\n"})
    clock.time_s += 1.0
    telemetry.tick()
    assert telemetry.usability(telemetry.between(1001.5, 1002.0)).flags == ("cpu_loaded",)


def test_the_kernels_own_clock_figures_come_first(machine):
    folder = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
    machine({folder.format(0): "3100000\n", folder.format(1): "2900000\n"})
    sensor = CpuSensor()
    assert sensor.values()["cpu_clock_mhz"] == 3000 and sensor.facts()["cpu_clock_from"] == "cpufreq"
    machine({folder.format(0): "1000000\n"})
    assert sensor.values()["cpu_clock_mhz"] == 1950


def test_cpuinfo_is_slow_and_seldom_asked(machine):
    sensor = CpuSensor()
    sensor.values()
    machine({"proc/cpuinfo": "cpu MHz\t: 1000.0\n"})
    seen = [sensor.values()["cpu_clock_mhz"] for _ in range(CPUINFO_EVERY)]
    assert seen == [2500.5] * (CPUINFO_EVERY - 1) + [1000.0]


def test_a_kernel_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "_PROC", tmp_path)
    monkeypatch.setattr(host, "_SYS", tmp_path)
    sensor = CpuSensor()
    assert sensor.values() == {"cpu_clock_mhz": None}
    assert sensor.facts() == {"cpu_clock_from": None, "steal": False}
    sensor.close()


@pytest.fixture
def process():
    started = []

    def start(*command, device="cpu"):
        started.append(TelemetryProcess(device, 4, tuple(command)))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def test_the_process_answers_with_what_it_saw(process):
    watch = process()
    facts = watch.facts()
    assert (facts["sensor"], facts["period_s"]) == ("proc", PERIOD_S)
    start_s = watch.clock.now()
    while (found := watch.between(start_s, watch.clock.now())).telemetry_samples < 3 and not found.problems[1:]:
        assert watch.clock.now() < start_s + 60
    assert found.load is not None and watch.usability(found).discard is None


def test_a_process_that_dies_is_a_problem_on_every_block_and_no_failure(process):
    watch = process()
    assert watch.facts()["sensor"] == "proc"
    watch._process.kill()
    watch._process.wait()
    for _ in range(2):
        found = watch.between(0.0, 1.0)
        assert found == Conditions(problems=("telemetry: its process ended",))
    assert watch.usability(found) == Usability(flags=("telemetry_incomplete",))


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("/no/such/program",), "telemetry: it could not start: No such file or directory"),
        ((sys.executable, "-c", "raise SystemExit(3)"), "telemetry: its process ended"),
        ((sys.executable, "-c", "print('no', flush=True); input(); input()"), "telemetry: its process ended"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "telemetry: no answer within 0.2 s"),
    ],
)
def test_a_process_that_is_of_no_use_is_ended_and_said(process, monkeypatch, command, text):
    monkeypatch.setattr(telemetry_process, "START_TIMEOUT_S", 0.2)
    monkeypatch.setattr(telemetry_process, "ANSWER_TIMEOUT_S", 0.2)
    watch = process(*command)
    if "print" not in command[-1] and "SystemExit" not in command[-1]:
        assert watch.facts() == {"lost": text}
    else:
        monkeypatch.setattr(telemetry_process, "ANSWER_TIMEOUT_S", 30.0)
    assert watch.between(0.0, 1.0).problems == (text,)


def test_another_attnbench_in_the_folder_does_not_take_its_place(process, tmp_path, monkeypatch):
    (tmp_path / "attnbench").mkdir()
    (tmp_path / "attnbench" / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert process().facts()["sensor"] == "proc"


def test_it_ends_with_its_parent(process):
    watch = process()
    child = watch._process
    assert watch.facts()["sensor"] == "proc"
    child.stdin.close()
    assert child.wait(30) == 0
    watch.stop()


def test_a_reading_is_taken_every_period_and_questions_are_answered_between(monkeypatch):
    """The loop itself, with pipes: what is asked is answered in order, and the end of the questions ends it."""
    device = ScriptedGpu(monkeypatch, throttle_reasons=0x04)
    questions, answers = (os.pipe() for _ in range(2))
    os.write(questions[1], b'{"ask": "facts"}\n{"ask": "between", "start_s": 0, "end_s": 1e12}\n')
    os.close(questions[1])
    device.telemetry.tick()
    with open(questions[0], "rb", buffering=0) as asked, open(answers[1], "wb", buffering=0) as told:
        telemetry_process.serve(device.telemetry, asked, told, period_s=0.0)
    with open(answers[0]) as told:
        facts, seen = map(json.loads, told)
    assert facts["sensor"] == "nvml"
    assert seen["reasons"] == ["power cap"] and seen["telemetry_samples"] >= 2
    assert Conditions.of(seen).sm_clock_mhz == 1755


@pytest.mark.parametrize(("device", "kind"), [("cpu", CpuSensor), ("cuda", NvmlSensor), ("cuda:1", NvmlSensor)])
def test_the_sensor_of_a_device(monkeypatch, device, kind):
    FakeNvml(two_cards()).install(monkeypatch)
    assert type(telemetry_process.sensor_of(device)) is kind


def test_a_watched_measurement_of_a_real_process(process):
    """Everything real: readings joined by time to a block of busy calls, within the second that it took."""
    watch = process()
    watch.facts()
    options = Timing(min_samples=10, min_time_s=0.001, max_time_s=0.2, warmup_s=0.0)
    found = measure(Turns(COUNTED), options, CpuTimer(), watch=watch)
    (block,) = found.blocks
    assert block.conditions.load is not None and block.duration_s > 0
    assert abs(block.start_s - time.time()) < 60


on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: no NVIDIA GPU")]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_a_gpu)])
def test_a_real_gpu_is_watched_while_it_works(process, device):
    watch = process(device=device)
    facts = watch.facts()
    assert facts["sensor"] == "nvml" and facts["power"] == "instant", facts
    sentinel = take_sentinel(device, watch)
    assert sentinel["gemm_flops_per_s"] > 1e13 and sentinel["copy_bytes_per_s"] > 1e11, sentinel
    seen = Conditions.of(sentinel["gemm"]["conditions"])
    assert seen.telemetry_samples > 10 and 300 < seen.sm_clock_mhz < 3000 and 50 < seen.power_w < 2000
    assert seen.energy_j and seen.problems == ()
    assert seen.energy_j / seen.energy_span_s == pytest.approx(seen.power_w, rel=0.2)  # two ways to the same watts
