"""What did not come out whole: incorrect, error and unsupported cases by reason, and the warnings of the rest."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

from attnbench.case import Case, LaterCase
from attnbench.markdown import anonymous, bullets, code, details, fence, label, numberless, plain, table
from attnbench.records.environment import gpu_of
from attnbench.records.result import Result
from attnbench.records.sentinels import why_suspect
from attnbench.report.causes import cut, size
from attnbench.report.data import Cells, LabelledRun, ReportData
from attnbench.report.errors import accuracy_of, ratio
from attnbench.units import count, significant

# A page that lists more keys of one reason is no longer read; the DataFrame holds them all.
MAX_KEYS = 200
INLINE_KEYS = 2
REASON_LETTERS = 300

Entry = tuple[Case, str, Result]


def incomplete_section(data: ReportData) -> list[str]:
    """Every incorrect, failed and unsupported case, identical reasons merged and counted."""
    parts = ["## Incomplete cases"]
    for status, section in (("incorrect", incorrect_sections), ("error", _errors), ("unsupported", _unsupported)):
        entries = _with_status(data.cells, status)
        if entries:
            parts += section(entries)
    return parts if len(parts) > 1 else [*parts, "None: every case on every backend was checked and passed."]


def _with_status(cells: Cells, status: str) -> list[Entry]:
    return [(case, series, result) for (case, series), result in cells.items() if result.record.status == status]


def _errors(entries: list[Entry]) -> list[str]:
    groups = _merge(entries, lambda series, result: (series, result.record.kind or "error", _first_line(result)))
    rows = [
        [code(series), kind, plain(reason), _inline(members), f"{len(members):,}"]
        for (series, kind, reason), members in groups
    ]
    parts = [f"### Errors ({len(entries):,})", table(["backend", "kind", "reason", "cases", "count"], rows, left=4)]
    for (series, kind, _), members in groups:
        full = anonymous(members[0][2].record.reason).strip()
        body = {"the output of the first": fence(full)} if "\n" in full else {}
        if len(members) > INLINE_KEYS:
            body["every case"] = _keys(members)
        if body:
            parts.append(details(f"{series}, {kind}: {', and '.join(body)}", "\n\n".join(body.values())))
    return parts


def _unsupported(entries: list[Entry]) -> list[str]:
    groups = _merge(entries, lambda series, result: (series, anonymous(result.record.reason)))
    rows = [
        [code(series), plain(_short(reason)), _inline(members), f"{len(members):,}"]
        for (series, reason), members in groups
    ]
    long = [(f"{label(series)}: {plain(_short(reason))}", members) for (series, reason), members in groups
            if len(members) > INLINE_KEYS]  # fmt: skip
    body = "\n\n".join(f"{title}\n\n{_keys(members)}" for title, members in long)
    parts = [f"### Unsupported ({len(entries):,})", table(["backend", "reason", "cases", "count"], rows, left=3)]
    return parts + ([details("Every unsupported case", body)] if body else [])


def _merge(
    entries: list[Entry], key: Callable[[str, Result], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], list[Entry]]]:
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for case, series, result in entries:
        groups.setdefault(key(series, result), []).append((case, series, result))
    return list(groups.items())


def _first_line(result: Result) -> str:
    """What happened; the lines after it are the tail of the output."""
    lines = [line.strip() for line in anonymous(result.record.reason).splitlines() if line.strip()]
    return _short(lines[0])


def _short(text: str) -> str:
    return cut(text, REASON_LETTERS)


def _inline(members: Sequence[Entry]) -> str:
    return " ".join(code(case.key) for case, _, _ in members) if len(members) <= INLINE_KEYS else "below"


def _keys(members: Sequence[Entry]) -> str:
    keys = [case.key for case, _, _ in members[:MAX_KEYS]]
    if len(members) > MAX_KEYS:
        keys.append(f"and {len(members) - MAX_KEYS:,} more, in attnbench.load(run)")
    return fence("\n".join(keys))


def warnings_section(data: ReportData) -> list[str]:
    """Warnings of records, measurements that did not converge, flagged outliers, unreadable lines; [] where none."""
    lines = [*_record_warnings(data), *_unconverged(data), *_outliers(data)]
    for entry in data.runs:
        lines += _run_warnings(entry)
    if data.superseded:
        lines.append(f"{count(data.superseded, 'record')} left out: a later one has the same case and backend.")
    return ["## Warnings", bullets(lines)] if lines else []


def _record_warnings(data: ReportData) -> Iterator[str]:
    groups = _Alike()
    for (case, series), result in data.cells.items():
        for warning in result.record.warnings:
            groups.add(code(series), anonymous(warning), case.key)
    yield from groups.lines("")


def _unconverged(data: ReportData) -> Iterator[str]:
    if data.widths.mostly_loose:  # told in the summary; a line each would be a line a measurement
        yield (
            f"{data.widths.loose:,} of {count(data.widths.timed, 'measurement')} did not converge; which condition was "
            "not met, each record says (`measurement.unmet`)."
        )
        return
    groups = _Alike()
    for (case, series), result in data.timed.items():
        measurement = result.measurement
        if not measurement.converged:
            groups.add(code(series), "; ".join(measurement.unmet), case.key)
    yield from groups.lines(" did not converge")


class _Alike:
    """Texts of a series that differ in their numbers only, merged: one line with the first of them as the example."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def add(self, series: str, text: str, key: str) -> None:
        self._groups.setdefault((series, numberless(text)), []).append((text, key))

    def lines(self, what: str) -> Iterator[str]:
        for (series, _), members in self._groups.items():
            (text, key), number = members[0], len(members)
            where = f"at {code(key)}" if number == 1 else f"{number:,} cases, the first {code(key)}"
            example = "" if len({text for text, _ in members}) == 1 else "for example "
            yield f"{series}{what}: {example}{plain(_short(text))} ({where})"


def _outliers(data: ReportData) -> Iterator[str]:
    flagged = [result.statistics for result in data.timed.values() if result.statistics.outliers]
    if flagged:
        samples = sum(stats.outliers for stats in flagged)
        yield f"{count(samples, 'sample')} in {count(len(flagged), 'measurement')} flagged as outliers; all are kept."


def _run_warnings(entry: LabelledRun) -> Iterator[str]:
    yield from (f"{code(entry.run.name)}: {plain(anonymous(problem))}" for problem in entry.run.problems)
    if entry.run.later:
        yield f"{code(entry.run.name)}: {plain(entry.run.later)}"
    later = sum(isinstance(record.case, LaterCase) for record in entry.run.records)
    if later:
        yield f"{code(entry.run.name)}: {count(later, 'record')} of cases with unknown fields are in no table."
    others = gpu_of(entry.run.environment).get("other_processes")
    if others:
        yield f"{code(entry.run.name)}: {count(others, 'other process', 'other processes')} on the GPU at its start."
    for why in why_suspect(entry.run.environment, entry.run.sentinels):
        yield f"{code(entry.run.name)} is marked suspect: {plain(anonymous(why))}"


# The incorrect results: by which rule, what most likely went wrong, and a map of where, for some of every kind.

AFTER_TIMING = " (right when checked, wrong after timing)"
NO_CAUSE = "none suggests itself"
# Maps of one backend and cause look alike, and a page of them is not read: so many of each, and so many in all.
MAPS_OF_A_KIND = 2
MAX_MAPS = 12
# A page with a longer table is not read any more; the DataFrame holds them all.
MAX_ROWS = 1000


def incorrect_sections(entries: Sequence[Entry]) -> list[str]:
    case, _, result = min(entries, key=lambda entry: size(entry[0]))
    example = shlex.join(["attnbench", "repro", f"results/{result.run}", case.key, result.backend])
    return [
        f"### Incorrect ({len(entries):,})",
        "A case that fails a check is not timed. A standalone script that shows the smallest again:",
        fence(example, "sh"),
        *_places(entries),
        "### By rule",
        _rules(entries[:MAX_ROWS]),
        *([f"And {len(entries) - MAX_ROWS:,} more, in `attnbench.load(run)`."] if len(entries) > MAX_ROWS else []),
    ]


def _rules(entries: Sequence[Entry]) -> str:
    rows = []
    for case, series, result in entries:
        accuracy = accuracy_of(result)
        failures = accuracy.failures
        worst = max(failures, key=ratio) if failures else None
        figure = f"{worst.value:.2g} / {worst.limit:.2g} = {significant(ratio(worst), 3)}" if worst else "—"
        also = [plain(check.rule) for check in failures if check is not worst]
        rule = plain(worst.rule if worst else _reason_line(result))
        rule += AFTER_TIMING if accuracy.recheck == "failed" else ""
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
    rows = [
        [code(series), _cause(members[0]) or NO_CAUSE, f"{len(members):,}"] for (series, _), members in kinds.items()
    ]
    return [
        "### Where it is wrong",
        table(["backend", "likely cause", "cases"], rows, left=2),
        *_maps(list(kinds.values())),
    ]


def _cause(entry: Entry) -> str:
    return plain(anonymous(entry[2].record.likely_cause))


def _map(entry: Entry) -> str:
    return "\n".join(accuracy_of(entry[2]).error_map)


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
