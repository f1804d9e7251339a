"""Run directories: nothing taken is ever lost, nobody writes into another's run, damage is named by its line."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
from fakes.report_runs import failed, ok, unsupported

import attnbench
from attnbench.records.store import ENVIRONMENT, RECORDS, SUITE, StoreError, Unreadable, Writer, read, write_file
from attnbench.report.page import write_report

FIRST, SECOND, THIRD = ok("naive", 1e-3), unsupported("flex", "needs CUDA"), failed("triton", "crash", "signal 11")


@pytest.fixture
def run_directory(tmp_path):
    return tmp_path / "results" / "one"


@pytest.fixture
def written(run_directory):
    """A finished run of two records."""
    writer = Writer.create(run_directory, {"host": "a"}, "name: made\n")
    writer.append(FIRST)
    writer.append(SECOND)
    writer.close()
    return run_directory


def in_another_process(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def test_what_was_written_is_read(written):
    run = read(written)
    assert run.records == (FIRST, SECOND)
    assert (run.name, run.environment, run.suite_text, run.problems) == ("one", {"host": "a"}, "name: made\n", ())
    assert sorted(path.name for path in written.iterdir()) == sorted([ENVIRONMENT, RECORDS, SUITE])


def test_each_record_is_on_disk_as_soon_as_it_is_appended(run_directory, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr("os.fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_size), real(descriptor)))
    writer = Writer.create(run_directory, {}, "")
    synced.clear()
    for count, record in enumerate((FIRST, SECOND, THIRD), start=1):
        writer.append(record)
        assert len(read(run_directory).records) == count
        assert synced == [(run_directory / RECORDS).stat().st_size]
        synced.clear()
    writer.close()


def test_a_last_line_cut_short_is_left_out_and_dropped_by_resume(written):
    whole = (written / RECORDS).read_bytes()
    (written / RECORDS).write_bytes(whole + THIRD.to_json().encode()[:-20])
    run = read(written)
    assert run.records == (FIRST, SECOND)
    assert run.problems == (f"{RECORDS}:3: truncated line, left out",)

    writer = Writer.resume(written, {"host": "b"})
    assert writer.taken == (FIRST, SECOND)
    assert (written / RECORDS).read_bytes() == whole
    writer.append(THIRD)
    writer.close()
    run = read(written)
    assert run.records == (FIRST, SECOND, THIRD) and run.problems == ()
    assert run.environment == {"host": "a", "resumed": [{"host": "b"}]}


def test_a_complete_record_without_its_line_break_counts_as_cut_short(written):
    with (written / RECORDS).open("ab") as records:
        records.write(THIRD.to_json().encode())
    assert read(written).records == (FIRST, SECOND)


@pytest.mark.parametrize("damage", [b'{"schema": 1}', b"\xff\xfe", b"", b'{"schema": 7, "case": {}}'])
def test_a_damaged_line_is_named_the_rest_is_used_and_resume_refuses(written, damage):
    first, second = (written / RECORDS).read_bytes().splitlines()
    (written / RECORDS).write_bytes(b"\n".join((first, damage, second)) + b"\n")
    run = read(written)
    assert run.records == (FIRST, SECOND)
    assert len(run.problems) == 1 and run.problems[0].startswith(f"{RECORDS}:2: ")
    before = (written / RECORDS).read_bytes()
    with pytest.raises(StoreError, match=f"{RECORDS}:2: .*cannot be continued"):
        Writer.resume(written, {})
    assert (written / RECORDS).read_bytes() == before


def test_a_run_of_another_schema_is_refused_with_the_way_out(written):
    rows = [{**json.loads(line), "schema": 2} for line in (written / RECORDS).read_text().splitlines()]
    (written / RECORDS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    message = "schema 2; this version reads schema 1; read it with the version of attnbench that wrote it"
    with pytest.raises(StoreError, match=message):
        read(written)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no such run directory"),
        (lambda path: path.mkdir(parents=True), "not a run directory"),
        (lambda path: (path.parent.mkdir(parents=True), path.write_text("a file")), "no such run directory"),
    ],
)
def test_what_is_no_run_says_so(run_directory, prepare, message):
    prepare(run_directory)
    for action in (read, lambda path: Writer.resume(path, {})):
        with pytest.raises(StoreError, match=message):
            action(run_directory)


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_a_damaged_environment_is_named(written, text):
    (written / ENVIRONMENT).write_bytes(text.encode(errors="surrogateescape"))
    run = read(written)
    assert run.records == (FIRST, SECOND) and run.environment == {}
    (problem,) = run.problems
    assert problem.startswith(f"{ENVIRONMENT}:1: not ") and problem.endswith(", left out")
    before = (written / ENVIRONMENT).read_bytes()
    with pytest.raises(Unreadable, match=f"{ENVIRONMENT}:1: .*a run with unreadable parts cannot be continued"):
        Writer.resume(written, {})
    assert (written / ENVIRONMENT).read_bytes() == before


def test_a_directory_that_holds_anything_is_refused(run_directory):
    run_directory.mkdir(parents=True)
    Writer.create(run_directory, {}, "").close()  # empty is fine
    with pytest.raises(StoreError, match="exists and is not empty; choose another --out, or continue it with --resume"):
        Writer.create(run_directory, {}, "")


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="exists and is not a folder"):
        Writer.create(tmp_path / "file", {}, "")
    with pytest.raises(StoreError, match="cannot write the run directory .*: Not a directory"):
        Writer.create(tmp_path / "file" / "run", {}, "")
    assert (tmp_path / "file").read_text() == "mine"


OPEN = """
    import sys
    from pathlib import Path
    from attnbench.records.store import StoreError, Writer
    try:
        Writer.{how}
    except StoreError as error:
        print(error)
"""


@pytest.mark.parametrize("how", ["resume(Path(sys.argv[1]), {})", "create(Path(sys.argv[1]), {}, '')"])
def test_a_second_process_is_refused_while_the_first_writes(run_directory, how):
    writer = Writer.create(run_directory, {}, "")
    writer.append(FIRST)
    before = (run_directory / RECORDS).read_bytes()
    second = in_another_process(OPEN.replace("{how}", how), run_directory)
    assert second.returncode == 0, second.stderr
    assert "another attnbench is writing" in second.stdout or "not empty" in second.stdout
    assert (run_directory / RECORDS).read_bytes() == before
    writer.close()
    writer = Writer.resume(run_directory, {})  # the lock went with the first
    writer.close()


def test_two_that_create_the_same_directory_at_once_do_not_share_it(run_directory):
    """The second found the directory empty before the first had written; its own second look is under the lock."""
    run_directory.mkdir(parents=True)
    writer = Writer.create(run_directory, {"host": "first"}, "")
    code = """
        import sys
        from pathlib import Path
        import attnbench.records.store as store
        looks = []
        real = store.refuse_occupied
        store.refuse_occupied = lambda path: looks.append(path) or (real(path) if len(looks) > 1 else None)
        try:
            store.Writer.create(Path(sys.argv[1]), {"host": "second"}, "")
        except store.StoreError as error:
            print(error)
    """
    assert "another attnbench is writing" in in_another_process(code, run_directory).stdout
    writer.close()
    assert "not empty" in in_another_process(code, run_directory).stdout
    assert read(run_directory).environment == {"host": "first"}


def test_the_lock_ends_with_a_killed_process(run_directory):
    code = """
        import os, signal, sys
        from pathlib import Path
        from attnbench.records.stored_record import stored_record
        from attnbench.records.store import Writer
        writer = Writer.create(Path(sys.argv[1]), {}, "")
        writer.append(stored_record(sys.argv[2]))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = in_another_process(code, run_directory, FIRST.to_json())
    assert killed.returncode == -signal.SIGKILL
    writer = Writer.resume(run_directory, {})
    assert writer.taken == (FIRST,)
    writer.close()


class FullDisk:
    """Takes `room` bytes and then says what a full disk says."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        if self._room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._file.write(data[: self._room])
        self._room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_leaves_earlier_records_whole_and_says_so(run_directory, room):
    writer = Writer.create(run_directory, {}, "")
    writer.append(FIRST)
    writer._records = FullDisk(writer._records, room)
    message = "cannot write a record .No space left on device.; every earlier record is safe. Make room, then continue"
    with pytest.raises(StoreError, match=message):
        writer.append(SECOND)
    writer.close()
    assert (run_directory / RECORDS).read_bytes() == FIRST.to_json().encode() + b"\n"
    writer = Writer.resume(run_directory, {})
    writer.append(SECOND)
    writer.close()
    assert read(run_directory).records == (FIRST, SECOND)


def test_a_device_that_cannot_even_be_cut_back_gives_the_same_message(run_directory):
    writer = Writer.create(run_directory, {}, "")
    writer.append(FIRST)
    writer._records.close()
    writer._records = io.FileIO("/dev/full", "wb")
    with pytest.raises(StoreError, match="No space left on device"):
        writer.append(SECOND)
    writer.close()
    assert read(run_directory).records == (FIRST,)


def test_a_write_that_the_system_cuts_short_is_taken_back(run_directory):
    """A real limit on the file's size: the system writes half a line, then refuses the rest."""
    code = """
        import resource, sys
        from pathlib import Path
        from attnbench.records.stored_record import stored_record
        from attnbench.records.store import StoreError, Writer
        writer = Writer.create(Path(sys.argv[1]), {}, "")
        record = stored_record(sys.argv[2])
        size = len(record.to_json()) + 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + size // 2, resource.RLIM_INFINITY))
        try:
            for _ in range(5):
                writer.append(record)
        except StoreError as error:
            print(error)
    """
    stopped = in_another_process(code, run_directory, FIRST.to_json())
    assert "cannot write a record (File too large); every earlier record is safe" in stopped.stdout, stopped.stderr
    run = read(run_directory)
    assert run.records == (FIRST, FIRST) and run.problems == ()


def test_a_directory_that_is_removed_meanwhile_is_told_and_takes_no_records(run_directory):
    writer = Writer.create(run_directory, {}, "")
    writer.append(FIRST)
    shutil.rmtree(run_directory)
    with pytest.raises(StoreError, match="a record has no place any more: somebody removed the file"):
        writer.append(SECOND)
    with pytest.raises(StoreError, match="cannot write a sentinel .No such file or directory"):
        writer.append_sentinel({"role": "end"})
    writer.close()


@pytest.mark.parametrize("change", [
    lambda text: text.replace('"status":"ok"', '"status":"error"', 1), lambda text: text + text, lambda text: "",
])  # fmt: skip
def test_records_that_somebody_else_wrote_are_noticed(written, change):
    writer = Writer.resume(written, {})
    writer.append(SECOND)
    assert not writer.altered()
    records = written / "records.jsonl"
    text = records.read_text()
    assert change(text) != text
    records.write_text(change(text))
    assert writer.altered()
    writer.append(FIRST)
    assert writer.altered()
    writer.close()


def test_a_whole_file_or_nothing(tmp_path, monkeypatch):
    write_file(tmp_path / "facts", "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "facts", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["facts"]
    assert (tmp_path / "facts").read_text() == "old"


def test_a_directory_that_could_not_be_begun_can_be_tried_again(run_directory, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(StoreError, match="cannot write the run directory .*: No space left"):
            Writer.create(run_directory, {}, "")
    Writer.create(run_directory, {}, "").close()
    assert read(run_directory).records == ()


def rewritten(run_directory, change):
    """Every stored line as `change` makes it."""
    path = run_directory / RECORDS
    path.write_text("".join(f"{json.dumps(change(json.loads(line)))}\n" for line in path.read_text().splitlines()))
    return read(run_directory)


def test_what_a_later_version_wrote_is_read_and_told_once_a_run(written):
    run = rewritten(written, lambda row: row | {"device": "other", "rack": 1})
    assert run.records == (FIRST, SECOND) and run.problems == ()
    assert run.later.endswith("what this one does not know is left out: device, rack")
    with pytest.warns(UserWarning, match="written by a later version of attnbench") as told:
        attnbench.load(written)
    assert len(told) == 1


def test_cases_of_a_later_version_are_in_no_table_and_the_report_says_so(written, tmp_path):
    def windowed(row):
        return row | {"case": row["case"] | {"window_left": 7}, "case_key": row["case_key"] + "-left=7"}

    run = rewritten(written, windowed)
    assert {record.case_key for record in run.records} == {FIRST.case_key + "-left=7"}
    write_report([written], tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert (
        "2 records of cases with unknown fields are in no table" in text
        and "what this one does not know is left out" in text
    )
    frame = attnbench.load(written)
    assert frame["flops"].isna().all() and frame["tflops"].isna().all() and frame["median_s"].notna().sum() == 1
