"""The eight stops of a case, as ARCHITECTURE.md names them, walked by a real run and its report."""

import re

from paths import ROOT

# Every Python process of the run imports this: when each of the named functions is called.
WATCH = """
import os, sys, time
root, names = os.environ["STOPS_ROOT"], set(os.environ["STOPS"].split())
def watch(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_name in names and code.co_filename.startswith(root):
        with open(os.environ["STOPS_FILE"], "a") as file:
            file.write(f"{time.monotonic_ns()} {code.co_filename} {code.co_name}\\n")
sys.setprofile(watch)
"""


def stops():
    """(stop, file, function) of each row, in the order of the table."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text.partition("## The eight stops of a case")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| `([\w/.]+)` \| (.+?) \|", table, re.MULTILINE)
    return [(stop, path, re.findall(r"`(?:\w+\.)?(\w+)`", functions)[0]) for stop, path, functions in rows]


def test_a_case_makes_the_stops_in_their_order(command, tmp_path):
    (tmp_path / "watching").mkdir()
    (tmp_path / "watching" / "sitecustomize.py").write_text(WATCH)
    called = tmp_path / "called"
    environment = {
        "PYTHONPATH": f"{ROOT}:{tmp_path / 'watching'}",
        "STOPS": " ".join(function for _, _, function in stops()),
        "STOPS_ROOT": str(ROOT / "attnbench"),
        "STOPS_FILE": str(called),
    }
    suite = command.suite("batch: 1, num_heads: 1, head_dim: 8, seqlen: 8, dtype: fp16", rest="backends: [naive]\n")
    ran = command("run", suite, "--device", "cpu", "--out", tmp_path / "run", env=environment)
    assert ran.returncode == 0, ran.stderr
    written = command("report", tmp_path / "run", "-o", tmp_path / "report.md", env=environment)
    assert written.returncode == 0, written.stderr

    calls = sorted((int(at), path, name) for at, path, name in map(str.split, called.read_text().splitlines()))
    calls = iter(calls)
    for stop, path, function in stops():
        # A later call than the stop before it: sentinels are timed ahead of the case.
        assert any((name, where) == (function, str(ROOT / path)) for _, where, name in calls), f"{stop}: not reached"


def test_a_stop_is_a_package():
    assert [stop for stop, _, _ in stops()] == [
        "suite", "run", "worker", "reference", "correctness", "timing", "records", "report",
    ]  # fmt: skip
    assert [path.split("/")[1] for _, path, _ in stops()] == [stop for stop, _, _ in stops()]
