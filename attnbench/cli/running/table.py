"""The table at the end of `run`: times, rates, speedups and check results. Light: no pandas, no matplotlib."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from attnbench.records.measurement import Measurement
from attnbench.records.record import EMULATED, INTERPRETED, Record
from attnbench.records.result import Result, TimedResult, latest
from attnbench.records.stats import speeds
from attnbench.screen import LOG_COLUMNS, NAME, Column, Row, natural_width, sheet, wrapped
from attnbench.units import RateUnit, count, lengths, rate_unit, show_time, significant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from attnbench.case import Case

# A table with more rows scrolls off any terminal: then one row stands for a family on a backend.
MAX_ROWS = 100
# With more columns the cells of a usual terminal no longer fit: then each record gets a row of its own.
MAX_BACKEND_COLUMNS = 4
UNCONVERGED, FASTEST, LEVEL = "†", "*", "="
PASSED, UNSUPPORTED = "passed", "—"
STYLES = {"incorrect": "bold red", "error": "red"}

BY_CASE, BY_RECORD, FOLDED = "by case", "by record", "folded"

Cells = Mapping[tuple["Case", str], Result]
Families = Mapping[str, Sequence["Case"]]
Group = tuple[Families, tuple[str, ...], str]


def summary(
    records: Iterable[Record], environment: Mapping[str, Any] | None = None, width: int = LOG_COLUMNS
) -> Iterator[RenderableType]:
    """Every record by case and backend where that fits, else a row each, else folded to families by backend.

    A time stands only where every check passed; "passed" is a case that was checked and not timed. Of two records of
    one case and backend the later one counts. environment: of the run, which says what its CPU is.
    """
    from rich.text import Text

    results = latest(tuple(Result.of(record) for record in records))
    cells = {(result.case, result.backend): result for result in results}
    made = Summary(cells, width)
    for text in made.heading():
        yield Text(text)
    yield from made.tables()
    for text in (*made.not_timed(), *made.unsupported(), *made.intervals(environment or {})):
        yield from map(Text, wrapped(text, width=width))


class Summary:
    """Results laid out for a terminal of a width."""

    def __init__(self, cells: Cells, width: int) -> None:
        from attnbench.report.data import preferred, timed_cells
        from attnbench.report.speed import races
        from attnbench.report.trust import Widths

        self._cells, self._width = cells, width
        self._timed = timed_cells(cells)
        self._widths = Widths.of(tuple(self._timed.values()))
        self._baseline = preferred(self._timed)
        self._unit: RateUnit = rate_unit(*(result.flops_per_s for result in self._timed.values()))
        self._races = {race.case: race for race in races(self._timed)}
        self._groups = self._grouped()

    def heading(self) -> Iterator[str]:
        if any(layout == FOLDED for _, _, layout in self._groups):
            what = f"highest {self._unit.name}" if self._timed else "how many passed"
            yield f"{len(self._cells):,} records, folded: {what}; `attnbench report` shows each"
            return
        if not self._timed:
            yield "checked, nothing timed"
            return
        over = f", speedup over {self._baseline}" if self._baseline else ""
        yield f"median time, {self._unit.name}{over}"
        marks = [f"{FASTEST} fastest", f"{LEVEL} too close to call"] if self._races else []
        if self._marked_loose():
            marks.append(f"{UNCONVERGED} did not converge")
        if marks:
            yield ", ".join(marks)

    def _marked_loose(self) -> bool:
        return bool(self._widths.loose) and not self._widths.mostly_loose

    def tables(self) -> Iterator[RenderableType]:
        """One for all families on which the same backends ran."""
        from rich.text import Text

        make = {BY_CASE: self._by_case, BY_RECORD: self._by_record, FOLDED: self._folded}
        for families, names, layout in self._groups:
            yield Text("")
            if names:
                yield from sheet(*make[layout](families, names), self._width)
            else:
                yield Text(f"nothing ran on {', '.join(families)}")
        yield Text("")

    def _grouped(self) -> list[Group]:
        """(families, the backends that ran on them and need a column, how they are laid out)."""
        groups: dict[tuple[str, ...], dict[str, list[Case]]] = {}
        for family, cases in self._families().items():
            ran = tuple(name for name in self._backends() if any(self._ran(case, name) for case in cases))
            groups.setdefault(ran, {})[family] = cases
        found: list[Group] = []
        for ran, families in groups.items():
            names = tuple(name for name in ran if not self._only_passed(name)) or ran
            found.append((families, names, self._layout(families, names)))
        return found

    def _layout(self, families: Families, names: Sequence[str]) -> str:
        """By case where that fits, by record where that is no longer than a screen or two, else folded."""
        heads, rows = self._by_case(families, names)
        fits = len(names) <= MAX_BACKEND_COLUMNS and natural_width(heads, rows) <= self._width
        if fits and len(rows) <= MAX_ROWS:
            return BY_CASE
        records = sum((case, name) in self._cells for cases in families.values() for case in cases for name in names)
        return BY_RECORD if records <= MAX_ROWS else FOLDED

    def _families(self) -> dict[str, list[Case]]:
        found: dict[str, list[Case]] = {}
        for case in dict.fromkeys(case for case, _ in self._cells):
            found.setdefault(family_of(case), []).append(case)
        return found

    def _backends(self) -> list[str]:
        return list(dict.fromkeys(name for _, name in self._cells))

    def _ran(self, case: Case, name: str) -> bool:
        result = self._cells.get((case, name))
        return result is not None and result.record.status != "unsupported"

    def _only_passed(self, name: str) -> bool:
        """Passed wherever it ran and was never timed, beside backends that were: it needs no column."""
        mine = [result.record for (_, backend), result in self._cells.items() if backend == name]
        never_timed = all(record.status in ("ok", "unsupported") and record.measurement is None for record in mine)
        return bool(self._timed) and never_timed

    def _by_case(self, families: Families, names: Sequence[str]) -> tuple[list[Column], list[Row]]:
        heads = [Column("problem", NAME), Column("seqlen"), Column("batch")]
        for name in names:
            first, *further = self._titles(name)
            heads += [Column(f"{name}\n{first}".rstrip()), *map(Column, further)]
        parts = []
        for family, cases in families.items():
            mine = [self._row(case, names) for case in cases]
            parts.append((family, mine if self._timed else merged(mine)))
        return heads, sections(parts)

    def _row(self, case: Case, names: Sequence[str]) -> Row:
        results = [self._cells.get((case, name)) for name in names]
        cells = [cell for name, result in zip(names, results) for cell in self._cell(name, result)]
        worst = [STYLES[result.record.status] for result in results if result and result.record.status in STYLES]
        return Row(("", seqlen(case), str(case.batch), *cells), worst[0] if worst else "")

    def _titles(self, name: str) -> list[str]:
        if not any(backend == name for _, backend in self._timed):
            return [""]
        return ["time", self._unit.name, *(["speedup"] if self._baseline not in (None, name) else [])]

    def _cell(self, name: str, result: Result | None) -> list[str]:
        titles = self._titles(name)
        if not isinstance(result, TimedResult):
            return [outcome_word(result), *("" for _ in titles[1:])]
        cells = [self._time(result), self._rates(result), self._speedup(result)]
        return cells[: len(titles)]

    def _time(self, result: TimedResult) -> str:
        """With room for a mark behind it, so that times stand below each other."""
        race = self._races.get(result.case)
        mark = " "
        if race is not None and race.level and result.backend in (race.winner, race.follower):
            mark = LEVEL
        elif race is not None and not race.level and result.backend == race.winner:
            mark = FASTEST
        if self._marked_loose():
            mark += " " if result.measurement.converged else UNCONVERGED
        return show_times(result.measurement) + (f" {mark}" if self._races or self._marked_loose() else "")

    def _rates(self, result: TimedResult) -> str:
        """The median's, or both of a call that has two speeds."""
        return " or ".join(map(self._unit.show, result.rates_flops_per_s))

    def _speedup(self, result: TimedResult) -> str:
        base = self._timed.get((result.case, self._baseline)) if self._baseline else None
        return "" if base is None or base is result else f"{significant(base.time_s / result.time_s, 3)}x"

    def _by_record(self, families: Families, names: Sequence[str]) -> tuple[list[Column], list[Row]]:
        titles = ["time", *([self._unit.name, "speedup"] if self._timed else [])]
        heads = [Column("problem", NAME), Column("seqlen"), Column("batch"), Column("backend", NAME)]
        heads += [Column(title if self._timed else "result") for title in titles]
        parts = []
        for family, cases in families.items():
            mine = []
            for case, name in product(cases, names):
                result = self._cells.get((case, name))
                cells = [outcome_word(result), "", ""]
                if isinstance(result, TimedResult):
                    cells = [self._time(result), self._rates(result), self._speedup(result)]
                if result is not None:
                    style = STYLES.get(result.record.status, "")
                    mine.append(Row(("", seqlen(case), str(case.batch), name, *cells[: len(titles)]), style))
            parts.append((family, mine))
        return heads, sections(parts)

    def _folded(self, families: Families, names: Sequence[str]) -> tuple[list[Column], list[Row]]:
        """One row a family, or a dtype where there are too many; each cell the highest rate and what failed."""
        grouped: dict[str, list[Case]] = {}
        for family, cases in families.items():
            grouped.setdefault(family if len(families) <= MAX_ROWS else cases[0].dtype, []).extend(cases)
        heads = [Column("problem", NAME), Column("cases"), *map(Column, names)]
        rows = []
        for title, cases in grouped.items():
            members = [[self._cells[case, name] for case in cases if (case, name) in self._cells] for name in names]
            failed = any(result.record.status in STYLES for of in members for result in of)
            cells = [folded_cell(of, self._unit) for of in members]
            rows.append(Row((title, f"{len(cases):,}", *cells), STYLES["incorrect"] if failed else ""))
        return heads, rows

    def not_timed(self) -> Iterator[str]:
        """Backends that passed wherever they ran and have no time, in a line; of emulated ones nothing is a speed."""
        for name in self._backends():
            passed = [result.record for (_, backend), result in self._cells.items()
                      if backend == name and result.record.status == "ok"]  # fmt: skip
            if passed and self._only_passed(name):
                ways = [way for way in (EMULATED, INTERPRETED) if any(way in (r.kernel or {}) for r in passed)]
                how = f"{ways[0]}, never timed" if ways else "not timed"
                yield f"{name}: {count(len(passed), 'case')} passed ({how})"

    def unsupported(self) -> Iterator[str]:
        from attnbench.report.causes import unsupported

        for found in unsupported((name, result.record) for (_, name), result in self._cells.items()):
            yield f"unsupported: {', '.join(found.series)} in {found.where}: {found.why}"

    def intervals(self, environment: Mapping[str, Any]) -> Iterator[str]:
        """Where wide intervals are the rule, one line instead of a mark on every row."""
        from attnbench.report.trust import interval_words

        if self._widths.mostly_loose:
            yield interval_words(self._widths, environment, tuple(self._timed.values()))


def show_times(measurement: Measurement) -> str:
    """The median, or both speeds of a call that has two."""
    return " or ".join(map(show_time, speeds(measurement)))


def sections(parts: Sequence[tuple[str, Sequence[Row]]]) -> list[Row]:
    """Rows of families, each with its name in its first row; a line between them unless all have one row."""
    apart = any(len(rows) > 1 for _, rows in parts)
    return [Row((family if place == 0 else "", *row.cells[1:]), row.style, apart and place == len(rows) - 1)
            for family, rows in parts for place, row in enumerate(rows)]  # fmt: skip


def merged(rows: Sequence[Row]) -> list[Row]:
    """Neighbouring rows of one batch size that hold nothing but `passed`, as one with the first and the last length."""
    found: list[list[Row]] = []
    for row in rows:
        alike = found and found[-1][-1].cells[2:] == row.cells[2:] and set(row.cells[3:]) <= {PASSED, UNSUPPORTED, ""}
        if alike:
            found[-1].append(row)
        else:
            found.append([row])
    return [group[0] if len(group) == 1 else _spanning(group) for group in found]


def _spanning(group: Sequence[Row]) -> Row:
    first, last = group[0].cells, group[-1].cells
    return Row((first[0], f"{first[1]} … {last[1]} ({len(group)} lengths)", *first[2:]), group[0].style)


def folded_cell(members: Sequence[Result], unit: RateUnit) -> str:
    status = [result.record.status for result in members]
    rates = [result.flops_per_s for result in members if result.flops_per_s]
    failed = status.count("incorrect") + status.count("error")
    parts = [unit.show(max(rates))] if rates else [f"{status.count('ok'):,} {PASSED}"] if "ok" in status else []
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts) or (UNSUPPORTED if members else "")


def outcome_word(result: Result | None) -> str:
    """What stands for a result without a time."""
    if result is None:
        return ""
    record = result.record
    return {"ok": PASSED, "unsupported": UNSUPPORTED}.get(record.status, record.kind or record.status)


def family_of(case: Case) -> str:
    """The case key without batch and lengths, nor inputs where they are the default."""
    return re.sub(r"-b\d+-q\d+-k\d+", "", case.key).replace("-normal.0", "")


def seqlen(case: Case) -> str:
    if case.seqlen_q == case.seqlen_k:
        return lengths(case.seqlen_q)
    return f"{lengths(case.seqlen_q)} x {lengths(case.seqlen_k)}"
