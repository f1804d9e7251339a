"""Options and arguments that several verbs of the command line share, and the types of their values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

# Shell completion of suites, backends, and run directories with the folders that lead to them, one level at a time.


def suite_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Files, and the suites that ship."""
    from click.shell_completion import CompletionItem

    from attnbench.suite.load import shipped_suites

    names = [(name, about) for name, about, _ in shipped_suites() if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *(CompletionItem(name, help=about) for name, about in names)]


def backend_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from attnbench.backends import builtin

    return [name for name in builtin() if name.startswith(incomplete)]


def run_directories(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """What `incomplete` may become; a folder that is no run ends in a slash, so that one can go on."""
    from click.shell_completion import CompletionItem

    from attnbench.records.store import is_run

    head, _, start = incomplete.rpartition("/")
    folder = Path(f"{head}/") if "/" in incomplete else Path()
    try:
        found = sorted(path for path in folder.iterdir() if path.name.startswith(start) and path.is_dir())
    except OSError:
        return []
    names = [(path, f"{head}/{path.name}" if "/" in incomplete else path.name) for path in found]
    shown = [(path, name) for path, name in names if start.startswith(".") or not path.name.startswith(".")]
    return [CompletionItem(name if is_run(path) else f"{name}/") for path, name in shown]


SECONDS = {"s": 1, "m": 60, "h": 3600}
# As in a suite (`attnbench.settings`, which takes long to import): a year, which every call of the system holds.
MAX_S = 366.0 * 24 * 3600


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """`90s`, `15m`, `2h`, or plain seconds."""

    name = "duration"

    def convert(self, value: Any, parameter: Any, context: Any) -> float:
        if isinstance(value, float):
            return value
        unit = value[-1:] if value[-1:] in SECONDS else ""
        try:
            seconds = float(value.removesuffix(unit)) * SECONDS.get(unit, 1)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= MAX_S:
            self.fail(f'"{value}" is no duration; write 90s, 15m or 2h, at most a year', parameter, context)
        return seconds


class Deliveries(click.ParamType):  # type: ignore[type-arg]  # as above
    """`random`, `random:7`, `lazy,eager,random`: when emulated asynchronous work executes."""

    name = "delivery"

    def convert(self, value: Any, parameter: Any, context: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        from attnbench.errors import suggest
        from attnbench.settings import DELIVERY_PATTERN

        names = tuple(name.strip() for name in value.split(","))
        for name in names:
            if not re.match(DELIVERY_PATTERN, name):
                known = suggest(name, ("lazy", "eager", "random", "random:SEED"))
                self.fail(f'"{name}" is no delivery{known}', parameter, context)
        return names


class Percentage(click.ParamType):  # type: ignore[type-arg]  # as above
    """`1%`, `0.5%`: a fraction of the base time. The sign is required: 1 alone could mean either."""

    name = "percentage"

    def convert(self, value: Any, parameter: Any, context: Any) -> Any:
        from attnbench.compare.margin import Margin

        if isinstance(value, Margin):
            return value
        try:
            if not value.endswith("%"):
                raise ValueError
            return Margin(float(value[:-1]) / 100)
        except ValueError:
            self.fail(f'"{value}" is no margin; write a percentage between 0% and 100%, such as 1%', parameter, context)


PATH = click.Path(path_type=Path)
BACKENDS = click.option(
    "--backend", "backends", multiple=True, metavar="NAME", shell_complete=backend_names,
    help="Run this backend instead of the suite's list; repeatable.",
)  # fmt: skip
ONLY = click.option(
    "--only", multiple=True, metavar="FIELD=VALUE[,VALUE]", help="Keep only the cases with these values; repeatable."
)
AXES = click.option(
    "--axis", "axes", multiple=True, metavar="FIELD=VALUE[,VALUE]",
    help="Give a case field these values, in SUITE or without one; repeatable.",
)  # fmt: skip
PLUGINS = click.option(
    "--plugin", "plugins", multiple=True, metavar="SPEC",
    help="A kernel of yours: file.py:function, module:function, or file.py with BACKENDS.",
)  # fmt: skip
DEVICE = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, or one card: cuda:1."
)
UNTRUSTED = click.option(
    "--untrusted", is_flag=True, help="Plugins run in processes of their own, without judge, oracle or records."
)
TIMEOUT = click.option(
    "--timeout", type=Duration(), metavar="SECONDS", help="End a call that does not return within it (default 120)."
)
SEED = click.option(
    "--seed", type=click.IntRange(min=0, max=2**53 - 1), metavar="N",
    help="Of what kernels must not know beforehand (default: drawn; in environment.json once the run is over).",
)  # fmt: skip
INTERPRET = click.option(
    "--interpret", is_flag=False, flag_value="auto", type=click.Choice(["auto", "hlo", "tpu"]),
    help="Judge Triton and Pallas kernels in an interpreter on the CPU; hlo, tpu: which of jax's.",
)  # fmt: skip
MARGIN = click.option(
    "--margin", type=Percentage(), default="1%", show_default=True, metavar="PERCENT",
    help="How large a difference must be to matter.",
)  # fmt: skip
AT_LEAST = click.option(
    "--at-least", multiple=True, metavar="FLOOR",
    help="How fast a backend of NEW has to be beside another, or gemm: 'hopper >= 1.0 x fa3 [geomean] "
    "[where dtype=bf16,...]'; repeatable.",
)  # fmt: skip
FORCE = click.option("--force", is_flag=True, help="Compare what is not comparable; every output is stamped with it.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a FILE that this verb did not write, too.")
JUNIT = click.option("--junit", type=PATH, metavar="FILE", help="Write the result as JUnit XML too.")
GITHUB = click.option("--github", is_flag=True, help="Print annotations for GitHub Actions, write the step's summary.")
STRICT = click.option("--strict", is_flag=True, help="Exit status 4 where a case is inconclusive.")
ALL = click.option("--all", "every", is_flag=True, help="Show every case in the table.")
