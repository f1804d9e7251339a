"""The incorrect results: by which rule, what most likely went wrong, and a map of where, for some of every kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attnbench.case import Case
from attnbench.markdown import anonymous, code, fence, numberless, plain, table
from attnbench.records.result import Result
from attnbench.report_errors import ratio
from attnbench.units import count, significant

AFTER_TIMING = " (right when checked, wrong after timing)"
NO_CAUSE = "none suggests itself"
# Maps of one backend and cause look alike, and a page of them is not read: so many of each, and so many in all.
MAPS_OF_A_KIND = 2
MAX_MAPS = 12
# A page with a longer table is not read any more; the DataFrame holds them all.
MAX_ROWS = 1000

Entry = tuple[Case, str, Result]


def incorrect_sections(entries: Sequence[Entry]) -> list[str]:
    case, series, result = entries[0]
    example = f"attnbench repro results/{result.run} {case.key} {series.split(' (')[0]}"
    return [
        f"### Incorrect ({len(entries):,})",
        "A case that fails a check is not timed.",
        _rules(entries[:MAX_ROWS]),
        *([f"And {len(entries) - MAX_ROWS:,} more, in `attnbench.load(run)`."] if len(entries) > MAX_ROWS else []),
        f"A standalone script that reproduces one of them:\n\n{fence(example, 'sh')}",
        *_places(entries),
    ]


def _rules(entries: Sequence[Entry]) -> str:
    rows = []
    for case, series, result in entries:
        failures = result.record.accuracy.failures
        worst = max(failures, key=ratio) if failures else None
        figure = f"{worst.value:.2g} / {worst.limit:.2g} = {significant(ratio(worst), 3)}" if worst else "—"
        also = [plain(check.rule) for check in failures if check is not worst]
        rule = plain(worst.rule if worst else _reason_line(result))
        rule += AFTER_TIMING if result.record.accuracy.recheck == "failed" else ""
        rows.append([
            code(series), code(case.key), rule, figure,
            plain(worst.where) if worst and worst.where else "—", "; ".join(also) or "—",
        ])  # fmt: skip
    headers = ["backend", "case", "rule that failed worst", "value / limit", "where", "also failed"]
    return table(headers, rows, left=6)


def _reason_line(result: Result) -> str:
    return anonymous(result.record.reason).strip().partition("\n")[0]


def _places(entries: Sequence[Entry]) -> list[str]:
    """Causes with how many cases each explains, then the largest error maps of every backend and cause."""
    kinds: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        kinds.setdefault((entry[1], numberless(entry[2].record.likely_cause)), []).append(entry)
    rows = [[code(series), _cause(members[0]) or NO_CAUSE, f"{len(members):,}"]
            for (series, _), members in kinds.items()]  # fmt: skip
    return [
        "### Where it is wrong",
        table(["backend", "likely cause", "cases"], rows, left=2),
        *_maps(list(kinds.values())),
    ]


def _cause(entry: Entry) -> str:
    return plain(anonymous(entry[2].record.likely_cause))


def _map(entry: Entry) -> str:
    return "\n".join(entry[2].record.accuracy.error_map)


def _maps(kinds: Sequence[Sequence[Entry]]) -> Iterator[str]:
    """The largest maps of every kind, which show most, and how many are left out; each gets one before any gets two."""
    held = [
        sorted((entry for entry in members if _map(entry)), key=lambda entry: -len(_map(entry))) for members in kinds
    ]
    turns = [members[turn] for turn in range(MAPS_OF_A_KIND) for members in held if turn < len(members)]
    shown = {(case, series) for case, series, _ in turns[:MAX_MAPS]}
    for entry in (entry for members in held for entry in members if entry[:2] in shown):
        case, series, _ = entry
        cause = _cause(entry)
        yield f"{code(series)}, {code(case.key)}{': ' if cause else ''}{cause}\n\n{fence(_map(entry))}"
    drawn = sum(map(len, held))
    if drawn > len(shown):
        yield f"{count(drawn - len(shown), 'more map')} in the column `reason` of `attnbench.load(run)`."
    without = sum(map(len, kinds)) - drawn
    if without:
        yield f"{count(without, 'result')} without a map: no row of the output is over its limit, or none was drawn."
