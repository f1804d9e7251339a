"""Records to markdown: a pure function of the run directories. Same records in, same bytes out, plots included."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attnbench import plots
from attnbench.records import store
from attnbench.report_accuracy import accuracy_lab_sections
from attnbench.report_context import conventions_section, environment_section, reproduce_section, title
from attnbench.report_data import ReportData, gather
from attnbench.report_errors import error_sections
from attnbench.report_incomplete import incomplete_section, warnings_section
from attnbench.report_speed import speed_sections
from attnbench.report_summary import summary_section
from attnbench.report_telemetry import telemetry_section


def write_report(runs: Iterable[str | Path], output: str | Path) -> Path:
    """Writes the report of one or more run directories to `output`, its plots into `<stem>_plots/` beside it.

    Several runs that measured different things on one machine read as one; otherwise each keeps its own columns, under
    a letter. Plots of an earlier report of that name are replaced. Returns `output`. Raises StoreError for what is no
    run directory, and for an output that cannot be written.
    """
    output = Path(output)
    with store.without_collection():
        try:
            _write(gather([store.read(run) for run in runs]), output, output.with_name(f"{output.stem}_plots"))
        except OSError as error:
            raise store.StoreError(f"cannot write the report {output}: {error.strerror}") from None
    return output


def _write(data: ReportData, output: Path, folder: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    rates = plots.rate_plots(data, folder)
    errors = plots.error_plots(data, folder)
    sections = [
        title(data),
        *summary_section(data),
        *environment_section(data),
        *speed_sections(data, rates),
        *telemetry_section(data),
        *error_sections(data, errors),
        *accuracy_lab_sections(data, folder),
        *incomplete_section(data),
        *warnings_section(data),
        *conventions_section(data),
        *reproduce_section(data),
    ]
    store.write_file(output, "\n\n".join(sections) + "\n")
