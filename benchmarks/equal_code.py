"""The same small job, measured twice by several tools under a made load: how often does each call equal code slower?

attnbench (`ab`), pyperf, pytest-benchmark, asv and hyperfine measure one job (numpy matrix products), each by the rule
that it offers for such a comparison; nvbench's rule is applied to attnbench's own samples. TIMES comparisons of equal
code under a load that comes and goes (made_load.py), and TIMES of a job that does 15 % more work, without a load. The
tools are installed, pinned, into a temporary virtual environment. Prints a markdown table. Exit status 1 where
attnbench calls equal code slower, or misses the 15 % once on a machine that was quiet.
Usage: equal_code.py [--times N] [--tool NAME]... [--no-found] [--load PROCESSES]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ab_null import git
from made_load import made_load

from attnbench.records.store import read

ROOT = Path(__file__).resolve().parent.parent
PINNED = ("numpy==2.4.6", "pyperf==2.11.0", "pytest==9.2.0", "pytest-benchmark==5.3.1", "asv==0.6.6",
          "astral-dev-toolchain-hyperfine==2.0.0")  # fmt: skip
TIMES, MORE = 20, 0.15
UNITS = 100  # of work in a call, some milliseconds
# hyperfine times a whole command: so many calls, beside what Python takes to start.
CALLS_PER_COMMAND = 20
ASV_FACTOR, PYTEST_MEAN = 1.1, 5
QUIET_LOAD = 0.5
JOB = """
import numpy

PAD = numpy.random.default_rng(0).standard_normal((64, 64)).astype("float32") / 8


def job(units):
    pad = PAD
    for _ in range(units):
        pad = numpy.tanh(pad @ PAD)
    return pad
"""
KERNEL = """
import torch
{job}

def mine(q, k, v, *, causal, softmax_scale):
    job({units})
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    out = (q @ k.transpose(2, 3) * softmax_scale).softmax(dim=-1) @ v
    return out.transpose(1, 2).contiguous().to(torch.float16)
"""
SUITE = """
name: job
groups:
  - {name: job, axes: {dtype: fp16, head_dim: 16, causal: false, seqlen: 16, batch: 1, num_heads: 1}}
timing: {min_samples: 30, min_time_s: 0.3, max_time_s: 3, warmup_s: 0.1, cache: warm}
checks: {repeats: 0}
"""
PYPERF = "import os, pyperf\nfrom job import job\npyperf.Runner().bench_func('job', job, int(os.environ['UNITS']))\n"
PYTEST = "import os\nfrom job import job\n\ndef test_job(benchmark):\n    benchmark(job, int(os.environ['UNITS']))\n"
ASV = """
import os
import sys

sys.path.insert(0, os.environ["JOB"])
from job import job


class Job:
    def time_job(self):
        job(int(os.environ["UNITS"]))
"""
ASV_CONFIGURATION = {"version": 1, "project": "job", "project_url": "none", "repo": ".", "branches": ["main"],
                     "environment_type": "existing", "benchmark_dir": "suite"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tools are (`binaries`), and a folder for what one comparison writes."""

    binaries: Path
    folder: Path

    def call(self, *command: str | Path, units: int = 0, may_fail: bool = False) -> str:
        """What a command of the tools printed; one thread, and UNITS of work a call."""
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        more = {"UNITS": str(units), "JOB": str(self.folder), "HOME": str(self.folder), **one_thread}
        done = subprocess.run(
            [self.binaries / command[0], *command[1:]], cwd=self.folder, env={**os.environ, **more},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode != 0 and not may_fail:
            sys.exit(f"{' '.join(map(str, command))} ended with status {done.returncode}:\n{done.stdout}")
        return done.stdout


# Each function measures the job twice, with `units` of work a call, and says whether its tool calls the second slower.


def pyperf(place: Place, units: Sequence[int]) -> dict[str, bool]:
    (place.folder / "bench.py").write_text(PYPERF)
    inherited = "UNITS,OMP_NUM_THREADS,OPENBLAS_NUM_THREADS,MKL_NUM_THREADS"
    for name, each in zip("ab", units):
        place.call("python", "bench.py", "--fast", "--inherit-environ", inherited, "-o", f"{name}.json", units=each)
    return {"pyperf": pyperf_slower(place.call("python", "-m", "pyperf", "compare_to", "a.json", "b.json"))}


def pyperf_slower(printed: str) -> bool:
    """Where its t test finds no difference, it says that the benchmark is not significant and no more."""
    return "slower" in printed


def pytest_benchmark(place: Place, units: Sequence[int]) -> dict[str, bool]:
    (place.folder / "test_job.py").write_text(PYTEST)
    storage = "--benchmark-storage=file://./saved"
    place.call("pytest", "-q", "test_job.py", storage, "--benchmark-save=a", units=units[0])
    held = ("--benchmark-compare=0001", f"--benchmark-compare-fail=mean:{PYTEST_MEAN}%")
    return {"pytest-benchmark": "Performance has regressed" in place.call(
        "pytest", "-q", "test_job.py", storage, *held, units=units[1], may_fail=True)}  # fmt: skip


def asv(place: Place, units: Sequence[int]) -> dict[str, bool]:
    """Its statistics and the factor, over two commits of a repository; both by the interpreter that is there."""
    (place.folder / "suite").mkdir()
    (place.folder / "suite" / "__init__.py").touch()
    (place.folder / "suite" / "bench.py").write_text(ASV)
    (place.folder / "asv.conf.json").write_text(json.dumps(ASV_CONFIGURATION))
    git(place.folder, "init", "--quiet", "--initial-branch", "main")
    place.call("asv", "machine", "--yes")
    commits = []
    for name, each in zip("ab", units):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        git(place.folder, *identity, "commit", "--quiet", "--allow-empty", "-m", name)
        commits.append(subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=place.folder, text=True).strip())
        place.call("asv", "run", "-E", f"existing:{place.binaries / 'python'}", "--set-commit-hash", commits[-1],
                   units=each)  # fmt: skip
    return {"asv": asv_slower(place.call("asv", "compare", "--factor", str(ASV_FACTOR), *commits))}


def asv_slower(printed: str) -> bool:
    """Its table marks what got slower by more than the factor, and significantly so, with a + in the first column."""
    return any(line.replace(" ", "").startswith("|+|") for line in printed.splitlines())


def hyperfine(place: Place, units: Sequence[int]) -> dict[str, bool]:
    found = []
    for name, each in zip("ab", units):
        code = f"from job import job; [job({each}) for _ in range({CALLS_PER_COMMAND})]"
        command = f"{place.binaries / 'python'} -c '{code}'"
        place.call("hyperfine", "-N", "--style", "none", "--export-json", f"{name}.json", command)
        (result,) = json.loads((place.folder / f"{name}.json").read_text())["results"]
        found.append([one["time_wall_clock"]["value"] for one in result["measurements"]])
    return {"hyperfine": intervals_apart(*found)}


def intervals_apart(before_s: Sequence[float], after_s: Sequence[float]) -> bool:
    """Whether the second's mean less its standard deviation is above the first's mean and deviation."""
    (low, spread), (high, other) = ((statistics.fmean(one), statistics.stdev(one)) for one in (before_s, after_s))
    return high - other > low + spread


def attnbench(place: Place, units: Sequence[int]) -> dict[str, bool]:
    """`ab` of two revisions whose kernel does the job; and nvbench's rule on the samples of both sides."""
    repository = place.folder / "repository"
    repository.mkdir()
    (repository / "suite.yaml").write_text(SUITE)
    git(repository, "init", "--quiet")
    for name, each in zip("ab", units):
        (repository / "kernel.py").write_text(KERNEL.format(job=JOB, units=each) + f"\n# {name}\n")
        git(repository, "add", ".")
        git(repository, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", name)
        git(repository, "tag", name)
    command = [sys.executable, "-m", "attnbench", "ab", "--base", "a", "--head", "b", "suite.yaml", "--plugin",
               "kernel.py:mine", "--device", "cpu", "--out", "../ab"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, text=True, capture_output=True)
    if done.returncode not in (0, 1, 3):
        sys.exit(f"ab ended with status {done.returncode}:\n{done.stdout}\n{done.stderr}")
    samples = [read(place.folder / "ab" / side).records[0].measurement for side in ("base", "head")]
    found = {"attnbench": done.returncode == 1}
    if all(samples):
        found["nvbench's rule"] = nvbench_slower(*(one.samples_s for one in samples if one is not None))
    return found


def nvbench_slower(before_s: Sequence[float], after_s: Sequence[float]) -> bool:
    """Its scripts/nvbench_compare.py: slower by more than the smaller one of the relative standard deviations."""
    means = [statistics.fmean(one) for one in (before_s, after_s)]
    noises = [statistics.stdev(one) / mean for one, mean in zip((before_s, after_s), means)]
    return means[1] / means[0] - 1 > min(noises)


Measured = Callable[[Place, Sequence[int]], dict[str, bool]]
TOOLS: dict[str, Measured] = {
    "attnbench": attnbench, "pyperf": pyperf, "pytest-benchmark": pytest_benchmark, "asv": asv, "hyperfine": hyperfine,
}  # fmt: skip
RULES = {
    "attnbench": "`ab`: status 1, margin 1 %, 5 pairs of processes",
    "nvbench's rule": "on attnbench's samples: apart by more than the smaller relative deviation",
    "pyperf": "`compare_to` (`--fast`): t test finds it slower",
    "pytest-benchmark": f"`--benchmark-compare-fail=mean:{PYTEST_MEAN}%`",
    "asv": f"`compare --factor {ASV_FACTOR}`",
    "hyperfine": "mean +- deviation apart",
}


def counted(binaries: Path, tools: Sequence[str], times: int, units: Sequence[int], what: str) -> dict[str, list[bool]]:
    """By tool, whether each of `times` comparisons came out slower; with a line each."""
    found: dict[str, list[bool]] = {}
    for place in range(times):
        for tool in tools:
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "job.py").write_text(JOB)
                said = TOOLS[tool](Place(binaries, Path(folder)), units)
            for name, slower in said.items():
                found.setdefault(name, []).append(slower)
            words = ", ".join(f"{name} {'slower' if slower else 'not slower'}" for name, slower in said.items())
            print(f"{what} {place + 1}/{times}: {words}, {time.monotonic() - started:.0f} s", flush=True)
    return found


def table(equal: dict[str, list[bool]], more: dict[str, list[bool]]) -> Iterator[str]:
    yield f"| tool | calls it slower where | equal code, busy machine | {MORE:.0%} more work, quiet machine |"
    yield "|---|---|---:|---:|"
    for name in equal:
        cells = [f"{sum(one[name])} of {len(one[name])}" if one.get(name) else "" for one in (equal, more)]
        yield f"| {name} | {RULES[name]} | {' | '.join(cells)} |"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--times", type=int, default=TIMES)
    arguments.add_argument("--tool", action="append", choices=[*TOOLS], help="this one only; repeatable")
    arguments.add_argument("--no-found", action="store_true", help="equal code only")
    arguments.add_argument("--load", type=int, help="processes of the load (default: two a CPU)")
    asked = arguments.parse_args()
    tools = asked.tool or list(TOOLS)
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as busy:
        venv.create(folder, with_pip=True)
        binaries = Path(folder) / "bin"
        subprocess.run([binaries / "pip", "install", "--quiet", *PINNED], check=True)
        more: dict[str, list[bool]] = {}
        if not asked.no_found:
            more = counted(binaries, tools, asked.times, (UNITS, round(UNITS * (1 + MORE))), f"{MORE:.0%} more work")
        busy.enter_context(made_load(3, asked.load))
        equal = counted(binaries, tools, asked.times, (UNITS, UNITS), "equal code")
    print("\n".join(table(equal, more)))
    print(", ".join(PINNED))
    quiet = load <= QUIET_LOAD
    if not quiet:
        print(f"NOT QUIET before it: {load:.2f} of load a CPU, so the second figure says nothing")
    missed = not all(more.get("attnbench", [])) and quiet
    return int(any(equal.get("attnbench", [])) or missed)


if __name__ == "__main__":
    sys.exit(main())
