"""What attnbench writes beside run directories replaces nothing of anybody's, and follows no planted link."""

import json
import os

import pytest
from fakes.report_runs import failed, ok, write_run

from attnbench.records.output import empty_plots, mark, refuse_output, write_output
from attnbench.records.store import ENVIRONMENT, RECORDS, SENTINELS, SUITE, StoreError, Writer, read, write_file
from attnbench.report.page import MARK, write_report

PLOT = "<svg><dc:title>attnbench</dc:title></svg>"


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", [ok("naive", 1e-3), failed("triton", "crash", "signal 11")])


@pytest.fixture
def victim(tmp_path):
    """A folder of somebody's with a file and a plot, and what is in it."""
    (tmp_path / "victim").mkdir()
    for name in ("rc", "mine.svg"):
        (tmp_path / "victim" / name).write_text("precious")
    return tmp_path / "victim"


def whole(victim):
    return {path.name: path.read_text() for path in victim.iterdir()} == {"rc": "precious", "mine.svg": "precious"}


def test_a_file_of_ours_is_replaced_and_another_only_where_that_is_asked(tmp_path):
    path = tmp_path / "gate.xml"
    write_output(path, f"<?xml?>\n{mark('gate')}\n<a/>\n", False, "--junit", mark("gate"))
    write_output(path, f"{mark('gate')}\n<b/>\n", False, "--junit", mark("gate"))
    assert path.read_text().endswith("<b/>\n")
    with pytest.raises(
        StoreError, match="gate.xml was not written by attnbench report; choose another -o, or use --ov"
    ):
        refuse_output(path, False, "-o", MARK)
    path.write_text("mine\n\n" + mark("gate"))  # not at its beginning
    with pytest.raises(StoreError, match="not written by attnbench gate"):
        write_output(path, "x", False, "--junit", mark("gate"))
    write_output(path, "x", True, "--junit", mark("gate"))
    assert path.read_text() == "x"


@pytest.mark.parametrize("name", [RECORDS, ENVIRONMENT, SUITE, SENTINELS])
def test_a_run_s_own_files_are_never_replaced(run, name):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="own record of what happened; choose another -o"):
            write_report([run], run / name, overwrite)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("name", ["", "."])
def test_a_name_is_needed(run, name):
    with pytest.raises(StoreError, match="name a file"):
        write_report([run], name)


def test_planted_links_are_not_followed(run, victim):
    """Links under the names that a report into the run uses, and under those it used to use."""
    (run / ".report.md.part").symlink_to(victim / "rc")
    write_report([run], run / "report.md")
    (run / "report_plots").mkdir(exist_ok=True)
    (run / "report_plots" / "mine.svg").symlink_to(victim / "mine.svg")
    with pytest.raises(StoreError, match=r"holds mine\.svg, which is no plot of attnbench's"):
        write_report([run], run / "report.md")
    assert whole(victim)
    write_report([run], run / "report.md", overwrite=True)  # takes the link away, not what it points to
    assert whole(victim) and not (run / "report_plots" / "mine.svg").is_symlink()
    for plot in (run / "report_plots").iterdir():
        plot.unlink()
    (run / "report_plots").rmdir()
    (run / "report_plots").symlink_to(victim)
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="report_plots is a link inside the run directory"):
            write_report([run], run / "report.md", overwrite)
    (run / "below").symlink_to(victim)
    with pytest.raises(StoreError, match="below is a link inside the run directory"):
        write_output(run / "below" / "new", "x", True, "-o")
    assert whole(victim)


def test_an_output_that_is_a_link_is_replaced_itself(tmp_path, victim):
    (tmp_path / "out.md").symlink_to(victim / "rc")
    with pytest.raises(StoreError, match="not written by"):
        write_output(tmp_path / "out.md", "x", False, "-o")
    write_output(tmp_path / "out.md", "x", True, "-o")
    assert whole(victim) and (tmp_path / "out.md").read_text() == "x" and not (tmp_path / "out.md").is_symlink()


def test_a_folder_of_plots_holds_plots_only(tmp_path):
    folder = tmp_path / "plots"
    empty_plots(folder, False, "-o")  # not there yet
    folder.mkdir()
    (folder / "old.svg").write_text(PLOT)
    empty_plots(folder, False, "-o")
    assert list(folder.iterdir()) == []
    (folder / "old.svg").write_text(PLOT)
    (folder / "mine.svg").write_text("<svg/>")
    with pytest.raises(StoreError, match=r"mine\.svg, which is no plot"):
        empty_plots(folder, False, "-o")
    assert sorted(path.name for path in folder.iterdir()) == ["mine.svg", "old.svg"]  # nothing was taken away before
    (folder / "inner").mkdir()
    with pytest.raises(StoreError, match="holds a folder, inner"):
        empty_plots(folder, True, "-o")
    (folder / "inner").rmdir()
    empty_plots(folder, True, "-o")
    assert list(folder.iterdir()) == []


def test_a_run_is_not_continued_through_links(run, victim):
    (run / RECORDS).rename(run.parent / "elsewhere.jsonl")
    (run / RECORDS).symlink_to(run.parent / "elsewhere.jsonl")
    before = (run.parent / "elsewhere.jsonl").read_bytes()
    with pytest.raises(StoreError, match=r"records\.jsonl is a link, which nothing is written through"):
        Writer.resume(run, {})
    assert (run.parent / "elsewhere.jsonl").read_bytes() == before
    (run / RECORDS).unlink()
    (run.parent / "elsewhere.jsonl").rename(run / RECORDS)
    (run / f".{ENVIRONMENT}.part").symlink_to(victim / "rc")
    (run / SENTINELS).symlink_to(victim / "new")
    writer = Writer.resume(run, {})
    with pytest.raises(StoreError, match=r"sentinels\.jsonl is a link"):
        writer.append_sentinel({"role": "start"})
    writer.close()
    assert whole(victim)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_file(tmp_path / "a", "caf\udce9")
    assert (tmp_path / "a").read_text() == "caf\\udce9"
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "caf\\udce9"


def test_no_secret_is_stored(tmp_path):
    secret = "s3cr3t"
    reason = f"cannot reach https://me:{secret}@host/x: TOKEN={secret}"
    writer = Writer.create(tmp_path / "run", {"plugins": [f"git+https://{secret}@host/k.py:f"]}, "name: x\n")
    writer.append(failed("naive", "exception", reason))
    writer.append_sentinel({"role": "start", "error": reason})
    writer.close()
    Writer.resume(tmp_path / "run", {"collected_utc": "now", "password": f"password={secret}"}).close()
    for path in (tmp_path / "run").iterdir():
        assert secret not in path.read_text(), path
    run = read(tmp_path / "run")
    assert run.problems == () and run.records[0].reason.count("<redacted ") == 2
    assert json.dumps(run.environment).count("<redacted ") == 2
