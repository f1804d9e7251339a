"""Runs NVIDIA compute-sanitizer over every schedule of the Hopper kernels and over the quantize kernel, on small
shapes, in steps that resume.

    python -m attnbench.cli.sanitize --out results/sanitizer.jsonl --budget-s 450

One line of JSON per (tool, schedule, head_dim): clean, findings, timeout, failed, or not_run where the tool refuses the
machine. A line for the same library is not repeated, so that the command is run again until it exits with 0. Exit
status: 0 everything clean, 1 findings or a failed launch, 3 incomplete or not run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench.hopper import quantizer
from attnbench.hopper.quantizer import Scheme
from attnbench.hopper.schedules import FILES, FP8_SCHEDULES, built_kernel
from attnbench.paths import import_folder

if TYPE_CHECKING:
    from attnbench.hopper.schedules import KernelBackend


# memcheck: out-of-bounds and misaligned accesses. synccheck: misuse of barriers. racecheck: shared-memory hazards;
# last, since it is the slowest and knows least of asynchronous copies.
TOOLS = ("memcheck", "synccheck", "racecheck")
HEAD_DIMS = (64, 128, 256)
# (batch, seqlen_q, seqlen_k, num_heads, num_heads_kv): a single row and key, tails on both sides with GQA, several key
# tiles per query tile, rows that see no key when causal.
SHAPES = ((1, 1, 1, 1, 1), (1, 130, 200, 2, 1), (2, 257, 513, 2, 2), (1, 300, 70, 1, 1))
# What a schedule is launched with.
KINDS = ({"dtype": "fp16"}, {"dtype": "bf16"})
FP8_KINDS = ({"dtype": "e4m3"}, {"dtype": "e4m3", "scaling": "block"})
# Stands for the quantize kernel where the others have a schedule.
QUANTIZE = "quantize"
# (scaling, block_size, hadamard): one pass and two, rotated and not, groups smaller than a tile.
SCHEMES = (("block", 128, True), ("block", 32, False), ("head", 128, True), ("none", 128, False))
# Tells findings from a child that failed by itself.
FINDINGS_EXIT = 86
# One step: starting torch under the tool, and some 16 small launches at up to a hundredth of their speed.
STEP_TIMEOUT_S = 150.0
# What the tool prints where it cannot attach at all (seen in virtual machines without debugger support).
REFUSALS = ("Device not supported", "Internal Sanitizer Error", "Unable to initialize", "not permitted")
DETAIL_CHARS = 2000


@dataclass(frozen=True)
class SanitizerStep:
    """One run of one tool. digest: of the library, so that a rebuilt kernel is looked at again."""

    tool: str
    schedule: str
    head_dim: int
    digest: str


@dataclass(frozen=True)
class SanitizerResult:
    """How a step went; status as in the module's docstring, detail the end of the tool's output where not clean."""

    step: SanitizerStep
    status: str
    detail: str
    seconds_s: float

    @property
    def is_final(self) -> bool:
        """Not to be repeated for this library: only a refusal of the machine is."""
        return self.status != "not_run"


Runner = Callable[[Sequence[str], float], "tuple[int | None, str]"]


def steps(schedules: Iterable[str] = (*FILES, QUANTIZE)) -> list[SanitizerStep]:
    """Every step for what is built, cheap tools first. Raises KernelError for a schedule that is not built."""
    targets = [target for schedule in schedules for target in _targets(schedule)]
    return [SanitizerStep(tool, *target) for tool in TOOLS for target in targets]


def _targets(schedule: str) -> list[tuple[str, int, str]]:
    """(schedule, head_dim, digest of its library) of what a schedule has kernels for."""
    if schedule == QUANTIZE:
        build = quantizer.built()
        head_dims, digest = {row["head_dim"] for row in build.variants}, build.digest
    else:
        kernel = built_kernel(schedule)
        head_dims = {row.head_dim for row in kernel.variants if row.schedule == schedule}
        digest = kernel.build.digest
    return [(schedule, head_dim, digest) for head_dim in HEAD_DIMS if head_dim in head_dims]


def find_sanitizer() -> Path | None:
    """compute-sanitizer from PATH or the CUDA toolkit."""
    found = shutil.which("compute-sanitizer")
    if found:
        return Path(found)
    from attnbench.machine_code.disassembler import cuda_homes

    candidates = (home / "bin" / "compute-sanitizer" for home in cuda_homes(os.environ))
    return next((path for path in candidates if path.is_file()), None)


def run_step(step: SanitizerStep, sanitizer: Path, runner: Runner) -> SanitizerResult:
    """Runs one tool over one schedule and head_dim in a process of its own, and reads its verdict."""
    child = [sys.executable, "-P", "-m", "attnbench.cli.sanitize", "--launch", step.schedule, str(step.head_dim)]
    command = [str(sanitizer), "--tool", step.tool, "--error-exitcode", str(FINDINGS_EXIT), *child]
    started = time.monotonic()
    exit_status, output = runner(command, STEP_TIMEOUT_S)
    status = verdict(exit_status, output)
    detail = "" if status == "clean" else output[-DETAIL_CHARS:]
    return SanitizerResult(step, status, detail, round(time.monotonic() - started, 1))


def verdict(exit_status: int | None, output: str) -> str:
    """Status of a step from the tool's exit status (None: timed out) and output.

    NOTE: the tool exits with the child's own status where it found nothing, so a clean run needs both a status of 0
    and its summary line: without the summary it was never attached.
    """
    if exit_status is None:
        return "timeout"
    if any(refusal in output for refusal in REFUSALS):
        return "not_run"
    if exit_status == FINDINGS_EXIT:
        return "findings"
    if exit_status != 0:
        return "failed"
    return "clean" if "ERROR SUMMARY: 0 errors" in output or "0 hazards displayed" in output else "not_run"


def run_with_timeout(command: Sequence[str], timeout_s: float) -> tuple[int | None, str]:
    """Exit status (None when it was killed for time) and output of a command, run in the repository."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((import_folder(), os.environ.get("PYTHONPATH", "")))}
    process = subprocess.Popen(
        command,
        cwd=import_folder(),
        env=environ,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        return None, output


def read_results(path: Path) -> Iterator[SanitizerResult]:
    """Results taken so far; a line that a crash cut short is passed over, its step runs again."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            yield SanitizerResult(**{**row, "step": SanitizerStep(**row["step"])})
        except (ValueError, TypeError, KeyError):
            continue


def sanitize(
    out: Path, wanted: Sequence[SanitizerStep], sanitizer: Path, budget_s: float, runner: Runner = run_with_timeout
) -> list[SanitizerResult]:
    """Runs the steps that have no final result in `out`, appends each, and stops before the budget is exceeded.

    Returns the results of the wanted steps, old and new. A refusal of the machine ends the run: it would only repeat.
    """
    done = {result.step: result for result in read_results(out) if result.is_final}
    started = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    for step in wanted:
        if step in done:
            continue
        if time.monotonic() - started + STEP_TIMEOUT_S > budget_s:
            break
        result = done[step] = run_step(step, sanitizer, runner)
        _append(out, json.dumps(asdict(result)))
        click.echo(f"{step.tool} {step.schedule} d{step.head_dim}: {result.status} ({result.seconds_s:.0f} s)")
        if result.status == "not_run":
            break
    return [done[step] for step in wanted if step in done]


def _append(path: Path, line: str) -> None:
    """Adds a line, after closing one that a crash cut short."""
    with path.open("a+") as file:
        file.seek(0)
        text = file.read()
        file.write(("\n" if text and not text.endswith("\n") else "") + line + "\n")


def launch_all(schedule: str, head_dim: int) -> int:
    """Launches every variant of a schedule and head_dim on SHAPES, once each. Returns how many launches there were.

    Inputs are drawn on the CPU, so that hardly any kernel but ours runs under the tool.
    """
    import torch

    from attnbench.case import Case
    from attnbench.reference.inputs import make_inputs

    backend, launches = _backend(schedule), 0
    for batch, seqlen_q, seqlen_k, num_heads, num_heads_kv in SHAPES:
        for kind in FP8_KINDS if schedule in FP8_SCHEDULES else KINDS:
            for causal in (False, True):
                case = Case.make(
                    batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k, num_heads=num_heads, num_heads_kv=num_heads_kv,
                    head_dim=head_dim, causal=causal, **kind,
                )  # fmt: skip
                if backend.unsupported(case) is None:
                    backend.prepare(case, make_inputs(case, "cuda"))()
                    launches += 1
    torch.cuda.synchronize()
    return launches


def quantize_all(head_dim: int) -> int:
    """Launches the quantize kernels of a head_dim on SHAPES by each of SCHEMES. Returns how many calls there were."""
    import torch

    calls = 0
    for batch, seqlen_q, seqlen_k, num_heads, num_heads_kv in SHAPES:
        sizes = ((seqlen_q, num_heads), (seqlen_k, num_heads_kv), (seqlen_k, num_heads_kv))
        drawn = [torch.randn((batch, seqlen, heads, head_dim)) for seqlen, heads in sizes]
        for dtype in (torch.float16, torch.bfloat16):
            q, k, v = (tensor.to(dtype).to("cuda") for tensor in drawn)
            for scheme in SCHEMES:
                quantizer.quantize_on_device(q, k, v, Scheme(*scheme))
                calls += 1
    torch.cuda.synchronize()
    return calls


def exit_status(results: Sequence[SanitizerResult], wanted: Sequence[SanitizerStep]) -> int:
    """0 all clean, 1 something was found or failed, 3 not all has run."""
    if any(result.status in ("findings", "failed", "timeout") for result in results):
        return 1
    return 0 if len(results) == len(wanted) and all(result.status == "clean" for result in results) else 3


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("results") / "sanitizer.jsonl", show_default=True)
@click.option("--budget-s", type=float, default=450.0, show_default=True, help="Start no step that may end later.")
@click.option("--launch", nargs=2, metavar="SCHEDULE HEAD_DIM", help="What the tool runs: the launches alone.")
def main(out: Path, budget_s: float, launch: tuple[str, str] | None) -> None:
    """Run compute-sanitizer over every schedule on small shapes; run it again until it exits with 0."""
    if launch:
        head_dim = int(launch[1])
        click.echo(f"{quantize_all(head_dim) if launch[0] == QUANTIZE else launch_all(launch[0], head_dim)} launches")
        return
    reason, sanitizer = _cannot_run(), find_sanitizer()
    if reason is not None or sanitizer is None:
        absent = "no compute-sanitizer on PATH or in the CUDA toolkit"
        click.echo(f"compute-sanitizer: not run: {reason or absent}")
        sys.exit(3)
    wanted = steps()
    results = sanitize(out, wanted, sanitizer, budget_s)
    clean = sum(result.status == "clean" for result in results)
    click.echo(f"{len(results)} of {len(wanted)} steps done, {clean} of them clean; see {out}")
    sys.exit(exit_status(results, wanted))


def _backend(schedule: str) -> KernelBackend:
    from attnbench.backends.hopper import Hopper
    from attnbench.backends.hopper_fp8 import HopperFp8

    return (HopperFp8 if schedule in FP8_SCHEDULES else Hopper)(schedule)


def _cannot_run() -> str | None:
    reasons = (*(_backend(schedule).unavailable() for schedule in FILES), quantizer.missing())
    return next((reason for reason in reasons if reason), None)


if __name__ == "__main__":
    main()
