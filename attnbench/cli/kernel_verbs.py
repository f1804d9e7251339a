"""The verbs of `attnbench kernels`: their options; what they do stands in `attnbench/cli/kernels.py`."""

from __future__ import annotations

import sys

import click

from attnbench.cli.group import reporting_mistakes


@click.group(short_help="Compile our Hopper kernels, and inspect them.", epilog="Example: attnbench kernels build")
def kernels() -> None:
    """Our own Hopper kernels (kernels/): compile them, and read what the compiler made of them. Needs no GPU."""


@kernels.command(
    short_help="Compile kernels/*.cu for sm_90a, what changed only.",
    epilog="Example: attnbench kernels build fwd_overlap",
)
@click.argument("names", nargs=-1, metavar="[FILE]...")
@click.option("--force", is_flag=True, help="Compile again even where nothing changed.")
def build(names: tuple[str, ...], force: bool) -> None:
    """Compile kernels/*.cu for sm_90a with nvcc (PyPI wheels, PATH or CUDA_HOME), what changed only.

    A spill in a main loop, or a line of ptxas about serialized wgmma, is an error.
    """
    from attnbench.cli.kernels import build_line
    from attnbench.hopper.build import build_all

    reporting_mistakes(build_all, names, force=force, report=lambda done: click.echo(build_line(done)))


@kernels.command(
    short_help="Registers, spills, main loops: ours, any file.",
    epilog="Example: attnbench kernels inspect fa3_fwd.whl --only head_dim=128 --only dtype=bf16",
)
@click.argument("names", nargs=-1, metavar="[FILE]...")
@click.option("--only", multiple=True, metavar="FIELD=VALUE,...", help="Of files: kernels whose field has the value.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--update", is_flag=True, help="Record the figures as the ones to hold (kernels/static.json).")
def inspect(names: tuple[str, ...], only: tuple[str, ...], as_json: bool, update: bool) -> None:
    """Registers, spills, shared memory and instructions of every variant, held against limits and recorded figures.

    FILE names some of our kernels (fwd_overlap), or files with machine code: libraries, objects, cubins, fatbins,
    wheels, anybody's. Of files it tells what each main loop needs of every pipe, and what limits it.

    Exit status 1 where a limit is broken or a recorded figure has changed.
    """
    from attnbench.cli.kernels import inspect_built, inspect_files, machine_code_files

    files = reporting_mistakes(machine_code_files, names, only, update)
    if files:
        reporting_mistakes(inspect_files, files, only, as_json)
        return
    sys.exit(reporting_mistakes(inspect_built, names, as_json, update))
