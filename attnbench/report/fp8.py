"""What the accuracy lab found: schemes against inputs, sources of the error, kernels beside what was predicted.

Each part stands only where records hold its figures. Figures of several seeds are shown as their mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from attnbench.case import DEFAULTS, Case
from attnbench.markdown import bullets, code, details, image, table
from attnbench.report import plots
from attnbench.report.data import ReportData, show_field
from attnbench.report.panels import Panel
from attnbench.units import count, error, lengths, significant

FIGURES = {"source_qk": "q and k", "source_v": "v", "source_p": "P", "source_hopper": "sums, 14 bits",
           "source_two_level": "sums, two-level"}  # fmt: skip
PREDICTED = {"e1": "E1 kernel", "e1_emulated": "fp32", "e1_two_level": "two-level", "e1_hopper": "14 bits"}
# More groups of bars than this are not read any more; the table holds all.
MAX_GROUPS = 16

Key = TypeVar("Key", bound=Hashable)


def accuracy_lab_sections(data: ReportData, folder: Path) -> list[str]:
    """The parts that the records allow; figures go into `folder`."""
    entries = judged_entries(data)
    parts = [
        *paper_table(entries),
        *_schemes(entries, folder),
        *_sources(entries, folder),
        *_accumulators(entries, folder),
    ]
    return ["## Accuracy lab", *parts] if parts else []


def scheme_title(case: Case) -> str:
    """`block, hadamard, P x 256`"""
    words = [case.scaling, *(["hadamard"] if case.hadamard else []), f"P x {case.p_scale:g}"]
    if case.scaling == "block" and case.block_size != DEFAULTS["block_size"]:
        words[0] = f"block of {case.block_size}"
    return ", ".join(words)


def _scheme_in(case: Case) -> str:
    """The scheme, with its dtype where that is not e4m3."""
    return scheme_title(case) if case.dtype == "e4m3" else f"{case.dtype}, {scheme_title(case)}"


def _schemes(entries: Sequence[Entry], folder: Path) -> list[str]:
    """E3 of every scheme on every distribution, a map for each backend and shape that has more than one of each."""
    grouped: dict[tuple[str, str, int, int, int, bool], list[Entry]] = {}
    for entry in entries:
        if "e3" in entry.values:
            case = entry.case
            key = (entry.series, case.dtype, case.head_dim, case.seqlen_q, case.seqlen_k, case.causal)
            grouped.setdefault(key, []).append(entry)
    parts = []
    for number, (key, members) in enumerate(sorted(grouped.items(), key=lambda item: item[0]), start=1):
        schemes = list(dict.fromkeys(scheme_title(e.case) for e in members))
        names = list(dict.fromkeys(e.case.inputs for e in members))
        if len(schemes) < 2 or len(names) < 2:
            continue
        values = _means(members, lambda e: (scheme_title(e.case), e.case.inputs), "e3")
        path = folder / f"schemes-{number}.svg"
        series, dtype, head_dim, seqlen_q, seqlen_k, causal = key
        mask = "causal" if causal else "full"
        shape = f"head_dim {head_dim}, {mask}, seqlen {lengths(seqlen_q)} x {lengths(seqlen_k)}"
        where = f"{series}, {dtype}, {shape}"
        plots.heat_map(path, f"E3: {series}, {dtype}\n{shape}", schemes, names, values)
        rows = [[scheme, *(_shown(values.get((scheme, inputs))) for inputs in names)] for scheme in schemes]
        parts += [image(f"E3 by scheme and inputs: {where}", path), table(["scheme", *names], rows),
                  _range_of_schemes(values, schemes, names)]  # fmt: skip
    if not parts:
        return []
    about = "Relative RMSE end to end (E3), mean over seeds."
    return ["### Scheme against inputs", about, *parts]


def _range_of_schemes(values: Mapping[tuple[str, str], float], schemes: Sequence[str], names: Sequence[str]) -> str:
    """In words: how much the choice of scheme matters for each distribution, and which is lowest."""
    said = []
    for inputs in names:
        held = {scheme: values[scheme, inputs] for scheme in schemes if (scheme, inputs) in values}
        if len(held) > 1 and min(held.values()) > 0:
            lowest = min(held, key=held.__getitem__)
            said.append(f"{inputs} {significant(max(held.values()) / held[lowest], 3)}x ({lowest})")
    return f"Highest over lowest scheme (the lowest): {'; '.join(said)}."


def _shown(value: float | None) -> str:
    return "—" if value is None else error(value)


def _means(members: Sequence[Entry], key: Callable[[Entry], Key], name: str) -> dict[Key, float]:
    held: dict[Key, list[float]] = {}
    for entry in members:
        held.setdefault(key(entry), []).append(entry.values[name])
    return {place: statistics.fmean(values) for place, values in held.items()}


def _sources(entries: Sequence[Entry], folder: Path) -> list[str]:
    """The sources belong to the case, not to the backend: each case counts once."""
    held = list({entry.case: entry for entry in entries if "source_qk" in entry.values}.values())
    if not held:
        return []

    def group(entry: Entry) -> str:
        case = entry.case
        return f"{case.inputs}, {_scheme_in(case)}, seqlen {show_field(case, 'seqlen_k')}"

    groups = list(dict.fromkeys(group(entry) for entry in held))
    means = {words: _means(held, group, name) for name, words in FIGURES.items()}
    values = {(place, words): value for words, of_words in means.items() for place, value in of_words.items()}
    rows = [[place, *(error(values[place, words]) for words in FIGURES.values())] for place in groups]
    path = folder / "sources.svg"
    largest = sorted(groups, key=lambda place: -max(values[place, words] for words in FIGURES.values()))[:MAX_GROUPS]
    shown = [place for place in groups if place in largest]
    plots.source_bars(
        path, "Where the FP8 error comes from, one source at a time", shown, list(FIGURES.values()), values
    )
    about = (
        "Relative RMSE against fp64 on the originals with one source at work and all else exact, mean over seeds. "
        "Sums of 14 bits are Hopper's FP8 accumulation as published (a model, not compared with hardware)."
    )
    parts = ["### Where the error comes from", about, image("sources of the FP8 error", path)]
    every = table(["case", *FIGURES.values()], rows)
    if len(shown) == len(groups):
        return [*parts, every]
    return [*parts, f"Drawn: the {len(shown)} of {len(groups)} with the largest error.", details("All of them", every)]


def _accumulators(entries: Sequence[Entry], folder: Path) -> list[str]:
    held = [entry for entry in entries if "e1_hopper" in entry.values]
    if not held:
        return []
    held.sort(key=lambda e: (e.series, e.case.inputs, _scheme_in(e.case), e.case.seqlen_k, e.case.seed))
    grouped: dict[tuple[str, str, str, int], list[Entry]] = {}
    for e in held:
        grouped.setdefault((e.series, e.case.inputs, _scheme_in(e.case), e.case.seqlen_k), []).append(e)
    means = {
        key: {name: statistics.fmean(member.values[name] for member in members) for name in PREDICTED}
        for key, members in grouped.items()
    }
    rows = []
    for (series, inputs, scheme, seqlen), of in means.items():
        nearest = min(list(PREDICTED)[1:], key=lambda name: abs(of["e1"] - of[name]))
        rows.append([code(series), inputs, scheme, lengths(seqlen), *map(error, of.values()), PREDICTED[nearest],
                     significant(of["e1"] / of["e1_emulated"], 3)])  # fmt: skip
    headers = ["backend", "inputs", "scheme", "seqlen_k", *PREDICTED.values(), "nearest", "kernel / fp32"]
    about = "E1 of the kernel beside what the emulation predicts for each accumulator. Relative RMSE, mean over seeds."
    figure = plots.prediction_plot(prediction_panels(means), folder)
    title = "### Kernel against the prediction of its accumulator"
    return [title, about, *figure, table(headers, rows, left=3)]


def prediction_panels(means: Mapping[tuple[str, str, str, int], Mapping[str, float]]) -> list[Panel]:
    """E1 against seqlen, by inputs and scheme, with the predictions as lines of reference; more than one length only.

    means: for each (series, inputs, scheme, seqlen_k) the E1 and its predictions, under the names of PREDICTED.
    """
    grouped: dict[tuple[str, str], dict[str, dict[int, Mapping[str, float]]]] = {}
    for (series, inputs, scheme, seqlen), of in means.items():
        grouped.setdefault((inputs, scheme), {}).setdefault(series, {})[seqlen] = of
    panels = []
    for (inputs, scheme), by_series in grouped.items():
        predicted = {seqlen: of for by_length in by_series.values() for seqlen, of in sorted(by_length.items())}
        if len(predicted) > 1:
            lines = {series: tuple((seqlen, of["e1"]) for seqlen, of in by.items()) for series, by in by_series.items()}
            quiet = {words: tuple((seqlen, predicted[seqlen][name]) for seqlen in sorted(predicted))
                     for name, words in PREDICTED.items() if name != "e1"}  # fmt: skip
            panels.append(Panel("e4m3", f"{inputs} inputs, {scheme}", lines, quiet))
    return panels


# The error table of the FlashAttention-3 paper, and which of our records stand beside each of its rows.


class Entry(NamedTuple):
    case: Case
    series: str
    backend: str
    values: Mapping[str, float]


def judged_entries(data: ReportData) -> list[Entry]:
    return [
        Entry(case, series, result.backend, result.record.accuracy.values)
        for (case, series), result in data.cells.items()
        if result.record.accuracy is not None
    ]


class PaperRow(NamedTuple):
    """A row of table 3 (arXiv 2407.08608v1, section 4.3): the paper's RMSE, and which of our records stand by it."""

    words: str
    rmse: float
    backend: str
    fields: tuple[tuple[str, object], ...]


def _scheme(scaling: str, hadamard: bool) -> tuple[tuple[str, object], ...]:
    return ("dtype", "e4m3"), ("scaling", scaling), ("hadamard", hadamard)


PAPER_ROWS = (
    PaperRow("FP16 standard", 3.2e-4, "fp16_standard", (("dtype", "fp16"),)),
    PaperRow("FP16 flash (FlashAttention-2 and -3)", 1.9e-4, "naive", (("dtype", "fp16"),)),
    PaperRow("FP8 baseline", 2.4e-2, "fp8_baseline", _scheme("tensor", hadamard=False)),
    PaperRow("FP8 FlashAttention-3", 9.1e-3, "fp8_emulated", _scheme("block", hadamard=True)),
    PaperRow("without block quantization", 9.3e-3, "fp8_emulated", _scheme("tensor", hadamard=True)),
    PaperRow("without incoherent processing", 2.4e-2, "fp8_emulated", _scheme("block", hadamard=False)),
)
BASELINE, FULL_SCHEME = PAPER_ROWS[2], PAPER_ROWS[3]
PAPER_RATIO = 2.6
NOT_STATED = "seqlen, batch, heads, mask, softmax scale, seed, number of draws, and whether P is scaled before rounding"


def _found(entries: Sequence[Entry]) -> Mapping[PaperRow, Sequence[Entry]]:
    return {row: [entry for entry in entries if _stands_for(entry, row)] for row in PAPER_ROWS}


def paper_headline(data: ReportData) -> Iterator[str]:
    """The factor that the paper is known for, where both of its rows were run."""
    ratios = _ratios(_found(judged_entries(data)))
    if ratios:
        yield f"- On the FlashAttention-3 paper's outlier inputs (emulated), {_factor(ratios)}."


def paper_table(entries: Sequence[Entry]) -> list[str]:
    """A row for each of the paper's; [] where no record stands beside any."""
    found = _found(entries)
    if not any(found.values()):
        return []
    rows = []
    for row, members in found.items():
        rmse = [member.values["rmse_drawn"] for member in members]
        rows.append([row.words, code(row.backend), f"{row.rmse:.1e}", *_spread(rmse, "{:.2e}".format)])
    shapes = sorted({(e.case.seqlen_q, e.case.batch, e.case.num_heads) for members in found.values() for e in members})
    ours = "; ".join(f"seqlen {lengths(q)}, batch {batch}, {count(heads, 'head')}" for q, batch, heads in shapes)
    lines = [
        f"Ours: emulated, {ours}, full attention, head_dim 128, softmax scale head_dim**-0.5, P scale as in each case.",
        "The paper states the distribution, N(0, 1) + N(0, 100) * Bernoulli(0.001), and head_dim 128. It does not "
        f"state {NOT_STATED}.",
        *_ratio(found),
    ]
    headers = ["row", "our record", "paper", "mean", "lowest", "highest", "seeds"]
    about = "RMSE (absolute) against fp64 on the inputs before rounding, as in table 3 of arXiv 2407.08608v1."
    return ["### The FlashAttention-3 paper's error table", about, table(headers, rows, left=2), bullets(lines)]


def _stands_for(entry: Entry, row: PaperRow) -> bool:
    case = entry.case
    if "rmse_drawn" not in entry.values or entry.backend != row.backend:
        return False
    same = all(getattr(case, name) == value for name, value in row.fields)
    return same and case.inputs == "outliers" and case.head_dim == 128 and not case.causal


def _ratios(found: Mapping[PaperRow, Sequence[Entry]]) -> list[float]:
    """Per seed, since both rows of a seed have the same inputs."""
    baseline = {_shape(e.case): e.values["rmse_drawn"] for e in found[BASELINE]}
    full = {_shape(e.case): e.values["rmse_drawn"] for e in found[FULL_SCHEME]}
    return [baseline[key] / full[key] for key in baseline if key in full]


def _factor(ratios: Sequence[float]) -> str:
    mean, low, high, seeds = _spread(ratios, "{:.2f}".format)
    return (
        f"RMSE of the FP8 baseline over that of FlashAttention-3's scheme: {mean} (mean; {low} to {high} over {seeds} "
        f"seeds); the paper: {PAPER_RATIO}"
    )


def _ratio(found: Mapping[PaperRow, Sequence[Entry]]) -> Iterator[str]:
    ratios = _ratios(found)
    if ratios:
        yield (
            f"{_factor(ratios)}. The order of the rows with and without block quantization changes with seqlen, here "
            "and in any emulation: no conclusion rests on it."
        )


def _shape(case: Case) -> tuple[int, ...]:
    return case.seqlen_q, case.seqlen_k, case.batch, case.num_heads, case.seed


def _spread(values: Sequence[float], show: Callable[[float], str]) -> list[str]:
    """mean, lowest, highest, count; `not run` where there is none."""
    if not values:
        return ["not run", "—", "—", "0"]
    return [show(statistics.fmean(values)), show(min(values)), show(max(values)), str(len(values))]
