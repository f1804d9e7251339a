"""Run directories: `environment.json`, `suite.yaml` (resolved), `records.jsonl`, one record a line, and
`sentinels.jsonl`, what the machine itself could do at the start, now and then, and at the end.

A record is appended and fsynced as soon as it exists, so neither Ctrl-C, `kill -9` nor a full disk loses one that was
taken. One writer at a time holds a lock on the directory; the lock ends with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from attnbench.errors import UserError
from attnbench.printable import one_line, printable
from attnbench.records.measurement import RecordError
from attnbench.records.record import OtherSchema, Record
from attnbench.redaction import redacted_facts

RECORDS = "records.jsonl"
ENVIRONMENT = "environment.json"
SUITE = "suite.yaml"
SENTINELS = "sentinels.jsonl"
CUT_SHORT = "truncated line, left out"


class StoreError(UserError):
    """A run directory that cannot be used as asked; the message names it and the way out."""


class Unreadable(StoreError):
    """A run directory whose contents cannot be read, which is no mistake of the command's: exit status 3."""

    status = 3


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory as read. problems: what its files should not hold, named by line; the rest is used.

    unknown: keys of records that a later version wrote and this one leaves out, sorted.
    sentinels: rows as `sentinel` reads them, in the order of writing; () in runs of before there were any.
    suite_name: what the stored suite calls itself; None where it does not say. at_least: the floors that it sets.
    """

    path: Path
    name: str
    environment: dict[str, Any]
    suite_text: str
    records: tuple[Record, ...]
    problems: tuple[str, ...] = ()
    sentinels: tuple[dict[str, Any], ...] = ()
    unknown: tuple[str, ...] = ()
    suite_name: str | None = None
    at_least: tuple[str, ...] = ()

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
    """The run at `path`. Raises StoreError where there is no run, Unreadable where it is one of another schema."""
    path = Path(path)
    _require_run(path)
    try:
        records, problems, unknown = _read_records(path / RECORDS)
        environment, unread = _read_environment(path / ENVIRONMENT)
        sentinels, lines = _read_sentinels(path / SENTINELS)
        suite_text, (suite_name, at_least), wrong = _read_suite(path / SUITE)
    except OSError as error:
        raise StoreError(f"cannot read the run directory {path}: {error}") from None
    return Run(
        path=path,
        name=one_line(path.resolve().name),
        environment=environment,
        suite_text=suite_text,
        records=tuple(records),
        problems=tuple(map(one_line, (*problems, *unread, *lines, *wrong))),
        sentinels=tuple(sentinels),
        unknown=tuple(sorted(unknown)),
        suite_name=suite_name,
        at_least=at_least,
    )


def _require_run(path: Path) -> None:
    if not path.is_dir():
        raise StoreError(f"{path}: no such run directory")
    if not is_run(path):
        raise StoreError(f"{path}: not a run directory (it has no {RECORDS})")


def _read_records(path: Path) -> tuple[list[Record], list[str], set[str]]:
    """The records, the lines that are none, and the names of keys that were left out."""
    from attnbench.records.stored_record import stored_record  # pydantic, which is slow to import

    records: list[Record] = []
    problems: list[str] = []
    unknown: set[str] = set()
    others = 0
    with path.open("rb") as lines, without_collection():
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                problems.append(f"{path.name}:{number}: {CUT_SHORT}")
                continue
            try:
                records.append(stored_record(line, unknown))
            except RecordError as error:
                problems.append(f"{path.name}:{number}: {error}")
                others += isinstance(error, OtherSchema)
    if problems and others == len(problems) and not records:
        raise Unreadable(f"{path.parent}: {problems[0]}; read it with the version of attnbench that wrote it")
    return records, problems, unknown


def _read_environment(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The facts, and what is wrong with the file: a wrong fact is left out."""
    if not path.is_file():
        return {}, []
    from attnbench.records.stored_facts import environment_facts

    facts, problems = environment_facts(path.read_bytes())
    return facts, [f"{path.name}:{problem}" for problem in problems]


def _read_sentinels(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows, and the lines that are none."""
    if not path.is_file():
        return [], []
    from attnbench.records.stored_facts import sentinel_row

    rows, problems = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows.append(sentinel_row(line))
        except RecordError as error:
            problems.append(f"{path.name}:{number}: {error}, left out")
    return rows, problems


def _read_suite(path: Path) -> tuple[str, tuple[str | None, tuple[str, ...]], list[str]]:
    """The stored suite's text, its `suite_facts`, and what is wrong with it: then its text is left out."""
    nothing = None, ()
    if not path.is_file():
        return "", nothing, []
    from attnbench.records.stored_suite import SuiteTextError, suite_facts

    try:
        text = path.read_bytes().decode()
        return printable(text), suite_facts(text), []
    except UnicodeDecodeError as error:
        return "", nothing, [f"{path.name}:1: not UTF-8 (byte {error.start}), left out"]
    except SuiteTextError as error:
        return "", nothing, [f"{path.name}:{error}, left out"]


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
        self._written = hashlib.blake2b((path / RECORDS).read_bytes())

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
            write_file(path / ENVIRONMENT, environment_text(environment))
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

        Raises StoreError when another process writes into it or a file of it is a link, Unreadable when not all of it
        can be read.
        """
        _require_run(path)
        lock = lock_folder(path)
        try:
            run = read(path)  # with the lock, so that nobody else can append
            refuse_unreadable(run)
            merged = {**run.environment, "resumed": [*(run.environment.get("resumed") or ()), environment]}
            records = open_own(path / RECORDS, "r+b")
            records.truncate(complete_length(records))
            if (path / SENTINELS).is_file():
                with open_own(path / SENTINELS, "r+b") as sentinels:
                    sentinels.truncate(complete_length(sentinels))
            write_file(path / ENVIRONMENT, environment_text(merged))
        except (OSError, StoreError) as error:
            os.close(lock)
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot continue the run directory {path}: {error.strerror}") from None
        return cls(path, lock, records, run.records, run.sentinels)

    def append(self, record: Record) -> None:
        """Appends and fsyncs. Raises StoreError on a full disk; what was appended before stays whole."""
        line = record.to_json()
        self._append(self._records, line, "a record")
        self._written.update(f"{line}\n".encode())

    def altered(self) -> bool:
        """Whether the records' file holds anything else than what was appended here."""
        try:
            with open_own(self.path / RECORDS, "rb") as file:
                return hashlib.blake2b(file.read()).digest() != self._written.digest()
        except OSError:
            return True

    def append_sentinel(self, row: dict[str, Any]) -> None:
        """As `append`, to the sentinels."""
        try:
            with open_own(self.path / SENTINELS, "ab") as sentinels:
                self._append(sentinels, json.dumps(redacted_facts(row), separators=(",", ":")), "a sentinel")
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

    def tell(self, **facts: Any) -> None:
        """Adds facts to the environment. Raises StoreError where they cannot be written."""
        path = self.path / ENVIRONMENT
        try:
            with open_own(path, "rb") as file:
                known = json.loads(file.read() or b"{}")
            write_file(path, environment_text({**known, **facts}))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be written ({error})") from None

    def close(self) -> None:
        self._records.close()
        os.close(self._lock)


def refuse_unreadable(run: Run) -> None:
    """Raises Unreadable for a run that cannot be continued, since what it holds is not all known."""
    ours = (f"{name}:" for name in (RECORDS, ENVIRONMENT, SUITE))
    unreadable = [problem for name in ours for problem in run.problems if problem.startswith(name)]
    unreadable = [problem for problem in unreadable if not problem.endswith(CUT_SHORT)]
    if unreadable:
        what = "records" if unreadable[0].startswith(RECORDS) else "parts"
        raise Unreadable(f"{run.path}: {unreadable[0]}; a run with unreadable {what} cannot be continued")


def environment_text(facts: Mapping[str, Any]) -> str:
    """What is stored as environment.json: without secrets, such as passwords in addresses."""
    return json.dumps(redacted_facts(facts), indent=2, sort_keys=True) + "\n"


def open_own(path: Path, mode: str) -> IO[bytes]:
    """A file of a run directory, to be written into; unbuffered. Raises StoreError where a link stands for it."""

    def without_links(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    try:
        return open(path, mode, buffering=0, opener=without_links)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StoreError(f"{path} is a link, which nothing is written through; put the file in its place") from None


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
    """Writes a whole file or nothing: a temporary beside it, fsynced, then renamed. Follows no link: one in the file's
    place is replaced, and none can be planted under the temporary's name, which nobody knows beforehand."""
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
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
