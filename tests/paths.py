"""Where things are, for tests. Not in conftest.py: there are several of those, and only one can be imported by name."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
