"""Run directories: `environment.json`, `suite.yaml` (resolved), `records.jsonl`, one record a line, and
`sentinels.jsonl`, what the machine itself could do at the start, now and then, and at the end.

A record is appended and fsynced as soon as it exists, so neither Ctrl-C, `kill -9` nor a full disk loses one that was
taken. One writer at a time holds a lock on the directory; the lock ends with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from attnbench.errors import UserError
from attnbench.records.measurement import RecordError
from attnbench.records.record import Record

RECORDS = "records.jsonl"
ENVIRONMENT = "environment.json"
SUITE = "suite.yaml"
SENTINELS = "sentinels.jsonl"
CUT_SHORT = "truncated line, left out"


class StoreError(UserError):
    """A run directory that cannot be used as asked; the message names it and the way out."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory as read. problems: lines that are no records, named by number; the rest is used.

    unknown: keys of records that a later version wrote and this one leaves out, sorted.
    sentinels: rows as `sentinel` reads them, in the order of writing; () in runs of before there were any.
    """

    path: Path
    name: str
    environment: dict[str, Any]
    suite_text: str
    records: tuple[Record, ...]
    problems: tuple[str, ...] = ()
    sentinels: tuple[dict[str, Any], ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def later(self) -> str:
        """What a reader must know of a run that a later version wrote, in one line; "" of others."""
        if not self.unknown:
            return ""
        names = ", ".join(self.unknown)
        return f"written by a later version of attnbench; what this one does not know is left out: {names}"


def is_run(path: Path) -> bool:
    return (Path(path) / RECORDS).is_file()


def read(path: str | Path) -> Run:
    """The run at `path`. Raises StoreError where there is no run, or one of another schema."""
    path = Path(path)
    _require_run(path)
    try:
        records, problems, unknown = _read_records(path / RECORDS)
        environment = _read_environment(path / ENVIRONMENT)
        sentinels, unread = _read_sentinels(path / SENTINELS)
        suite_text = (path / SUITE).read_text("utf-8") if (path / SUITE).is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read the run directory {path}: {error}") from None
    if problems and not records and all("schema" in problem for problem in problems):
        raise StoreError(f"{path}: {problems[0]}; read it with the version of attnbench that wrote it")
    problems += unread
    return Run(
        path=path,
        name=path.resolve().name,
        environment=environment,
        suite_text=suite_text,
        records=tuple(records),
        problems=tuple(problems),
        sentinels=tuple(sentinels),
        unknown=tuple(sorted(unknown)),
    )


def _require_run(path: Path) -> None:
    if not path.is_dir():
        raise StoreError(f"{path}: no such run directory")
    if not is_run(path):
        raise StoreError(f"{path}: not a run directory (it has no {RECORDS})")


def _read_records(path: Path) -> tuple[list[Record], list[str], set[str]]:
    """The records, the lines that are none, and the names of keys that were left out."""
    records: list[Record] = []
    problems: list[str] = []
    unknown: set[str] = set()
    with path.open("rb") as lines, without_collection():
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                problems.append(f"{path.name}:{number}: {CUT_SHORT}")
                continue
            try:
                records.append(Record.from_json(line, unknown))
            except RecordError as error:
                problems.append(f"{path.name}:{number}: {error}")
    return records, problems, unknown


def _read_sentinels(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    rows, problems = [], []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            problems.append(f"{path.name}:{number}: not JSON, left out: {error}")
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            problems.append(f"{path.name}:{number}: not a JSON object, left out")
    return rows, problems


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Holds the cycle collector back while many objects are made that all stay: it would walk them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_environment(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    way_out = "remove it to read the records without their environment"
    try:
        environment = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise StoreError(f"{path}: not JSON ({error}); {way_out}") from None
    if not isinstance(environment, dict):
        raise StoreError(f"{path}: not a JSON object but {type(environment).__name__}; {way_out}")
    return environment


class Writer:
    """Appends records to one run directory; holds its lock until `close`."""

    def __init__(
        self,
        path: Path,
        lock: int,
        records: IO[bytes],
        taken: tuple[Record, ...],
        sentinels: Iterable[dict[str, Any]] = (),
    ) -> None:
        """taken, sentinels: what the run holds already; `sentinels` grows as they are appended."""
        self.path = path
        self.taken = taken
        self.sentinels: list[dict[str, Any]] = list(sentinels)
        self._lock = lock
        self._records = records

    @classmethod
    def create(cls, path: Path, environment: dict[str, Any], suite_text: str) -> Writer:
        """A new run directory. Raises StoreError when `path` exists and is not empty."""
        lock = None
        try:
            refuse_occupied(path)
            path.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(path)
            refuse_occupied(path)  # again, now that nobody else can write
            write_file(path / SUITE, suite_text)
            write_file(path / ENVIRONMENT, json.dumps(environment, indent=2, sort_keys=True) + "\n")
            records = (path / RECORDS).open("ab", buffering=0)
            with contextlib.suppress(OSError):  # not every file system can
                os.fsync(lock)  # the folder itself: its new names are lost with the power otherwise
            return cls(path, lock, records, ())
        except (OSError, StoreError) as error:
            if lock is not None:
                os.close(lock)
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot write the run directory {path}: {error.strerror}") from None

    @classmethod
    def resume(cls, path: Path, environment: dict[str, Any]) -> Writer:
        """The run at `path`, to be continued; a last line cut short is dropped. Keeps earlier environments.

        Raises StoreError when another process writes into it, or when its lines cannot all be read.
        """
        _require_run(path)
        lock = lock_folder(path)
        try:
            run = read(path)  # with the lock, so that nobody else can append
            of_records = [problem for problem in run.problems if problem.startswith(RECORDS)]
            unreadable = [problem for problem in of_records if not problem.endswith(CUT_SHORT)]
            if unreadable:
                raise StoreError(f"{path}: {unreadable[0]}; a run with unreadable records cannot be continued")
            merged = {**run.environment, "resumed": [*run.environment.get("resumed", []), environment]}
            records = (path / RECORDS).open("r+b", buffering=0)
            records.truncate(complete_length(records))
            if (path / SENTINELS).is_file():
                with (path / SENTINELS).open("r+b", buffering=0) as sentinels:
                    sentinels.truncate(complete_length(sentinels))
            write_file(path / ENVIRONMENT, json.dumps(merged, indent=2, sort_keys=True) + "\n")
        except (OSError, StoreError) as error:
            os.close(lock)
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot continue the run directory {path}: {error.strerror}") from None
        return cls(path, lock, records, run.records, run.sentinels)

    def append(self, record: Record) -> None:
        """Appends and fsyncs. Raises StoreError on a full disk; what was appended before stays whole."""
        self._append(self._records, record.to_json(), "a record")

    def append_sentinel(self, row: dict[str, Any]) -> None:
        """As `append`, to the sentinels."""
        try:
            with (self.path / SENTINELS).open("ab", buffering=0) as sentinels:
                self._append(sentinels, json.dumps(row, separators=(",", ":")), "a sentinel")
        except OSError as error:
            raise StoreError(f"{self.path}: cannot write a sentinel ({error.strerror})") from None
        self.sentinels.append(row)

    def _append(self, file: IO[bytes], text: str, what: str) -> None:
        # Some file systems count no links: a name that is still there decides.
        if os.fstat(file.fileno()).st_nlink == 0 and not os.path.exists(file.name):
            raise StoreError(f"{self.path}: {what} has no place any more: somebody removed the file meanwhile")
        try:
            append_line(file, text)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot write {what} ({error.strerror}); every earlier record is safe. "
                f"Make room, then continue with --resume {self.path}"
            ) from None

    def close(self) -> None:
        self._records.close()
        os.close(self._lock)


def append_line(file: IO[bytes], text: str) -> None:
    """Appends a line to an unbuffered file and fsyncs. Raises OSError; what was appended before stays whole."""
    line = text.encode() + b"\n"
    start = file.seek(0, os.SEEK_END)
    try:
        written = 0
        while written < len(line):
            written += file.write(line[written:])
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):  # a line left cut short is dropped by --resume
            file.truncate(start)
        raise


def write_file(path: Path, text: str) -> None:
    """Writes a whole file or nothing: a temporary beside it, fsynced, then renamed."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def refuse_occupied(path: Path) -> None:
    """Raises StoreError where something is in the way of a new run directory."""
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
    except OSError as error:
        raise StoreError(f"cannot look into {path}: {error.strerror}; choose another --out") from None
    what = "is not empty" if path.is_dir() else "is not a folder"
    way_on = f", or continue it with --resume {path}" if is_run(path) else ""
    raise StoreError(f"{path} exists and {what}; choose another --out{way_on}")


def lock_folder(path: Path) -> int:
    """A file descriptor of the directory that holds its exclusive lock; closing it gives the lock back."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        raise StoreError(
            f"{path}: another attnbench is writing into it; wait for it, or choose another --out"
        ) from None
    return directory


def complete_length(records: IO[bytes]) -> int:
    """Bytes up to and including the last line break."""
    records.seek(0)
    return records.read().rfind(b"\n") + 1
