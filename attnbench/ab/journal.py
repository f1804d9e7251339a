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

from attnbench.ab.measure import ARMS, HEAD, NULL, Measured
from attnbench.compare.comparable import differences_of_environments
from attnbench.records.record import Record
from attnbench.records.store import (
    StoreError,
    Unreadable,
    Writer,
    append_line,
    complete_length,
    environment_text,
    lock_folder,
    open_own,
    refuse_occupied,
    write_file,
)
from attnbench.records.stored_facts import environment_facts, json_object
from attnbench.records.stored_record import stored_record
from attnbench.run.runner import RESULTS

JOURNAL = "processes.jsonl"


class Journal:
    """Appends pairs of records; holds the folder's lock until `close`. Raises StoreError where it cannot."""

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(folder)
            self._path = folder / JOURNAL
            self._file: IO[bytes] = open_own(self._path, "a+b")
            self._file.truncate(complete_length(self._file))
        except OSError as error:
            raise StoreError(f"cannot write {folder / JOURNAL}: {error.strerror}") from None

    def pairs(self) -> Iterator[tuple[str, Record, Record]]:
        """(what base was measured against, base's record, the other's), as they were measured.

        Raises Unreadable for a line that is none.
        """
        for number, line in enumerate(self._path.read_bytes().splitlines(), start=1):
            try:
                row = json_object(line, {"against": str, "base": dict, "other": dict})
                if row["against"] not in (HEAD, NULL):
                    raise ValueError(f'against: should be "{HEAD}" or "{NULL}"')
                yield row["against"], *(stored_record(json.dumps(row[side])) for side in ("base", "other"))
            except ValueError as error:  # RecordError is one
                way_out = "it cannot be continued, choose another --out"
                raise Unreadable(f"{self._path}:{number}: {error}; {way_out}") from None

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
_SAME = {"revision": "revision", "device": "device", "plugins": "--plugin"}
PROCESSES = "processes"


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
        if (out / name).is_symlink():
            (out / name).unlink()  # and nothing is written where it points to
        shutil.rmtree(out / name, ignore_errors=True)
        writer = Writer.create(out / name, dict(facts[place]), suite_text)
        try:
            for record in measured.merged(place):
                writer.append(record)
        finally:
            writer.close()


def begin(out: Path, facts: Sequence[Mapping[str, Any]], suite_text: str) -> None:
    """Writes down what is compared, before anything is measured. Raises StoreError where it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / COMPARISON, environment_text({"suite": suite_text, **dict(zip(ARMS, facts))}))
    except OSError as error:
        raise StoreError(f"cannot write {out / COMPARISON}: {error.strerror}") from None


def begun(out: Path) -> dict[str, Any]:
    """What `begin` wrote. Raises StoreError where no A/B was begun there, Unreadable where it does not say of what."""
    try:
        text = (out / COMPARISON).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"--resume {out}: no `attnbench ab` was begun there (it has no {COMPARISON}); use --out {out}"
        ) from None
    except OSError as error:
        raise StoreError(f"--resume {out}: cannot read {COMPARISON} ({error.strerror}); use another --out") from None
    try:
        found = json_object(text, {"suite": str, **dict.fromkeys(ARMS, dict)})
        for name in ARMS:
            found[name], problems = environment_facts(json.dumps(found[name], indent=2).encode())
            if problems:
                raise ValueError(f"{name}: {problems[0].partition(': ')[2].removesuffix(', left out')}")
        return found
    except ValueError as error:
        raise Unreadable(
            f"--resume {out}: {COMPARISON} does not say what was compared ({error}); use another --out"
        ) from None


def continued(out: Path, facts: Sequence[dict[str, Any]], suite_text: str) -> list[dict[str, Any]]:
    """The facts of an A/B that goes on: those of its beginning, and today's beside them; of processes, today's.

    Raises StoreError where something differs that makes it another comparison. More processes than before only add to
    it; fewer would leave out what was measured.
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
        begun_with, asked = was.get(PROCESSES), now.get(PROCESSES)
        if isinstance(begun_with, int) and isinstance(asked, int) and asked < begun_with:
            fewer = f"{name} was begun with --processes {begun_with}; {asked} are fewer, and only more may be asked for"
            raise StoreError(f"--resume {out}: {fewer}")
        merged.append({**was, PROCESSES: asked, "resumed": [*(was.get("resumed") or ()), now]})
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
