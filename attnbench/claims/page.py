"""The ledger as a page: one row a claim, with what the run directories say of it. A pure function of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from attnbench.case import Case, LaterCase
from attnbench.claims.ledger import Claim, papers
from attnbench.claims.measures import ACROSS_RUNS, Cells, Evidence, find
from attnbench.errors import UserError
from attnbench.markdown import code, table
from attnbench.records import store
from attnbench.records.output import write_output
from attnbench.records.result import Result, latest, results
from attnbench.records.store import Run
from attnbench.screen import INDENT, wrapped
from attnbench.suite.suite import matcher, parse_only

# The first line of what is written here; a file without it is somebody else's.
MARK = "<!-- Written by attnbench claims from run directories; the claims are in attnbench/claims/claims.yaml. -->"
RESULTS = Path("results")
NOT_RUN = "not run"
ABOUT = (
    "Headline claims of the papers that this project starts from: what tests each here, whether it can be compared, "
    "and what run directories say of it. No verdict is drawn. Every result is computed from records of the suite that "
    "is named; `not run` means that no run directory holds any. Speeds and memory are compared within one run, errors "
    "on the same inputs across runs as well."
)
HEADERS = ("claim", "source", "tested by", "comparable here", "result", "run")


class ClaimsError(UserError):
    """A ledger that cannot be written where it was asked for."""


def claims_page(runs: Iterable[str | Path] | None = None) -> str:
    """The page for these run directories; None: all under `results/`. Raises StoreError for what is no run."""
    read = _read(runs)
    parts = [MARK, "# Published claims", ABOUT]
    for paper in papers():
        rows = [_row(claim, read) for claim in paper.claims]
        parts += [f"## {paper.name}", f"{paper.cite}.", table(HEADERS, rows, left=len(HEADERS))]
    return "\n\n".join(parts) + "\n"


def claims_lines(width: int, runs: Iterable[str | Path] | None = None) -> Iterator[str]:
    """The same for a terminal: a claim in lines that fit, since a table of six texts does not."""
    read = _read(runs)
    yield from wrapped(ABOUT, "", width)
    for paper in papers():
        yield from ("", paper.name, *wrapped(f"{paper.cite}.", "", width))
        for claim in paper.claims:
            said, *rest = (cell.replace("`", "") for cell in _row(claim, read))
            yield from ("", *wrapped(said, INDENT, width))
            for header, cell in zip(HEADERS[1:], rest):
                if cell:
                    yield from wrapped(f"{INDENT}{header}: {cell}", 2 * INDENT, width)


def write_claims(runs: Iterable[str | Path] | None, output: Path, overwrite: bool) -> None:
    """The page into a file. Raises StoreError where another file is in its place, unless it may be overwritten, and
    ClaimsError where it cannot be written."""
    text = claims_page(runs)
    try:
        write_output(output, text, overwrite, "-o", MARK)
    except OSError as error:
        raise ClaimsError(f"cannot write {output}: {error}") from None


def _read(runs: Iterable[str | Path] | None) -> list[Run]:
    return sorted(map(store.read, _under(RESULTS) if runs is None else runs), key=_age)


def _under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if store.is_run(path)) if folder.is_dir() else []


def _age(run: Run) -> tuple[str, str]:
    """Older ones first."""
    return str(run.environment.get("collected_utc", "")), run.name


def _row(claim: Claim, runs: Sequence[Run]) -> list[str]:
    found = _found(claim, runs)
    names = [] if found is None else sorted({result.run for result in found.used})
    return [
        claim.claim,
        claim.source,
        _tested_by(claim),
        claim.comparable,
        NOT_RUN if found is None else found.words,
        ", ".join(code(f"results/{name}") for name in names),
    ]


def _tested_by(claim: Claim) -> str:
    """`attnbench run SUITE --only ...`, or the counts; a dash where nothing here does."""
    parts = []
    if claim.suite is not None:
        parts.append(code(" ".join(["attnbench run", claim.suite, *(f"--only {only}" for only in claim.only)])))
    if claim.counted:
        parts.append(f"counts {', '.join(map(code, claim.counted))}")
    return ", ".join(parts) or "—"


def _found(claim: Claim, runs: Sequence[Run]) -> Evidence | None:
    """By the latest run that says anything; where that may be, by all of them together."""
    if claim.measure is None or claim.suite is None:
        return None
    of_suite = [cells for run in runs if run.suite_name == claim.suite and (cells := _cells(claim, run))]
    for cells in reversed(of_suite):
        found = find(cells, claim.measure)
        if found is not None:
            return found
    if claim.measure["kind"] not in ACROSS_RUNS:
        return None
    return find({key: result for cells in of_suite for key, result in cells.items()}, claim.measure)


def _cells(claim: Claim, run: Run) -> Cells:
    keep = matcher(tuple(map(parse_only, claim.only)))
    taken: dict[tuple[Case, str], Result] = {}
    for result in latest(results(run)):
        if not isinstance(result.case, LaterCase) and keep(result.case):
            taken[result.case, result.backend] = result
    return taken
