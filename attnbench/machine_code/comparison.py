"""Kernels of several makers side by side, like against like: the text of kernels/COMPARISON.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnbench.errors import UserError
from attnbench.machine_code.kernel import LoopFacts, MachineKernel
from attnbench.machine_code.names import EXTRAS, Name
from attnbench.markdown import filled_table, table

DTYPES = ("fp16", "bf16", "e4m3")
HEAD_DIMS = (64, 128, 256)
_ABSENT = "—"


@dataclass(frozen=True)
class PlainForward:
    """Keeps forward kernels for sm_90a of one problem each: dtype, head_dim and causal, and nothing beside.

    schedules: of kernels whose name tells a schedule (ours), those to keep. called: how a kernel's short name begins,
    in files that hold more than attention. besides: what they may do beside, where a maker has no other ones.
    """

    schedules: tuple[str, ...] = ()
    called: str = ""
    besides: tuple[str, ...] = ()

    def may_keep(self, name: Name) -> bool:
        said = name.arguments
        refused = {*EXTRAS, "cluster"} - set(self.besides)
        plain = not any(said.get(extra) for extra in refused) and said.get("direction") != "bwd"
        known = "causal" in said and said.get("head_dim", HEAD_DIMS[0]) in HEAD_DIMS
        same_width = said.get("head_dim_v", said.get("head_dim")) == said.get("head_dim")
        wanted = not self.schedules or said.get("schedule", self.schedules[0]) in self.schedules
        return plain and known and same_width and wanted and name.short.startswith(self.called)

    def keeps(self, kernel: MachineKernel) -> bool:
        return bool(kernel.loops) and kernel.arch != "sm_80" and kernel.arguments.get("dtype") in DTYPES

    def refuse_nothing(self, kernels: Sequence[MachineKernel]) -> None:
        if not any(map(self.keeps, kernels)):
            raise UserError("no plain forward kernel for sm_90a in what was read")


@dataclass(frozen=True)
class MakersKernels:
    """One maker's kernels: who, which version, how they were obtained. kernels: none where they could not be."""

    name: str
    version: str
    how: str
    kernels: tuple[MachineKernel, ...]


def comparison(makers: Sequence[MakersKernels], command: str) -> str:
    """The document. Kernels stand together that solve the same problem; makers in the order given."""
    return "\n\n".join((_HEAD.format(command=command), _obtained(makers), _COLUMNS, *_cells(makers))) + "\n"


_HEAD = """# Machine code of attention kernels, side by side

Made by `{command}`, which reads kernels' machine code as `attnbench kernels inspect` does. **Nothing here ran on a GPU,
and nothing here is a speed.** Figures are of main loops; `docs/reference/machine-code.md` says how each is read.

## What was read"""

_COLUMNS = """## How to read the tables

A row is a main loop. instr, path, exposed and chain are one warpgroup's for 128 keys and 64 rows: instructions of the
loop, those of its common path (nothing is rescaled where that is conditional), those of the path without tensor work of
the warpgroup in flight, and the clocks that it takes by itself. exposed/T is exposed by the tensor clocks of one
warpgroup. tensor, issue, MUFU, ALU and FP32 are the clocks that each pipe needs for all warpgroups of a CTA; most/T is
the largest of the last four by the first. EX2 is how many exponentials of a pass have tensor work of the warpgroup in
flight.
Where a maker has several kernels for one problem that differ in no figure, one stands for all."""


def _obtained(makers: Sequence[MakersKernels]) -> str:
    rows = []
    for maker in makers:
        compilers = ", ".join(sorted({kernel.compiler for kernel in maker.kernels} - {""}))
        count = str(len(maker.kernels)) if maker.kernels else "not run"
        rows.append((maker.name, maker.version, maker.how, compilers or _ABSENT, count))
    return table(("whose", "version", "how", "compiler", "kernels"), rows, left=4)


def _cells(makers: Sequence[MakersKernels]) -> Iterator[str]:
    for dtype in DTYPES:
        for head_dim in HEAD_DIMS:
            for causal in (False, True):
                problem = (dtype, head_dim, causal)
                rows = [row for maker in makers for row in _rows(maker, problem)]
                if rows:
                    yield f"## {dtype}, head_dim {head_dim}, {'causal' if causal else 'not causal'}"
                    yield filled_table(_HEADINGS, rows, left=3)


_HEADINGS = (
    "whose", "loop", "limited by", "keys", "warpgroups", "registers", "instr", "path", "exposed", "exposed/T", "EX2",
    "chain", "tensor", "issue", "MUFU", "ALU", "FP32", "most/T", "rescales", "spills loop/all",
)  # fmt: skip


def _rows(maker: MakersKernels, problem: tuple[str, int, bool]) -> Iterator[tuple[str, ...]]:
    seen = set()
    for kernel in maker.kernels:
        said = kernel.arguments
        if (said.get("dtype"), said.get("head_dim"), said.get("causal")) != problem:
            continue
        schedule = str(said.get("schedule", ""))
        schedule = schedule if schedule in kernel.symbol else ""
        for loop in sorted((one for one in kernel.loops if one.keys), key=lambda loop: loop.masked):
            row = (f"{maker.name} {schedule}".strip(), *_cells_of(kernel, loop))
            if row not in seen:
                seen.add(row)
                yield row


def _cells_of(kernel: MachineKernel, loop: LoopFacts) -> tuple[str, ...]:
    pipes = loop.pipes
    most = max(pipes.issue, pipes.mufu, pipes.alu, pipes.fp32) / pipes.tensor
    exposed = _ABSENT if loop.exposed is None else f"{loop.exposed:.0f}"
    share = _ABSENT if loop.exposed is None else f"{loop.exposed * kernel.warpgroups / pipes.tensor:.2f}"
    in_flight = _ABSENT if loop.in_flight is None else loop.in_flight
    figures = (loop.chain, pipes.tensor, pipes.issue, pipes.mufu, pipes.alu, pipes.fp32)
    return (
        "masked" if loop.masked else "plain",
        loop.limit,
        str(loop.keys),
        str(kernel.warpgroups),
        str(kernel.registers),
        f"{loop.instructions:.0f}",
        f"{loop.common_path:.0f}",
        exposed,
        share,
        f"{in_flight}/{loop.exponentials}",
        *(f"{figure:.0f}" for figure in figures),
        f"{most:.2f}",
        "where needed" if loop.conditional_rescale else "always",
        f"{loop.spills}/{kernel.spills}",
    )
