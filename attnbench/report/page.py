"""Records to markdown: a pure function of the run directories. Same records in, same bytes out, plots included."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnbench import units
from attnbench.markdown import anonymous, bullets, code, details, fence, label, listing, plain, table
from attnbench.records import store
from attnbench.records.environment import gpu_of, section
from attnbench.records.measurement import Measurement
from attnbench.records.output import empty_plots, mark, refuse_output, write_output
from attnbench.records.stats import CONFIDENCE, OUTLIER_Z
from attnbench.report import plots
from attnbench.report.causes import FAILED
from attnbench.report.data import LabelledRun, ReportData, gather
from attnbench.report.emulated import emulated_section
from attnbench.report.errors import error_sections
from attnbench.report.failures import incomplete_section, warnings_section
from attnbench.report.fp8 import accuracy_lab_sections
from attnbench.report.interpreted import interpreted_section
from attnbench.report.memory import memory_section
from attnbench.report.speed import TIE, speed_sections
from attnbench.report.summary import summary_section
from attnbench.report.telemetry import telemetry_section
from attnbench.units import count

# The first line of what is written here; a file without it is somebody else's.
MARK = mark("report")
OPTION = "-o"


def write_report(runs: Iterable[str | Path], output: str | Path, overwrite: bool = False) -> Path:
    """Writes the report of one or more run directories to `output`, its plots into `<stem>_plots/` beside it.

    Several runs that measured different things on one machine read as one; otherwise each keeps its own columns, under
    a letter. Plots of an earlier report of that name are replaced. Returns `output`. Raises StoreError for what is no
    run directory, for an output that cannot be written, and for one that is there and is no report, unless `overwrite`.
    """
    output = Path(output)
    with store.without_collection():
        write_report_of([store.read(run) for run in runs], output, overwrite)
    return output


def write_report_of(runs: Sequence[store.Run], output: Path, overwrite: bool = False) -> None:
    """The same for runs that were read."""
    refuse_output(output, overwrite, OPTION, MARK)
    try:
        _write(gather(runs), output, output.with_name(f"{output.stem}_plots"), overwrite)
    except OSError as error:
        raise store.StoreError(f"cannot write the report {output}: {error.strerror}") from None


def _write(data: ReportData, output: Path, folder: Path, overwrite: bool) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    empty_plots(folder, overwrite, OPTION)
    rates = plots.rate_plots(data, folder)
    failed = any(result.record.status in FAILED for result in data.cells.values())
    incomplete = incomplete_section(data)
    memory = plots.memory_plots(data, folder)
    errors = plots.error_plots(data, folder)
    first = rates or errors
    sections = [
        MARK,
        title(data),
        *summary_section(data, first[:1]),
        *(incomplete if failed else ()),
        *environment_section(data),
        *speed_sections(data, rates[1:]),
        *memory_section(data, memory),
        *telemetry_section(data),
        *error_sections(data, errors if rates else errors[1:]),
        *accuracy_lab_sections(data, folder),
        *emulated_section(data),
        *interpreted_section(data),
        *(() if failed else incomplete),
        *warnings_section(data),
        *conventions_section(data),
        *reproduce_section(data),
    ]
    write_output(output, "\n\n".join(sections) + "\n", overwrite, OPTION, MARK)


# What surrounds the numbers: the machine, the conventions that they follow, and how to make them again.

NOT_RECORDED = "not recorded"
MAX_SUITE_LINES = 400
PEAK = (
    "Peak: SMs x datasheet tensor-core clock x dense FLOP per clock and SM, by architecture and never by name "
    "(132 SMs of compute capability 9.0: x 1.83 GHz x 4096 = 989 TFLOPS for fp16 and bf16, twice that for e4m3, e5m2)."
)
OWN_GEMM = (
    "Own GEMM: the median rate of a large bf16 GEMM that the run itself measured at its start, every few minutes and "
    "at its end. There is no share of it for e4m3 and e5m2, which run at another rate."
)
# Facts without which timings cannot be judged: their absence is shown too.
EXPECTED = ("CPU", "memory", "GPU", "torch", "attnbench revision")


def environment_section(data: ReportData) -> list[str]:
    """One column a run; a fact that no run recorded has no row, except for those that every run should have."""
    columns = [dict(_facts(entry)) for entry in data.runs]
    facts = dict.fromkeys(
        fact for column in columns for fact, value in column.items() if fact in EXPECTED or value != NOT_RECORDED
    )
    headers = [
        "",
        *(label(f"{entry.letter}: {entry.run.name}" if len(data.runs) > 1 else entry.run.name) for entry in data.runs),
    ]
    rows = [["records", *(f"{len(entry.run.records):,}" for entry in data.runs)]]
    rows += [[label(fact), *(plain(anonymous(column.get(fact, NOT_RECORDED))) for column in columns)] for fact in facts]
    versions = {(series, result.record.backend_version) for (_, series), result in data.cells.items()}
    rows_by_backend = [
        [code(series), plain(anonymous(version)) or NOT_RECORDED] for series, version in sorted(versions)
    ]
    return [
        "## Machine",
        table(headers, rows, left=len(headers)),
        table(["backend", "version"], rows_by_backend, left=2),
    ]


def _facts(entry: LabelledRun) -> Iterator[tuple[str, str]]:
    """(name, value as text) of what a reader of timings asks for; `not recorded` where the environment is silent."""
    environment = entry.run.environment
    cpu, versions, own = (section(environment, name) for name in ("cpu", "versions", "attnbench"))
    worker = section(environment, "worker")
    yield "date (UTC)", _text(environment.get("collected_utc"))
    yield "CPU", _text(cpu.get("model"))
    yield "cores usable", _text(cpu.get("cores"))
    yield "CPU quota", _text(cpu.get("quota_cores"), lambda cores: f"{cores:g} cores")
    yield "threads", _text(section(worker, "threads").get("intra_op"))
    yield "clock policy", _text(cpu.get("governor"))
    yield "boost", _text(cpu.get("boost"), _yes)
    yield "load before it", _text(cpu.get("load"), lambda load: f"{load:.2f}")
    yield "virtual machine", _text(cpu.get("virtual_machine"), _yes)
    yield "memory", _text(environment.get("memory_bytes"), units.show_bytes)
    yield from _gpu_facts(environment)
    gemm = entry.machine.gemm_flops_per_s
    yield "own bf16 GEMM", _text(gemm, lambda rate: units.show_rate(rate, 4))
    yield "operating system", _text(section(environment, "os").get("distribution"))
    yield "Python", _text(section(environment, "python").get("version"))
    yield "torch", _text(section(worker, "torch").get("version") or versions.get("torch"))
    for library in sorted(set(versions) - {"torch"}):
        yield library, _text(versions[library])
    yield "nvcc", _text(environment.get("nvcc"))
    for kernel, sha in sorted(section(environment, "kernels").items()):
        yield f"kernels/{kernel}", f"sha256 {sha}"
    yield "plugins", trust_words(section(environment, "trust"))
    yield "attnbench revision", _text(own.get("revision")) + (" with local changes" if own.get("dirty") else "")
    yield "resumed", _text(len(environment.get("resumed") or ()) or None, lambda times: count(times, "time"))


def _gpu_facts(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    gpu = gpu_of(environment)
    yield "GPU", _text(gpu.get("name")) if gpu else _absent_gpu(environment)
    yield "compute capability", _text(gpu.get("compute_capability"), _dotted)
    yield "SMs", _text(gpu.get("sm_count"))
    yield "L2", _text(gpu.get("l2_bytes"), units.show_bytes)
    yield "GPU memory", _text(gpu.get("memory_bytes"), units.show_bytes)
    yield "power limit", _text(gpu.get("power_limit_w"), lambda watts: f"{watts:g} W")
    yield "default power limit", _text(gpu.get("default_power_limit_w"), lambda watts: f"{watts:g} W")
    yield "maximum SM clock", _text(gpu.get("max_sm_clock_mhz"), lambda mhz: f"{mhz:g} MHz")
    yield "application SM clock", _text(gpu.get("application_sm_clock_mhz"), lambda mhz: f"{mhz:g} MHz")
    yield "ECC", _text(gpu.get("ecc"), _yes)
    yield "MIG slice", _text(gpu.get("mig"), _yes)
    yield "MPS server", _text(gpu.get("mps"), _yes)
    yield "other processes on the GPU", _text(gpu.get("other_processes"))
    yield "driver", _text(gpu.get("driver"))
    yield "CUDA of the driver", _text(gpu.get("cuda_driver"))


def _text(value: Any, show: Callable[[Any], str] = str) -> str:
    return NOT_RECORDED if value is None else show(value)


def trust_words(trust: Mapping[str, Any]) -> str:
    """Whether plugins shared the judge's process; of those that did not, what protection the system lacked."""
    if trust.get("mode") != "untrusted":
        return NOT_RECORDED
    missing = trust.get("missing")
    return "untrusted, in processes of their own" + (f"; without {'; '.join(missing)}" if missing else "")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _absent_gpu(environment: Mapping[str, Any]) -> str:
    """`gpu` is null where the run kept to the CPU; absent where nobody looked."""
    if environment.get("gpu_count"):
        return "not used"
    return "none" if "gpu" in environment else NOT_RECORDED


def _dotted(value: Any) -> str:
    return ".".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def conventions_section(data: ReportData) -> list[str]:
    lines = [
        "Layout (batch, seqlen, heads, head_dim). Causal is bottom-right aligned: query i sees key j when "
        "j <= i + seqlen_k - seqlen_q.",
        "FLOPs = 2 x attended pairs x num_heads x batch x (head_dim + head_dim_v); attended pairs of a head: "
        "seqlen_q x seqlen_k, causal only those that the mask lets through, counted exactly. No FLOPs for the softmax, "
        "no credit for masked or recomputed work.",
        "GB/s: compulsory traffic (q, k, v, out, lse, descales, once each) over the median time.",
        *([PEAK] if any(result.peak_flops_per_s for result in data.timed.values()) else []),
        *([OWN_GEMM] if any(result.gemm_flops_per_s for result in data.timed.values()) else []),
        *_measured(data),
        "Times are medians over the kept samples. Their interval has at least "
        f"{100 * CONFIDENCE:.0f} % coverage unless another is given: order statistics of process, block or batch "
        f"medians, never of single samples. Outliers (modified Z over {OUTLIER_Z:g}) are flagged and kept.",
        "By how much who is fastest: the geometric mean of the speedups of all cases; in brackets, of the least and of "
        "the most that the intervals of both medians allow in each case (from the 10th to the 90th percentile where "
        "there are too few samples for one).",
        f"Too close to call (level): medians within {100 * TIE:g} % of each other, or with intervals that overlap "
        "(from the 10th to the 90th percentile where there are too few samples for an interval).",
        "prep: what `prepare` did once before the first call, wall time (allocation, transposes, plans); for e4m3 and "
        "e5m2 instead what use repeats for every call, quantization, timed like a call: by the backend's own quantizer "
        "where it has one, else by the reference quantizer, which is not written for speed. Records from before that "
        "was timed hold the former only, and say so. compile: how much longer the first call took than a later one.",
        "Limits: a factor times the error of an eager reference in the same precision, at least half the output "
        "dtype's machine epsilon. Nothing is timed that did not pass.",
    ]
    return ["## Conventions", bullets(lines)]


def _measured(data: ReportData) -> Iterator[str]:
    timing = Counter(_timing(result.measurement) for result in data.timed.values())
    if timing:
        kinds = [f"{words} ({number:,})" if len(timing) > 1 else words for words, number in timing.most_common()]
        yield f"Measured: {'; '.join(kinds)}."
    if len(timing) > 1:
        yield "**Measurements of different timer, regime or cache stand in one report: compare within each.**"


def _timing(measurement: Measurement) -> str:
    processes = len({block.process for block in measurement.blocks})
    return (
        f"timer {code(measurement.timer)}, regime {code(measurement.regime)}, cache {code(measurement.cache)}, "
        f"{count(processes, 'process', 'processes')}"
    )


def reproduce_section(data: ReportData) -> list[str]:
    """The commands, with run directories under `results/` as `run` makes them, and each resolved suite, folded."""
    commands = [f"{_run_command(entry)}    # suite {_suite_name(entry)}" for entry in data.runs]
    commands.append(shlex.join(["attnbench", "report", *(f"results/{entry.run.name}" for entry in data.runs)]))
    text = "Each run directory holds the suite as it ran:"
    parts = ["## How to reproduce", f"{text}\n\n{fence(chr(10).join(commands), 'sh')}"]
    for entry in data.runs:
        lines = entry.run.suite_text.splitlines()
        if lines and len(lines) <= MAX_SUITE_LINES:
            parts.append(details(f"Suite of {entry.run.name}", fence(entry.run.suite_text, "yaml")))
    return parts


def _run_command(entry: LabelledRun) -> str:
    """With the plugins that the run was given; of their paths only the last part, as everywhere in a report."""
    plugins = entry.run.environment.get("plugins") or ()
    asked = [word for spec in plugins for word in ("--plugin", anonymous(spec))]
    return shlex.join(["attnbench", "run", f"results/{entry.run.name}/suite.yaml", *asked])


def _suite_name(entry: LabelledRun) -> str:
    return entry.run.suite_name or NOT_RECORDED


def title(data: ReportData) -> str:
    names = list(dict.fromkeys(_suite_name(entry) for entry in data.runs))
    machines = list(dict.fromkeys(entry.machine.name for entry in data.runs))
    named = [label(suite if suite != NOT_RECORDED else data.runs[0].run.name) for suite in names]
    return f"# attnbench: {listing(named)} on {listing([plain(anonymous(machine)) for machine in machines])}"
