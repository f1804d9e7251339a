"""What runs say of a claim: each measure takes results and gives words with the figure in them, and what it used.

Ratios of errors and of memory are a case's, alike on any machine; speeds are compared within one run only.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.case import Case, compulsory_bytes, visible_scores
from attnbench.markdown import code
from attnbench.records.growth import growth, memory_curves
from attnbench.records.result import Result, TimedResult
from attnbench.suite.suite import matcher, parse_only
from attnbench.units import count, lengths, significant

Cells = Mapping[tuple[Case, str], Result]
Spec = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """used: the results that the words rest on."""

    words: str
    used: tuple[Result, ...]


def find(cells: Cells, spec: Spec) -> Evidence | None:
    """What the results say of a claim with this measure; None where none of them says anything."""
    return MEASURES[spec["kind"]](cells, spec)


def _passed(cells: Cells, spec: Spec) -> Evidence | None:
    """How many results passed every check, and how near to a limit the worst error came."""
    asked = [result for (_, name), result in cells.items() if name in spec["backends"]]
    taken = [result for result in asked if result.record.status != "unsupported"]
    if not taken:
        return None
    judged = [(result, result.record.accuracy) for result in taken if result.record.status == "ok"]
    checks = [check for _, accuracy in judged if accuracy is not None for check in accuracy.checks]
    worst = max((check.value / check.limit for check in checks if check.limit > 0), default=0.0)
    names = ", ".join(code(name) for name in dict.fromkeys(result.backend for result in taken))
    words = f"{len(judged)} of {count(len(taken), 'result')} of {names} passed every check"
    return Evidence(f"{words}; their worst error / limit: {significant(worst, 2)}", tuple(taken))


def _memory_growth(cells: Cells, spec: Spec) -> Evidence | None:
    """The exponent of peak memory over seqlen of each backend, by head_dim, with its interval."""
    wanted = {key: result for key, result in cells.items() if key[1] in spec["backends"]}
    fits = [(key, fit) for key, curves in memory_curves(wanted).items() if (fit := growth(curves)) is not None]
    if not fits:
        return None
    fits.sort(key=lambda item: (spec["backends"].index(item[0][0]), item[0][1:]))
    said = [
        f"{code(series)}, head_dim {head_dim}: seqlen^{fit.exponent:.2f} ({fit.low:.2f} to {fit.high:.2f}; "
        f"{lengths(fit.lengths[0])} to {lengths(fit.lengths[1])} tokens)"
        for (series, head_dim, _), fit in fits
    ]
    held = {key[0] for key, _ in fits}
    return Evidence("; ".join(said), tuple(result for (_, name), result in wanted.items() if name in held))


def _memory_ratio(cells: Cells, spec: Spec) -> Evidence | None:
    """The largest ratio of peak memory on one case."""
    pairs = [(a, b) for a, b in _pairs(cells, spec) if _peak(a) and _peak(b)]
    if not pairs:
        return None
    of, over = max(pairs, key=lambda pair: _peak(pair[0]) / _peak(pair[1]))
    ratio = significant(_peak(of) / _peak(over), 3)
    words = f"up to {ratio} times less ({code(over.backend)} against {code(of.backend)}, {code(over.record.case_key)})"
    return Evidence(words, tuple(result for pair in pairs for result in pair))


def _peak(result: Result) -> int:
    measurement = result.record.measurement
    return 0 if measurement is None else measurement.peak_bytes or 0


def _speedup(cells: Cells, spec: Spec) -> Evidence | None:
    """The geometric mean of median times, over / of, with its range."""
    pairs = [(a, b) for a, b in _pairs(cells, spec) if isinstance(a, TimedResult) and isinstance(b, TimedResult)]
    if not pairs:
        return None
    ratios = [over.time_s / of.time_s for of, over in pairs]
    of, over = pairs[0]
    words = f"{_spread(ratios, statistics.geometric_mean, 'geometric mean')} over {count(len(ratios), 'case')})"
    used = tuple(result for pair in pairs for result in pair)
    return Evidence(f"{code(of.backend)} over {code(over.backend)}: {words}", used)


def _rate(cells: Cells, spec: Spec) -> Evidence | None:
    """The highest rate of each backend, and its share of the datasheet's peak."""
    best: dict[str, TimedResult] = {}
    for (_, name), result in cells.items():
        if name in spec["backends"] and isinstance(result, TimedResult):
            held = best.get(name)
            best[name] = result if held is None or result.flops_per_s > held.flops_per_s else held
    said = []
    for name, result in best.items():
        peak = result.peak_flops_per_s
        share = f", {100 * result.flops_per_s / peak:.0f} % of the peak" if peak else ""
        rate = significant(result.flops_per_s / 1e12, 3)
        said.append(f"{code(name)}: {rate} TFLOPS{share} ({code(result.record.case_key)})")
    return Evidence("; ".join(said), tuple(best.values())) if said else None


def _error_ratio(cells: Cells, spec: Spec) -> Evidence | None:
    """Of figures of the accuracy, on the same inputs: of / over for each seed. values: figures, and what each is."""
    wanted: Mapping[str, str] = spec["values"]
    pairs = [(a, b) for a, b in _pairs(cells, spec) if wanted.keys() <= _values(a).keys() & _values(b).keys()]
    if not pairs:
        return None
    said = []
    for name, about in wanted.items():
        ratios = [_values(of)[name] / _values(over)[name] for of, over in pairs]
        said.append(f"{_spread(ratios, statistics.fmean, 'mean')}) {about}")
    seeds = count(len({of.case.seed for of, _ in pairs}), "seed")
    sizes = ", ".join(dict.fromkeys(lengths(of.case.seqlen_q) for of, _ in pairs))
    words = f"{', '.join(said)}; {seeds}, seqlen {sizes}"
    return Evidence(words, tuple(result for pair in pairs for result in pair))


def _values(result: Result) -> Mapping[str, float]:
    accuracy = result.record.accuracy
    return {} if accuracy is None else accuracy.values


def _counted(cells: Cells, spec: Spec) -> Evidence | None:
    """The sum of some counts over a size of the case, by backend: from the lowest to the highest case."""
    found: dict[str, list[float]] = {}
    used = []
    for (case, name), result in cells.items():
        counts = (result.record.kernel or {}).get("counted") or {}
        if all(field in counts for field in spec["sum"]):
            found.setdefault(name, []).append(sum(counts[field] for field in spec["sum"]) / SIZES[spec["over"]](case))
            used.append(result)
    said = [
        f"{code(name)}: {significant(min(values), 3)} to {significant(max(values), 3)} over "
        f"{count(len(values), 'case')}"
        for name, values in found.items()
    ]
    return Evidence(f"{spec['words']}: {'; '.join(said)}", tuple(used)) if said else None


# What counts are held against.
SIZES: Mapping[str, Callable[[Case], float]] = {"compulsory_bytes": compulsory_bytes, "scores": visible_scores}

MEASURES: Mapping[str, Callable[[Cells, Spec], Evidence | None]] = {
    "passed": _passed,
    "memory_growth": _memory_growth,
    "memory_ratio": _memory_ratio,
    "speedup": _speedup,
    "rate": _rate,
    "error_ratio": _error_ratio,
    "counted": _counted,
}
# What depends on no machine may stand in different runs of one suite.
ACROSS_RUNS = ("error_ratio",)


def _pairs(cells: Cells, spec: Spec) -> list[tuple[Result, Result]]:
    """(of, over) on the same inputs: cases that share everything but the FP8 scheme."""
    of, over = (_side(cells, spec[side]) for side in ("of", "over"))
    return [(result, over[inputs]) for inputs, result in of.items() if inputs in over]


def _side(cells: Cells, side: Spec) -> dict[tuple[object, ...], Result]:
    keep = matcher(tuple(map(parse_only, side.get("only", ()))))
    return {_inputs(case): result for (case, name), result in cells.items() if name == side["backend"] and keep(case)}


def _inputs(case: Case) -> tuple[object, ...]:
    return (case.dtype, case.batch, case.seqlen_q, case.seqlen_k, case.num_heads, case.num_heads_kv, case.head_dim,
            case.head_dim_v, case.causal, case.inputs, case.seed, case.softmax_scale)  # fmt: skip


def _spread(values: Sequence[float], mean: Callable[[Iterable[float]], float], name: str) -> str:
    """`2.64 (mean; 2.42 to 3.08`, to be closed."""
    return f"{mean(values):.2f} ({name}; {min(values):.2f} to {max(values):.2f}"
