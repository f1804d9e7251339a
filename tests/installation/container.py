"""The container file's instructions, as far as tests need them: no docker is needed to read them."""

import shlex
import shutil

from paths import ROOT

FILE = ROOT / ".ci" / "Containerfile"


def instructions():
    """(instruction, words) of each, in order; comments left out."""
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def copy_into(folder):
    """What the file's COPY lines bring into the image, as docker does it: a folder's contents, or files."""
    for name, rest in instructions():
        if name == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                place = ROOT / source
                if place.is_dir():
                    shutil.copytree(place, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(place, folder / target / source)
