"""Records: what is untrue cannot be written, what was written comes back the same."""

import dataclasses
import json
import math

import pytest

from attnbench.case import ALWAYS_STORED, DEFAULTS, FIELDS, Case, LaterCase
from attnbench.records.measurement import KEPT_SAMPLES, Block, Conditions, Measurement, PrepTiming, RecordError
from attnbench.records.record import KINDS, SCHEMA, Accuracy, Check, Record
from attnbench.records.result import Result
from attnbench.records.stored_record import stored_record

CASE = Case.make(batch=2, seqlen=128, num_heads=4, head_dim=64)
PASSED = Check("relative RMSE", 0.001, 0.002, True)
FAILED = Check("max error", 0.3, 0.1, False, "batch 0, head 1, row 2")
RIGHT = Accuracy("full", 1024, (PASSED,), {"bias": -1e-7}, "last timed buffers; fresh inputs")
WRONG = Accuracy("full", 1024, (PASSED, FAILED))
BLOCK = Block((1e-3, 1.1e-3, 5e-3), 3, process=1, start_s=1.7e9)
TIMED = Measurement((BLOCK,), "cpu", "sustained", "cold", 1, True, outliers=((0, 2),), warmup_s=0.5)


def record(status, **fields):
    return Record(CASE, "naive", "1.0", status, **fields)


ONE_OF_EACH = (
    record("ok", accuracy=RIGHT, measurement=TIMED, warnings=("partly warm",), kernel={"registers": 168}),
    record("ok", accuracy=dataclasses.replace(RIGHT, recheck="")),
    record("incorrect", accuracy=WRONG, reason=str(FAILED)),
    record("unsupported", reason="no e4m3"),
    *(record("error", kind=kind, reason="it broke") for kind in KINDS),
    record("error", kind="oom", reason="while being timed", accuracy=RIGHT),
)


@pytest.mark.parametrize("written", ONE_OF_EACH, ids=lambda record: f"{record.status}-{record.kind}")
def test_a_record_comes_back_from_its_line(written):
    line = written.to_json()
    assert "\n" not in line
    assert stored_record(line) == written


def test_a_timed_preparation_comes_back_and_older_lines_have_none():
    prepared = dataclasses.replace(TIMED, prep_call=PrepTiming("the quantize kernel", (1e-5, 2e-5), 4, "cold"))
    written = record("ok", accuracy=RIGHT, measurement=prepared)
    assert stored_record(written.to_json()) == written
    row = json.loads(written.to_json())
    del row["measurement"]["prep_call"]
    assert stored_record(json.dumps(row)).measurement.prep_call is None


@pytest.mark.parametrize("samples_s", [(), (0.0,), (math.nan, 1.0), (-1.0,)])
def test_a_preparation_that_took_no_time_was_not_timed(samples_s):
    with pytest.raises(RecordError, match="missing is never zero"):
        PrepTiming("x", samples_s, 1, "cold")


def test_a_line_has_the_contracted_keys():
    keys = "schema case case_key backend backend_version status kind reason warnings accuracy measurement kernel"
    row = json.loads(ONE_OF_EACH[0].to_json())
    assert list(row) == ["schema", "case", "case_key", *(key for key in keys.split()[3:])]
    assert row["schema"] == SCHEMA and row["case_key"] == CASE.key
    assert row["measurement"]["blocks"][0]["samples_s"] == list(BLOCK.samples_s)


def test_numbers_that_are_not_finite_survive_and_the_line_stays_json():
    checks = (
        Check("max error", math.nan, 0.1, False),
        Check("LSE error", math.inf, 1e-3, False),
        Check("below", -math.inf, 0.0, True),
    )
    values = {"bias": math.nan, "e1": math.inf, "e2": -math.inf}
    written = record("incorrect", reason="NaN", accuracy=Accuracy("full", 8, checks, values))

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    json.loads(written.to_json(), parse_constant=refuse)
    read = stored_record(written.to_json())
    assert math.isnan(read.accuracy.checks[0].value) and math.isnan(read.accuracy.values["bias"])
    assert [check.value for check in read.accuracy.checks[1:]] == [math.inf, -math.inf]
    assert (read.accuracy.values["e1"], read.accuracy.values["e2"]) == (math.inf, -math.inf)


def test_samples_keep_every_bit():
    samples = (1 / 3, 1e-9 * math.pi, 1e-12)
    written = record("ok", accuracy=RIGHT, measurement=dataclasses.replace(TIMED, blocks=(Block(samples, 3),)))
    assert stored_record(written.to_json()).measurement.samples_s == samples


@pytest.mark.parametrize(
    ("status", "fields", "message"),
    [
        ("fine", {}, "unknown status 'fine'"),
        ("ok", {}, "must carry the accuracy"),
        ("ok", {"accuracy": WRONG}, "status ok with a failed check"),
        ("ok", {"accuracy": RIGHT, "kind": "crash"}, "kind goes with status error"),
        ("ok", {"accuracy": dataclasses.replace(RIGHT, recheck=""), "measurement": TIMED}, "not verified again"),
        ("incorrect", {"accuracy": WRONG}, "must say why"),
        ("incorrect", {"reason": "wrong"}, "must carry the accuracy"),
        ("incorrect", {"reason": "wrong", "accuracy": RIGHT}, "status incorrect with no failed check"),
        ("incorrect", {"reason": "wrong", "accuracy": WRONG, "measurement": TIMED}, "only a checked result is timed"),
        ("unsupported", {}, "must say why"),
        ("unsupported", {"reason": "no", "accuracy": RIGHT}, "nothing to judge"),
        ("unsupported", {"reason": "no", "measurement": TIMED}, "only a checked result is timed"),
        ("unsupported", {"reason": "no", "kind": "oom"}, "kind goes with status error"),
        ("error", {"reason": "it broke"}, "kind goes with status error"),
        ("error", {"kind": "crash"}, "must say why"),
        ("error", {"kind": "tired", "reason": "it broke"}, "unknown kind 'tired'"),
        ("error", {"kind": "crash", "reason": "no", "measurement": TIMED}, "only a checked result is timed"),
        ("error", {"kind": "crash", "reason": "no", "accuracy": WRONG}, "status error with a failed check"),
    ],
)
def test_untrue_records_cannot_be_made(status, fields, message):
    with pytest.raises(RecordError, match=message):
        record(status, **fields)


@pytest.mark.parametrize(
    ("value", "limit", "passed"), [(0.2, 0.1, True), (0.1, 0.2, False), (math.nan, 1.0, True), (1.0, math.nan, True)]
)
def test_a_check_cannot_belie_its_own_numbers(value, limit, passed):
    with pytest.raises(RecordError, match="against a limit of"):
        Check("max error", value, limit, passed)


def test_an_accuracy_needs_a_check():
    with pytest.raises(RecordError, match="without a single check"):
        Accuracy("full", 8, ())


@pytest.mark.parametrize(
    ("samples", "taken", "message"),
    [
        ((), 0, "without samples"),
        ((0.0,), 1, "positive, finite"),
        ((-1e-3,), 1, "positive, finite"),
        ((1e-3, math.nan), 2, "positive, finite"),
        ((math.inf,), 1, "positive, finite"),
        ((1e-3, 1e-3), 1, "keeps 2 samples of 1"),
        ((1e-3,) * (KEPT_SAMPLES + 1), 1000, f"may keep {KEPT_SAMPLES}"),
    ],
)
def test_untrue_blocks_cannot_be_made(samples, taken, message):
    with pytest.raises(RecordError, match=message):
        Block(samples, taken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": ()}, "without samples"),
        ({"converged": False}, "either converged or says"),
        ({"unmet": ("3 of 30 samples",)}, "either converged or says"),
        ({"calls_per_sample": 0}, "no calls"),
        ({"input_sets": 0}, "no inputs"),
        ({"outliers": ((0, 3),)}, "no sample of this measurement"),
        ({"outliers": ((1, 0),)}, "no sample of this measurement"),
    ],
)
def test_untrue_measurements_cannot_be_made(change, message):
    with pytest.raises(RecordError, match=message):
        dataclasses.replace(TIMED, **change)


def edited(**change):
    return json.dumps({**json.loads(ONE_OF_EACH[0].to_json()), **change})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not JSON"),
        ('{"schema": 1', "not JSON"),
        ("[]", "a line: should be an object, not a list"),
        ("{}", "schema missing; this version reads schema 1"),
        (edited(schema=2), "schema 2; this version reads schema 1"),
        (edited(case={}), "not a case: .*required"),
        (edited(case=[1]), "case: should be an object, not a list"),
        (edited(case_key="bf16-d64"), 'case_key "bf16-d64" is not the key of its case'),
        (edited(accuracy="fine"), 'accuracy: should be an object, not "fine"'),
        (edited(accuracy={"checks": [], "values": {}, "coverage": "full", "rows": 1, "recheck": ""}), "single check"),
        (edited(measurement={"blocks": 3}), "measurement.blocks: should be a valid array, not 3"),
        (edited(status="incorrect", reason="it was edited"), "only a checked result is timed"),
    ],
)
def test_what_is_no_record_is_named(line, message):
    with pytest.raises(RecordError, match=message):
        stored_record(line)


@pytest.mark.parametrize(("reason", "cause"), [
    (f"{FAILED}; likely cause: mask: one key too few\nbatch 0 head 0 ..9", "mask: one key too few"),
    (str(FAILED), ""), (f"{FAILED}\n; likely cause: in the output", ""),
])  # fmt: skip
def test_the_likely_cause_is_read_from_the_reason(reason, cause):
    assert record("incorrect", accuracy=WRONG, reason=reason).likely_cause == cause


def later(line, **changes):
    """A stored line as a later version may write it: further keys at every level."""
    row = json.loads(line)
    row |= {"device": "nvidia-h200", "rack": 7}
    row["measurement"] |= {"phases": {"local": 1.0}}
    row["measurement"]["blocks"][0] |= {"rank": 3}
    row["measurement"]["blocks"][0]["conditions"] = {"telemetry_samples": 2, "fan_rpm": 900}
    row["accuracy"] |= {"oracle": "fp64"}
    row["accuracy"]["checks"][0] |= {"tensor": "dq"}
    return json.dumps(row | changes)


LATER_KEYS = {
    "device", "rack", "measurement.phases", "measurement.blocks.rank", "measurement.blocks.conditions.fan_rpm",
    "accuracy.oracle", "accuracy.checks.tensor",
}  # fmt: skip


def test_keys_of_a_later_version_are_left_out_and_named():
    record, unknown = ONE_OF_EACH[0], set()
    read = stored_record(later(record.to_json()), unknown)
    assert unknown == LATER_KEYS
    assert read.case == record.case and read.accuracy == record.accuracy
    assert read.measurement.samples_s == record.measurement.samples_s
    assert read.measurement.blocks[0].conditions == Conditions(telemetry_samples=2)
    assert stored_record(later(record.to_json())) == read


def test_a_case_of_a_later_version_stays_apart_from_the_case_that_its_known_fields_make():
    record, unknown = ONE_OF_EACH[0], set()
    row = json.loads(record.to_json())
    row["case"]["window_left"] = 1023
    row["case_key"] += "-left=1023"
    read = stored_record(json.dumps(row), unknown)
    assert unknown == {"case.window_left"}
    assert isinstance(read.case, LaterCase) and read.case != record.case and record.case != read.case
    assert read.case_key == record.case_key + "-left=1023" and len({read.case, record.case}) == 2
    assert Result.of(read).flops_per_s is None and Result.of(read).time_s == Result.of(record).time_s


def test_a_later_field_at_no_key_of_its_own_changes_no_case():
    record, unknown = ONE_OF_EACH[0], set()
    row = json.loads(record.to_json())
    row["case"]["comment"] = None
    assert stored_record(json.dumps(row), unknown) == record and unknown == {"case.comment"}


@pytest.mark.parametrize("key", ["bf16-d64-h1-b1-q1-k1-full-normal.0", "{}x", ""])
def test_a_key_of_another_case_is_refused_whatever_fields_there_are(key):
    row = json.loads(ONE_OF_EACH[0].to_json())
    row["case"]["window_left"] = 1023
    row["case_key"] = key.format(row["case_key"])
    with pytest.raises(RecordError, match="is not the key of its case"):
        stored_record(json.dumps(row))


def test_every_field_of_version_0_1_is_stored_and_a_later_one_where_it_is_not_at_its_default():
    stored = ONE_OF_EACH[0].case.to_dict()
    assert set(stored) >= ALWAYS_STORED and len(ALWAYS_STORED) == 16
    assert all(name in DEFAULTS for name in set(FIELDS) - ALWAYS_STORED)
