"""The two run directories of an A/B: made from its journal, and what has to be the same for it to be continued."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Mapping, Sequence

from attnbench.ab import ARMS, Measured
from attnbench.ab_journal import JOURNAL
from attnbench.store import StoreError, Writer, is_run, read

# Facts of the environment by which pairs of another moment are of the same comparison, and what to call them.
_SAME = {"revision": "revision", "device": "device", "plugins": "--plugin", "machine": "machine",
         "processes": "--processes"}  # fmt: skip


def write_runs(out: Path, facts: Sequence[Mapping[str, Any]], suite_text: str, measured: Measured) -> None:
    """`out`/base and `out`/head, ordinary run directories, in place of what is there: the journal holds everything."""
    for place, name in enumerate(ARMS):
        shutil.rmtree(out / name, ignore_errors=True)
        writer = Writer.create(out / name, dict(facts[place]), suite_text)
        try:
            for record in measured.merged(place):
                writer.append(record)
        finally:
            writer.close()


def refuse_nothing(out: Path) -> None:
    """Raises StoreError where there is no A/B to go on with."""
    if not (out / JOURNAL).is_file() or not all(is_run(out / name) for name in ARMS):
        raise StoreError(f"--resume {out}: no `attnbench ab` was begun there (it has no {JOURNAL}); use --out {out}")


def continued(out: Path, facts: Sequence[dict[str, Any]], suite_text: str) -> list[dict[str, Any]]:
    """The facts of an A/B that goes on: those of its beginning, and today's beside them.

    Raises StoreError where something differs that makes it another comparison.
    """
    merged = []
    for name, now in zip(ARMS, facts):
        run = read(out / name)
        for key, title in _SAME.items():
            if run.environment.get(key) != now.get(key):
                begun = f"{name} was begun with {title} {_shown(run.environment.get(key))}, not {_shown(now.get(key))}"
                raise StoreError(f"--resume {out}: {begun}; use another --out")
        if run.suite_text != suite_text:
            raise StoreError(f"--resume {out}: it was begun with other cases or backends; use another --out")
        merged.append({**run.environment, "resumed": [*run.environment.get("resumed", []), now]})
    return merged


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        build = f", built by {value['build']}" if value.get("build") else ""
        return f"{value.get('ref')} ({str(value.get('commit'))[:10]}){build}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
