"""The incumbent in the candidate's place, under another name: what it differs from itself there is what a difference
between the two must exceed (an A/A null)."""

from __future__ import annotations

from pathlib import Path

# The plugin that has them.
SPEC = str(Path(__file__).with_name("twin_backends.py"))
SUFFIX = "[again]"


def twin_name(name: str) -> str:
    return f"{name}{SUFFIX}"
