"""Everything in a run directory is checked at the door: what is wrong is told with its line, the rest is read."""

import dataclasses
import json

import pytest
from fakes.report_runs import accuracy, failed, ok, write_run

from attnbench.case import LaterCase
from attnbench.records.measurement import LARGEST_COUNT, LONGEST_S, RecordError
from attnbench.records.record import Check
from attnbench.records.store import Unreadable, Writer, read
from attnbench.records.stored_facts import environment_facts, json_object, sentinel_row
from attnbench.records.stored_record import stored_record
from attnbench.records.stored_suite import SuiteTextError, suite_facts

GOOD = ok("naive", 1e-3)
EMULATED = {"delivery": "random", "seed": 1, "checks": "full"}
COUNTED = {
    "global_read_bytes": 1, "global_write_bytes": 1, "reread": 1.0, "tensor_flops": 1, "useful_flops": 1,
    "exponentials": 1, "barrier_waits": 1,
}  # fmt: skip


def line(change, record=GOOD):
    row = json.loads(record.to_json())
    change(row)
    return json.dumps(row)


def at(place, value):
    """A change of a row: `at("measurement.blocks.0.process", "x")`."""

    def change(row):
        *outer, last = place.split(".")
        for part in outer:
            row = row[int(part) if part.isdigit() else part]
        row[int(last) if last.isdigit() else last] = value

    return change


HUGE = 10**400


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("backend", 5, "backend: should be a valid string, not 5"),
        ("backend", ["x"], "backend: should be a valid string, not a list"),
        ("backend", "", "without a backend's name"),
        ("backend_version", 7, "backend_version: should be a valid string, not 7"),
        ("reason", True, "reason: should be a valid string, not true"),
        ("warnings", [1], "warnings.0: should be a valid string, not 1"),
        ("warnings", "text", "warnings: should be a valid"),
        ("kernel", [1], "kernel: should be a valid dictionary, not a list|kernel: should be an object, not a list"),
        ("kernel", {"deep": [[[[]]]]}, None),
        ("kernel", {"emulated": None}, "kernel.emulated: should be an object, not null"),
        ("kernel", {"counted": {**COUNTED, "useful_flops": 0}}, "kernel.counted.useful_flops: .*not 0"),
        ("kernel", {"loads": {}}, "it lacks"),
        ("kernel", {"registers": HUGE}, "kernel.registers: a number beyond"),
        ("case.batch", 2.0, "not a case: batch must be a whole number, not 2.0"),
        ("case.seed", HUGE, "not a case: seed"),
        ("case.softmax_scale", HUGE, "not a case: softmax_scale"),
        ("case_key", 1, "case_key: should be a valid string, not 1"),
        ("measurement.blocks", [], "a measurement without samples"),
        ("measurement.blocks.0.samples_s", ["1"], "samples_s.0: should be a valid number"),
        ("measurement.blocks.0.samples_s", [True], "samples_s.0: should be a valid number"),
        ("measurement.blocks.0.samples_s", [float("nan")], "positive, finite"),
        ("measurement.blocks.0.samples_s", [2 * LONGEST_S], "positive, finite"),
        ("measurement.blocks.0.sample_count", HUGE, "sample_count: should be"),
        ("measurement.blocks.0.process", 2 * LARGEST_COUNT, "process: should be less than"),
        ("measurement.blocks.0.duration_s", float("inf"), "duration_s: should be"),
        ("measurement.blocks.0.conditions", {"power_w": "x"}, "power_w: should be a valid number"),
        ("measurement.prep_s", -1.0, "prep_s: should be greater than or equal to 0"),
        ("measurement.outliers", [[0]], "outliers.0"),
        ("measurement.converged", 1, "converged: should be a valid boolean, not 1"),
        ("measurement.discarded", {"x": -1}, "discarded.x: should be"),
        ("accuracy.checks.0.value", "x", "value: should be a valid number"),
        ("accuracy.checks.0.passed", "yes", "passed: should be a valid boolean"),
        ("accuracy.values", {"bias": None}, "values.bias: should be a valid number, not null"),
        ("accuracy.rows", -1, "rows: should be greater than or equal to 0"),
    ],
)
def test_a_line_with_a_wrong_value_is_no_record(place, value, message):
    text = line(at(place, value))
    if message is None:
        assert stored_record(text).kernel == value
        return
    with pytest.raises(RecordError, match=message) as caught:
        stored_record(text)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["", "[" * 100_000, "\udcff", "1e999", "null", "[{}]", '{"schema": 1}', "{}{}"])
def test_what_is_no_object_of_ours_is_no_record(text):
    with pytest.raises(RecordError):
        stored_record(text)


def test_texts_are_printable_as_soon_as_a_record_exists():
    record = failed("naive\n::x", "exception", "cannot open \udce9\x00\x1b[31m.so\nsecond line")
    assert record.backend == "naive\\n::x" and record.reason == "cannot open \\xe9\\x00.so\nsecond line"
    assert Check("a\nb", 0.0, 1.0, True, "x\x07").rule == "a\\nb"
    row = json.loads(failed("naive", "exception", "x").to_json()) | {"reason": "half \ud83d", "backend": "a\nb"}
    read_back = stored_record(json.dumps(row))
    assert (read_back.reason, read_back.backend) == ("half \\ud83d", "a\\nb")
    assert stored_record(read_back.to_json()) == read_back


def test_numbers_that_json_lacks_come_back():
    checks = (Check("max error", float("nan"), 1.0, False), Check("RMS", float("inf"), 1.0, False))
    record = dataclasses.replace(
        GOOD, status="incorrect", reason="wrong", measurement=None, accuracy=dataclasses.replace(
            accuracy(), checks=(*accuracy().checks, *checks), values={"bias": float("-inf")}, recheck=""))  # fmt: skip
    found = stored_record(record.to_json())
    for mine, stored in zip(record.accuracy.checks, found.accuracy.checks, strict=True):
        assert repr(float(mine.value)) == repr(stored.value) and mine.passed == stored.passed
    assert found.accuracy.values == {"bias": float("-inf")}


def test_a_later_version_s_case_has_a_key_of_its_grammar(tmp_path):
    def later(row):
        row["case"]["window_left"] = 3
        row["case_key"] += "-left=3"

    assert isinstance(stored_record(line(later)).case, LaterCase)
    with pytest.raises(RecordError, match="is not the key of its case"):
        stored_record(line(lambda row: (later(row), row.update(case_key=row["case_key"] + "\n<b>"))))


def test_a_wrong_fact_is_left_out_with_its_line():
    text = json.dumps(
        {"cpu": {"model": 5, "cores": 2}, "plugins": ["a", 7], "zzz": {"any": [1]}, "big": HUGE}, indent=2
    )
    facts, problems = environment_facts(text.encode())
    assert facts == {"cpu": {"cores": 2}, "plugins": ["a"], "zzz": {"any": [1]}}
    assert problems == [
        "15: big: a number beyond 2**63, left out",
        "3: cpu.model: should be a valid string, not 5, left out",
        "6: plugins.1: should be a valid string, not 7, left out",
    ]


@pytest.mark.parametrize("device", ['cpu"; print("PWNED")', "tpu", "cuda:x", "cuda:0\n"])
def test_a_device_is_one(device):
    facts, (problem,) = environment_facts(json.dumps({"device": device}).encode())
    assert facts == {} and problem.startswith("1: device: ")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b"7", b'{"a": 1', b'"x"', b""])
def test_a_file_that_is_no_object_holds_no_facts(text):
    facts, (problem,) = environment_facts(text)
    assert facts == {} and problem.startswith("1: not ") and problem.endswith(", left out") and len(problem) < 120
    with pytest.raises(RecordError):
        sentinel_row(text)
    with pytest.raises(ValueError, match="not "):
        json_object(text, {})


@pytest.mark.parametrize("row", [{"clock_step_s": "x"}, {"gemm_flops_per_s": HUGE}, {"role": 1}, {"gemm_dtype": []}])
def test_a_sentinel_has_its_types(row):
    with pytest.raises(RecordError, match=next(iter(row))):
        sentinel_row(json.dumps(row).encode())
    assert sentinel_row(b'{"role": "start", "later": {"x": 1}}') == {"role": "start", "later": {"x": 1}}


def test_a_suite_s_name_and_floors_are_read_without_making_anything_of_the_rest():
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
    names = {
        "about2: 2026-13-45\nname: quick\n": "quick", bomb + "name: 5\n": "5", "- name\n- x": None, "": None,
        "groups: {name: inner}\n": None, 'name: "a\\nb"': "a\\nb", "name: [a, b]": None,
    }  # fmt: skip
    assert {text: suite_facts(text)[0] for text in names} == names
    text = "groups:\n- {at_least: [inner], axes: {x: [1]}}\nat_least: [a >= 1 x b, 'c >= 2 x d', [deep], {k: v}]\n"
    assert suite_facts(text + "name: [at_least]\n") == (None, ("a >= 1 x b", "c >= 2 x d"))
    assert suite_facts("at_least: a >= 1 x b")[1] == ()
    for text in ("a: [", "\x00", "[" * 100_000, "a: b: c"):
        with pytest.raises(SuiteTextError, match=r"^\d+: not YAML: "):
            suite_facts(text)


def test_a_run_with_anything_wrong_is_read_and_not_continued(tmp_path):
    run = write_run(tmp_path / "run", [GOOD, failed("triton", "crash", "signal 11")])
    (run / "suite.yaml").write_bytes(b"\xff")
    found = read(run)
    assert len(found.records) == 2 and found.problems == ("suite.yaml:1: not UTF-8 (byte 0), left out",)
    with pytest.raises(Unreadable, match="suite.yaml:1: not UTF-8"):
        Writer.resume(run, {})
    assert Unreadable.status == 3
