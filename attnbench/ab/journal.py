"""What `ab` has measured, pair by pair: a line in `processes.jsonl` as soon as both sides of a case are there.

Run directories of either side are made from it, with one record a case; an `ab` that was ended goes on from it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from attnbench.ab.measure import ARMS, Measured
from attnbench.compare.comparable import differences_of_environments
from attnbench.records.measurement import RecordError
from attnbench.records.record import Record
from attnbench.records.store import (
    StoreError,
    Writer,
    append_line,
    complete_length,
    lock_folder,
    refuse_occupied,
    write_file,
)
from attnbench.run.runner import RESULTS

JOURNAL = "processes.jsonl"


class Journal:
    """Appends pairs of records; holds the folder's lock until `close`. Raises StoreError where it cannot."""

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(folder)
            self._path = folder / JOURNAL
            self._file: IO[bytes] = self._path.open("a+b", buffering=0)
            self._file.truncate(complete_length(self._file))
        except OSError as error:
            raise StoreError(f"cannot write {folder / JOURNAL}: {error.strerror}") from None

    def pairs(self) -> Iterator[tuple[str, Record, Record]]:
        """(what base was measured against, base's record, the other's), as they were measured.

        Raises StoreError for a line that is none.
        """
        for number, line in enumerate(self._path.read_bytes().splitlines(), start=1):
            try:
                row = json.loads(line)
                yield row["against"], *(Record.from_json(json.dumps(row[side])) for side in ("base", "other"))
            except (ValueError, KeyError, TypeError, RecordError) as error:
                way_out = "it cannot be continued, choose another --out"
                raise StoreError(f"{self._path}:{number}: {error}; {way_out}") from None

    def append(self, against: str, base: Record, other: Record) -> None:
        line = f'{{"against":"{against}","base":{base.to_json()},"other":{other.to_json()}}}'
        try:
            append_line(self._file, line)
        except OSError as error:
            raise StoreError(
                f"{self._path}: cannot write a pair of records ({error.strerror}); every earlier one is safe. "
                f"Make room, then continue with --resume {self._path.parent}"
            ) from None

    def close(self) -> None:
        self._file.close()
        os.close(self._lock)


# The two run directories of an A/B: made from its journal, and what has to be the same for it to be continued.

# What is compared with what: the suite, and the environment of either side.
COMPARISON = "comparison.json"
# Facts of the environment by which pairs of another moment are of the same comparison, and what to call them.
_SAME = {"revision": "revision", "device": "device", "plugins": "--plugin", "processes": "--processes"}


def choose_folder(suite: str, out: Path | None, resume: Path | None) -> Path:
    """Where a comparison is, or is to be. Raises StoreError where it cannot be."""
    if resume is None:
        out = out or RESULTS / (time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-ab-{suite}")
        refuse_occupied(out)
        return out
    if out is not None and out.resolve() != resume.resolve():
        raise StoreError(f"--resume {resume} continues in that directory; leave out --out {out}")
    begun(resume)
    return resume


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


def begin(out: Path, facts: Sequence[Mapping[str, Any]], suite_text: str) -> None:
    """Writes down what is compared, before anything is measured. Raises StoreError where it cannot be written."""
    text = json.dumps({"suite": suite_text, **dict(zip(ARMS, facts))}, indent=2, sort_keys=True) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / COMPARISON, text)
    except OSError as error:
        raise StoreError(f"cannot write {out / COMPARISON}: {error.strerror}") from None


def begun(out: Path) -> dict[str, Any]:
    """What `begin` wrote. Raises StoreError where there is no A/B to go on with."""
    try:
        found = json.loads((out / COMPARISON).read_text())
        if isinstance(found, dict) and all(isinstance(found.get(name), dict) for name in ARMS):
            return found
        message = f"{COMPARISON} does not say what was compared; use another --out"
    except (FileNotFoundError, NotADirectoryError):
        message = f"no `attnbench ab` was begun there (it has no {COMPARISON}); use --out {out}"
    except (OSError, ValueError) as error:
        message = f"cannot read {COMPARISON} ({error}); use another --out"
    raise StoreError(f"--resume {out}: {message}")


def continued(out: Path, facts: Sequence[dict[str, Any]], suite_text: str) -> list[dict[str, Any]]:
    """The facts of an A/B that goes on: those of its beginning, and today's beside them.

    Raises StoreError where something differs that makes it another comparison.
    """
    before, merged = begun(out), []
    for name, now in zip(ARMS, facts):
        was = before[name]
        for key, title in _SAME.items():
            if _identity(was.get(key)) != _identity(now.get(key)):
                differs = f"{name} was begun with {title} {_shown(was.get(key))}, not {_shown(now.get(key))}"
                raise StoreError(f"--resume {out}: {differs}; use another --out")
        for differs in differences_of_environments(was, now):
            raise StoreError(f"--resume {out}: the machine is not as it was; {differs}; use another --out")
        merged.append({**was, "resumed": [*was.get("resumed", []), now]})
    if before.get("suite") != suite_text:
        raise StoreError(f"--resume {out}: it was begun with other cases or backends; use another --out")
    return merged


def _identity(value: Any) -> Any:
    """NOTE: `--head .` is a new commit each time, of the same files."""
    return {name: each for name, each in value.items() if name != "commit"} if isinstance(value, Mapping) else value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        build = f", built by {value['build']}" if value.get("build") else ""
        return f"{value.get('ref')} ({str(value.get('commit'))[:10]}){build}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
