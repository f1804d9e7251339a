"""Nobody has to trust a run directory: whatever stands in one, no verb ends in a traceback or with another's status."""

import ast
import json
import re
import traceback
import warnings

import pytest
from click.testing import CliRunner
from fakes.mutated_runs import mutate
from paths import ROOT

import attnbench
from attnbench.cli.verbs import main
from attnbench.records.store import StoreError, is_run, read

SOURCE = ROOT / "results" / "2026-11-30-quick-cpu"
# So many in `make test`, and in `make test-full`, in portions of so many.
SHORT, FULL, PORTION = 24, 2_000, 100
SAMPLES = 40
# What a gate prints where it ends with 1: a count, or the mean.
# A block of code, in which nothing is markup.
FENCED = re.compile(r"^(`{3,})[a-z]*\n.*?^\1$", re.MULTILINE | re.DOTALL)
REGRESSED = re.compile(r"\b[1-9][\d,]* (?:slower|wrong|grew)|geometric mean: .*slower|hazard|incorrect")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A real run, short: a record of each kind and backend, few samples of each."""
    run = tmp_path_factory.mktemp("mutated") / "source"
    run.mkdir()
    for name in ("environment.json", "sentinels.jsonl", "suite.yaml"):
        (run / name).write_bytes((SOURCE / name).read_bytes())
    kept = {}
    for line in (SOURCE / "records.jsonl").read_text().splitlines():
        row = json.loads(line)
        kept.setdefault((row["status"], row["backend"].partition("[")[0], row["case"]["dtype"] == "e4m3"), row)
    for row in kept.values():
        for block in (row["measurement"] or {"blocks": ()})["blocks"]:
            block["samples_s"] = block["samples_s"][:SAMPLES]
        if row["measurement"]:
            kept_samples = [len(block["samples_s"]) for block in row["measurement"]["blocks"]]
            row["measurement"]["outliers"] = [
                [block, sample] for block, sample in row["measurement"]["outliers"] if sample < kept_samples[block]
            ]
    (run / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept.values()))
    assert len(kept) >= 8 and not read(run).problems and len(read(run).records) == len(kept)
    for number in (1, 2, 3):
        stored_run(run, run.parent / "base" / str(number), 1 + number / 1e4)
    return run


def stored_run(source, run, factor):
    """The same run measured again: every sample so many times as long. Equal ones would be copies."""
    run.mkdir(parents=True)
    for name in ("environment.json", "sentinels.jsonl", "suite.yaml"):
        (run / name).write_bytes((source / name).read_bytes())
    rows = [json.loads(line) for line in (source / "records.jsonl").read_text().splitlines()]
    for row in rows:
        for block in (row["measurement"] or {"blocks": ()})["blocks"]:
            block["samples_s"] = [factor * sample for sample in block["samples_s"]]
    (run / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def call(*arguments):
    """(exit status, stdout, stderr); anything but an exit is told with its traceback."""
    result = CliRunner().invoke(main, list(map(str, arguments)), env={"GITHUB_STEP_SUMMARY": ""})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        lines = "".join(traceback.format_exception(result.exception))
        raise AssertionError(f"{' '.join(map(str, arguments))} ended in a traceback:\n{lines}")
    return result.exit_code, result.stdout, result.stderr


def expected(run):
    """(status of a reader that finds nothing wrong with what is said, the records)."""
    if not is_run(run):
        return 2, ()
    try:
        found = read(run)
    except StoreError as error:
        return error.status, ()
    return (3 if found.problems else 0), found.records


def safe_to_print(*texts):
    for text in texts:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e]", text), repr(text)[:300]
        commands = [line for line in text.splitlines() if re.match(r"\s*::|.*##\[", line)]
        assert all(re.match(r"::(error|warning) title=[^:]*::", line) for line in commands), commands


def look_at(source, folder, seed):
    """All readers of one mutated run."""
    run = folder / f"run-{seed}"
    what = mutate(source, run, seed)
    status, records = expected(run)

    report = folder / f"{seed}.md"
    found, printed, told = call("report", run, "-o", report)
    assert found == status, (what, found, status, told)
    safe_to_print(printed, told)
    assert status == 0 or told.startswith("attnbench: "), (what, told)
    if found in (0, 3) and report.exists():
        text = report.read_text()
        assert "<script" not in FENCED.sub("", text), what
        safe_to_print(re.sub(r"^ *::", "", text, flags=re.MULTILINE).replace("##[", ""))

    base = source.parent / "base"
    for arguments in (("gate", base, run, "--github"), ("compare", base, run)):
        found, printed, told = call(*arguments)
        safe_to_print(printed, told)
        if status == 2:
            assert found == 2, (what, told)
        elif arguments[0] == "compare":
            assert found in (0, 3) and (found == 3 or status == 0), (what, found, status, printed, told)
        else:
            assert found in (0, 1, 3) and (found != 0 or status == 0), (what, found, status, printed, told)
            assert found != 1 or REGRESSED.search(printed), (what, printed)

    for record in records[:2]:
        found, script, told = call("repro", run, record.case_key, record.backend)
        assert found in ((status,) if script else (2, 3)), (what, found, told)
        if script:
            ast.parse(script)
    if status != 2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert len(attnbench.load(run)) == len(records)
            except StoreError:
                assert not records


def test_no_run_directory_breaks_a_reader(source, tmp_path):
    for seed in range(SHORT):
        look_at(source, tmp_path, seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(0, FULL, PORTION))
def test_no_run_directory_of_many_breaks_a_reader(source, tmp_path, first):
    for seed in range(first, first + PORTION):
        look_at(source, tmp_path, seed)


def test_what_is_mutated_is_the_same_everywhere(source, tmp_path):
    one, other = (mutate(source, tmp_path / name, 5) for name in ("one", "other"))
    assert one == other
    for name in ("records.jsonl", "environment.json"):
        pair = [tmp_path / folder / name for folder in ("one", "other")]
        assert [path.exists() for path in pair] in ([True] * 2, [False] * 2)
        assert not pair[0].is_file() or pair[0].read_bytes() == pair[1].read_bytes()
