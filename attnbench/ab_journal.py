"""What `ab` has measured, pair by pair: a line in `processes.jsonl` as soon as both sides of a case are there.

Run directories of either side are made from it, with one record a case; an `ab` that was ended goes on from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from attnbench.records.measurement import RecordError
from attnbench.records.record import Record
from attnbench.records.store import StoreError, append_line, complete_length, lock_folder

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
