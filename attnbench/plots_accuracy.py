"""Figures of the accuracy lab: a heat map of scheme against inputs, and bars of where the error comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from attnbench.plots import CARD, COLOURS, GRID, PANEL, STYLE, logarithmic_ticks
from attnbench.units import error

# Inches.
CELL_WIDTH, CELL_HEIGHT, LABELS_WIDTH, MARGIN_HEIGHT = 1.25, 0.32, 2.6, 1.2
BARS_WIDTH, BAR_HEIGHT, BAR_LABELS_WIDTH = 9.0, 0.16, 3.6
# Light to dark in one hue, so that it reads in print; numbers stand in every cell.
HEAT = "Blues"


def heat_map(path: Path, title: str, rows: Sequence[str], columns: Sequence[str],
             values: Mapping[tuple[str, str], float]) -> None:  # fmt: skip
    """One cell a (row, column) that has a value, coloured by its logarithm within the figure."""
    import numpy as np

    grid = np.array([[values.get((row, column), np.nan) for column in columns] for row in rows])
    size = (LABELS_WIDTH + CELL_WIDTH * len(columns), MARGIN_HEIGHT + CELL_HEIGHT * len(rows))
    with matplotlib.rc_context():
        matplotlib.rcParams.update({**matplotlib.rcParamsDefault, **STYLE})
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


def source_bars(path: Path, title: str, groups: Sequence[str], sources: Sequence[str],
                values: Mapping[tuple[str, str], float]) -> None:  # fmt: skip
    """For each group one bar a source, logarithmic."""
    height = len(groups) * (len(sources) + 1) * BAR_HEIGHT
    size = (BARS_WIDTH, MARGIN_HEIGHT + 0.3 + height)
    with matplotlib.rc_context():
        matplotlib.rcParams.update({**matplotlib.rcParamsDefault, **STYLE})
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


def _inside(size: tuple[float, float], left: float, right: float, top: float, bottom: float) -> list[float]:
    """Axes of a figure with these margins in inches."""
    width, height = size
    return [left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height]


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "attnbench"})
