"""Figures of a report: rates, peak memory and error against seqlen, as SVG that is the same bytes every time.

They stand on an opaque light card, so that they read in light and dark viewers alike. Series differ by colour, marker
and dash; the colours are those that M. Okabe and K. Ito chose to be told apart with colour-vision deficiencies.
"""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from attnbench.markdown import image
from attnbench.report.data import ReportData
from attnbench.report.panels import Panel, Points, error_panels, finite, memory_panels, rate_panels
from attnbench.units import error, lengths

# Okabe and Ito's set without yellow, which vanishes on a light card; black late, since axes and text are dark too; then
# wine, olive and indigo of P. Tol's "muted" set, for more series than seven.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#999933", "#332288")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (1.5, 1.5), (6, 1.5, 1.5, 1.5))
CARD, PANEL, GRID, INK, QUIET = "#f4f4f1", "#ffffff", "#dddddd", "#222222", "#6b6b6b"
COLUMNS = 2
# So many figures of so many panels each; the tables hold the rest.
ALLOWED = {"tflops": (4, 6), "error": (3, 6)}
# A report of more results than this has hundreds of panels, of which any choice is a sample, and a panel takes as long
# as reading two hundred records.
LARGE = 2000
ALLOWED_LARGE = {"tflops": (3, 4), "error": (3, 2)}
MAX_TICKS = 8
# The part of a panel's width that the label of a length takes, with a gap.
LABEL_SHARE = 0.11
# Head dimensions whose peak memory is drawn; the table holds the rest.
MEMORY_PANELS = 4
MIB = 2**20
# Inches.
PANEL_WIDTH, PANEL_HEIGHT, TITLE_HEIGHT, LEGEND_HEIGHT = 4.8, 2.9, 0.35, 0.28
TITLE_LETTERS = 64
# Where a line shows how much of the datasheet's peak a rate is.
PEAK_PARTS = (0.25, 0.5, 0.75, 1.0)
# Keyword arguments of matplotlib's artists, which check them.
Style = dict[str, Any]
# Gives a panel its vertical axis, which all panels of the figure share: heights mean the same in each.
Finish = Callable[[Axes, Panel, Sequence[Panel]], None]


def rate_plots(data: ReportData, folder: Path) -> list[str]:
    """Draws rates against seqlen into `folder`; returns the markdown that shows the figures."""
    return _draw(rate_panels(data), data, folder, "tflops", data.unit.name, _rate_axes)


def memory_plots(data: ReportData, folder: Path) -> list[str]:
    """Draws peak memory against seqlen into `folder`; returns the markdown that shows the figure."""
    panels, path = memory_panels(data)[:MEMORY_PANELS], folder / "memory.svg"
    if not panels:
        return []
    _save(panels, data.series, path, "Peak memory against seqlen", _memory_axes)
    return [image(f"peak memory against seqlen: {', '.join(_names(panels, data.series))}", path)]


def error_plots(data: ReportData, folder: Path) -> list[str]:
    """Draws the relative RMSE against seqlen into `folder`; returns the markdown that shows the figures."""
    return _draw(error_panels(data), data, folder, "error", "relative RMSE", _error_axes)


def prediction_plot(panels: Sequence[Panel], folder: Path) -> list[str]:
    """Draws the first panels of E1 against seqlen with the predictions; the markdown that shows them."""
    if not panels:
        return []
    shown, path = panels[: ALLOWED["error"][1]], folder / "predictions.svg"
    order = sorted({series for panel in panels for series in panel.lines})
    _save(shown, order, path, "E1 against seqlen, and what each accumulator predicts", _error_axes)
    parts = [image("E1 against seqlen with the predictions of each accumulator", path)]
    return parts + ([f"Drawn: {len(shown)} of {len(panels)} plots."] if len(shown) < len(panels) else [])


def _draw(panels: Sequence[Panel], data: ReportData, folder: Path, name: str, label: str,
          finish: Finish) -> list[str]:  # fmt: skip
    """Saves the figures, each of one dtype, those panels first that show a failure, then those with the most lengths.

    Returns the markdown of each. Where there are too many, every dtype gets its first before any gets its second.
    """
    most, together = (ALLOWED if len(data.cells) <= LARGE else ALLOWED_LARGE)[name]
    figures = []
    for dtype, group in groupby(panels, key=lambda panel: panel.dtype):
        of_dtype = sorted(group, key=lambda panel: (not panel.failed, -len(panel.lengths)))
        starts = range(0, len(of_dtype), together)
        figures += [(number, dtype, of_dtype[start : start + together]) for number, start in enumerate(starts, 1)]
    kept = sorted(figures, key=lambda figure: figure[0])[:most]
    shown = []
    for number, dtype, part in (figure for figure in figures if figure in kept):
        path = folder / f"{name}-{dtype}-{number}.svg"
        _save(part, data.series, path, f"{dtype}: {label} against seqlen", finish)
        about = f"{label} against seqlen, {dtype}: {', '.join(_names(part, data.series))}"
        shown.append(image(about, path))
    drawn = sum(len(part) for _, _, part in kept)
    if drawn < len(panels):
        shown.append(f"Drawn: {drawn} of {len(panels)} plots of {label}; the tables hold the rest.")
    return shown


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    """Figures drawn inside look alike everywhere: matplotlib's defaults and these, whatever a user configured."""
    with matplotlib.rc_context():
        matplotlib.rcParams.update(matplotlib.rcParamsDefault)
        matplotlib.rcParams.update({
            "svg.hashsalt": "attnbench", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9,
            "text.parse_math": False,  # a backend may be called $\\fast$
            "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": QUIET, "xtick.color": INK, "ytick.color": INK,
        })  # fmt: skip
        yield


def _names(panels: Sequence[Panel], order: Sequence[str]) -> list[str]:
    return [series for series in order if any(series in panel.lines for panel in panels)]


def _save(panels: Sequence[Panel], order: Sequence[str], path: Path, title: str, finish: Finish) -> None:
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    legend = _legend(panels, order)
    legend_rows = -(-len(legend) // (3 * columns))
    width, height = PANEL_WIDTH * columns, PANEL_HEIGHT * rows + TITLE_HEIGHT + LEGEND_HEIGHT * legend_rows
    with _styled():
        figure = Figure(figsize=(width, height), facecolor=CARD)
        # NOTE: the margins are fixed, in inches: matplotlib's layout engines draw everything three times to find them.
        figure.subplots_adjust(
            left=0.75 / width, right=1 - 0.5 / width, top=1 - (TITLE_HEIGHT + 0.34) / height,
            bottom=(LEGEND_HEIGHT * legend_rows + 0.5) / height, wspace=0.33, hspace=0.45,
        )  # fmt: skip
        for number, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, number)
            _panel(axes, panel, order)
            finish(axes, panel, panels)
        figure.text(
            0.5, 1 - 0.5 * TITLE_HEIGHT / height, title, ha="center", va="center", fontsize=11, fontweight="bold"
        )
        figure.legend(handles=legend, loc="lower center", ncols=3 * columns, frameon=False, handlelength=3.2)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "attnbench"})


def _legend(panels: Sequence[Panel], order: Sequence[str]) -> list[Line2D]:
    lines = [Line2D([], [], label=name, **_style(order.index(name))) for name in _names(panels, order)]
    quiet = dict.fromkeys(name for panel in panels for name in panel.quiet)
    lines += [Line2D([], [], label=name, **QUIET_STYLES[name]) for name in quiet]
    if any(panel.spans for panel in panels):
        lines.append(Line2D([], [], label="interval of the median", **SPAN_STYLE))
    if any(panel.failed for panel in panels):
        lines.append(Line2D([], [], label="incorrect", **FAILED_STYLE))
    return lines


def _style(index: int) -> Style:
    """Colour, marker and dash of a series; no two alike among the first 180."""
    return {
        "color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5,
        "linewidth": 1.6, "dashes": DASHES[index % len(DASHES)] or (None, None),
    }  # fmt: skip


QUIET_STYLES: Mapping[str, Style] = {
    "eager reference": {"color": QUIET, "linewidth": 1.2, "dashes": (4, 2)},
    "lowest limit": {"color": QUIET, "linewidth": 1.2, "dashes": (1, 1.5)},
    # What an accumulator predicts, by `report.fp8.PREDICTED`.
    "fp32": {"color": QUIET, "linewidth": 1.2, "dashes": (4, 2)},
    "two-level": {"color": QUIET, "linewidth": 1.2, "dashes": (6, 1.5, 1, 1.5)},
    "14 bits": {"color": QUIET, "linewidth": 1.2, "dashes": (1, 1.5)},
}
# The bar that stands for all of them in the legend.
SPAN_STYLE: Style = {"color": QUIET, "marker": "|", "markersize": 11, "markeredgewidth": 1.4, "linestyle": "none"}
GRID_STYLE: Style = {"color": GRID, "linewidth": 0.7, "zorder": 0.5}
FAILED_STYLE: Style = {"color": "#B00020", "marker": "o", "markersize": 11, "fillstyle": "none", "linestyle": "none"}


def _panel(axes: Axes, panel: Panel, order: Sequence[str]) -> None:
    axes.set_facecolor(PANEL)
    # NOTE: the title gets a place of its own: to find it one, matplotlib measures every label.
    axes.set_title(textwrap.fill(panel.title, TITLE_LETTERS), fontsize=9, y=1.02)
    for name, points in panel.quiet.items():
        axes.plot(*_places(points), **QUIET_STYLES[name])
    for series, points in panel.lines.items():
        axes.plot(*_places(points), **_style(order.index(series)))
        for length, low, high in panel.spans.get(series, ()):
            axes.vlines(math.log2(length), low, high, color=_style(order.index(series))["color"], linewidth=1.4)
    if panel.failed:
        axes.plot(*_places(panel.failed), **FAILED_STYLE)
    ticks = spread_ticks(panel.lengths)
    _horizontal(axes, [math.log2(tick) for tick in ticks], [lengths(tick) for tick in ticks],
                "seqlen_k" if "seqlen_q" in panel.title else "seqlen")  # fmt: skip


def spread_ticks(values: Sequence[int]) -> list[int]:
    """Those of some lengths, in order, whose labels do not run into each other on a logarithmic axis; the longest, and
    downwards each that is far enough from the one before it.
    """
    kept = list(values[-1:])
    least = math.log2(values[-1] / values[0]) * LABEL_SHARE if values else 0.0
    for value in reversed(values[:-1]):
        if math.log2(kept[-1] / value) >= least:
            kept.append(value)
    return kept[::-1]


def _places(points: Points) -> tuple[list[float], list[float]]:
    """Lengths by their binary logarithm."""
    return [math.log2(length) for length, _ in points], [value for _, value in points]


def _horizontal(axes: Axes, places: Sequence[float], labels: Sequence[str], name: str) -> None:
    """Grid lines, their labels and the axis' name. NOTE: matplotlib's own ticks take half the time of a figure."""
    axes.xaxis.set_visible(False)
    across = axes.get_xaxis_transform()
    axes.vlines(places, 0, 1, transform=across, **GRID_STYLE)
    for place, label in zip(places, labels):
        axes.text(place, -0.03, label, transform=across, ha="center", va="top")
    axes.text(0.5, -0.11, name, transform=axes.transAxes, ha="center", va="top")


def _vertical(axes: Axes, places: Sequence[float], labels: Sequence[str], name: str) -> None:
    """The same, from bottom to top."""
    axes.yaxis.set_visible(False)
    across = axes.get_yaxis_transform()
    axes.hlines(places, 0, 1, transform=across, **GRID_STYLE)
    for place, label in zip(places, labels):
        axes.text(-0.015, place, label, transform=across, ha="right", va="center_baseline")
    axes.text(-0.15, 0.5, name, transform=axes.transAxes, ha="right", va="center", rotation=90)


def _rate_axes(axes: Axes, panel: Panel, panels: Sequence[Panel]) -> None:
    highest = [high for each in panels for spans in each.spans.values() for _, _, high in spans]
    top = 1.08 * max([*_values(panels), *highest])
    axes.set_ylim(0, top)
    ticks = [
        float(tick) for tick in MaxNLocator(MAX_TICKS, steps=(1, 2, 2.5, 5, 10)).tick_values(0, top) if tick <= top
    ]
    decimals = max(len(f"{tick:g}".partition(".")[2]) for tick in ticks)
    _vertical(axes, ticks, [f"{tick:.{decimals}f}" for tick in ticks], panel.unit.name)
    for part in PEAK_PARTS:
        if panel.peak and panel.peak / panel.unit.flops_per_s * part < top:
            height = panel.peak / panel.unit.flops_per_s * part
            axes.axhline(height, color=QUIET, linewidth=0.9, dashes=(1, 2), zorder=1.5)
            axes.text(1.02, height, f"{100 * part:.0f} %\nof peak", transform=axes.get_yaxis_transform(),
                      va="center", fontsize=7, color=QUIET)  # fmt: skip


def _values(panels: Sequence[Panel]) -> list[float]:
    return [value for panel in panels for value in finite([*panel.lines.values(), *panel.quiet.values()])]


def _memory_axes(axes: Axes, panel: Panel, panels: Sequence[Panel]) -> None:
    """Logarithmic, so that a power of the length is a line and its exponent the slope."""
    values = _values(panels)
    low, high = 0.7 * min(values), 1.5 * max(values)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    doublings = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    ticks = [2.0**power for power in doublings[:: -(-len(doublings) // MAX_TICKS)]]
    _vertical(axes, ticks, [f"{tick / MIB:g}" for tick in ticks], "peak memory, MiB")


def _error_axes(axes: Axes, panel: Panel, panels: Sequence[Panel]) -> None:
    values = _values(panels)
    low, high = 0.7 * min(values), 1.5 * max(values)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = logarithmic_ticks(low, high)
    _vertical(axes, ticks, [f"{tick:g}" for tick in ticks], "relative RMSE")


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """Round values from low to high, fewer in each decade the more decades there are."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    parts = (1, 1.5, 2, 3, 4, 5, 7) if high < 10 * low else (1, 2, 5) if high < 1000 * low else (1,)
    return [tick for decade in decades for part in parts if low <= (tick := part * 10.0**decade) <= high]


# Figures of the accuracy lab: a heat map of scheme against inputs, and bars of where the error comes from.

# Inches.
CELL_WIDTH, CELL_HEIGHT, LABELS_WIDTH, MARGIN_HEIGHT = 1.25, 0.32, 2.6, 1.2
BARS_WIDTH, BAR_HEIGHT, BAR_LABELS_WIDTH = 9.0, 0.16, 3.6
# Light to dark in one hue, so that it reads in print; numbers stand in every cell.
HEAT = "Blues"


def heat_map(
    path: Path, title: str, rows: Sequence[str], columns: Sequence[str], values: Mapping[tuple[str, str], float]
) -> None:
    """One cell a (row, column) that has a value, coloured by its logarithm within the figure."""
    import numpy as np

    grid = np.array([[values.get((row, column), np.nan) for column in columns] for row in rows])
    size = (LABELS_WIDTH + CELL_WIDTH * len(columns), MARGIN_HEIGHT + CELL_HEIGHT * len(rows))
    with _styled():
        figure = Figure(figsize=size, facecolor=CARD)
        axes = figure.add_axes(_inside(size, left=LABELS_WIDTH - 0.2, right=0.2, top=0.6, bottom=0.6))
        logs = np.log(np.where(grid > 0, grid, np.nan))
        axes.imshow(np.ma.masked_invalid(logs), cmap=HEAT, aspect="auto")
        middle = (np.nanmin(logs) + np.nanmax(logs)) / 2
        for y, x in zip(*np.nonzero(~np.isnan(logs))):
            ink = "white" if logs[y, x] > middle else "black"
            axes.text(x, y, error(float(grid[y, x])), ha="center", va="center", fontsize=8, color=ink)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel("inputs")
        figure.text(0.5, 1 - 0.3 / size[1], title, ha="center", va="center", fontsize=10, fontweight="bold")
        _write(figure, path)


def source_bars(
    path: Path, title: str, groups: Sequence[str], sources: Sequence[str], values: Mapping[tuple[str, str], float]
) -> None:
    """For each group one bar a source, logarithmic."""
    height = len(groups) * (len(sources) + 1) * BAR_HEIGHT
    size = (BARS_WIDTH, MARGIN_HEIGHT + 0.3 + height)
    with _styled():
        figure = Figure(figsize=size, facecolor=CARD)
        axes = figure.add_axes(_inside(size, left=BAR_LABELS_WIDTH, right=0.3, top=0.45, bottom=0.9))
        axes.set_facecolor(PANEL)
        axes.grid(True, axis="x", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for number, source in enumerate(sources):
            places = [index * (len(sources) + 1) + number for index in range(len(groups))]
            lengths = [values.get((group, source), 0.0) for group in groups]
            axes.barh(places, lengths, height=0.85, color=COLOURS[number % len(COLOURS)], label=source)
        axes.set_xscale("log")
        _error_ticks(axes, [values[place] for place in product(groups, sources) if place in values])
        axes.set_yticks([index * (len(sources) + 1) + (len(sources) - 1) / 2 for index in range(len(groups))], groups)
        axes.set_ylim(len(groups) * (len(sources) + 1) - 0.5, -1.5)  # from top to bottom, a bar's width around them
        axes.set_xlabel("relative RMSE")
        figure.legend(loc="lower center", ncols=len(sources), frameon=False)
        figure.text(0.5, 1 - 0.22 / size[1], title, ha="center", va="center", fontsize=10, fontweight="bold")
        _write(figure, path)


def _error_ticks(axes: Axes, errors: Sequence[float]) -> None:
    """A logarithmic horizontal axis around the errors that have a place on one; its ticks never collide."""
    held = [value for value in errors if 0 < value < math.inf]
    low, high = 0.7 * min(held, default=1.0), 1.5 * max(held, default=1.0)
    ticks = logarithmic_ticks(low, high)
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _inside(
    size: tuple[float, float], left: float, right: float, top: float, bottom: float
) -> tuple[float, float, float, float]:
    """Axes of a figure with these margins in inches."""
    width, height = size
    return left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "attnbench"})
