"""Faults of public bug reports, planted into right attention: `quick` catches them and says what is wrong."""

import re

import pytest
from posing import FAULTS, caught, cause_of, fault_module, fault_names, is_right, pose

from attnbench.suite.load import load_suite

NAMES = fault_names()
# How many there are, how many of them `quick` has to catch, and of how many it has to name the cause.
AT_LEAST, CAUGHT, NAMED = 45, 42, 40
# Each shows in one case of `quick`, of another kind than the others'.
SHORT = {
    "decode_padding_lanes": "decode", "head_tile_spans_groups": "shapes", "empty_rows_never_written": "shapes",
    "lse_rows_first": "shapes", "one_descale_for_all": "e4m3",
}  # fmt: skip
# Words that tell of places only, where the mistake is one that has a name.
PLACES = re.compile(r"head mapping, or one head's data|all rows are wrong; scale")


def jobs(*groups):
    return [job for job in load_suite("quick").jobs() if not groups or job.group in groups]


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_has_an_address_a_sentence_and_the_causes_that_count_as_right(name):
    text = (FAULTS / f"{name}.py").read_text()
    assert re.search(r"^https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+$", text, re.MULTILINE)
    assert len(fault_module(name).__doc__.strip().splitlines()[0]) > 30
    assert fault_module(name).CAUSES


def test_every_report_is_another():
    addresses = [re.search(r"https://\S+", (FAULTS / f"{name}.py").read_text())[0] for name in NAMES]
    assert len(set(addresses)) == len(addresses) >= AT_LEAST


@pytest.mark.parametrize("name", SHORT)
def test_some_are_caught_in_one_group_of_quick_and_named(name):
    found = caught(pose([name], jobs(SHORT[name]))[name])
    assert found
    assert any(is_right(name, cause_of(record)) for record in found), [cause_of(record) for record in found]


@pytest.mark.full
def test_quick_catches_the_faults_and_names_their_causes(record_property):
    records = {name: caught(found) for name, found in pose(NAMES, jobs()).items()}
    missed = [name for name, found in records.items() if not found]
    unnamed = [name for name, found in records.items() if not any(is_right(name, cause_of(r)) for r in found)]
    unnamed = [name for name in unnamed if name not in missed]
    record_property("summary", f"{len(NAMES)} faults: missed {missed}, caught without the cause {unnamed}")
    assert len(NAMES) - len(missed) >= CAUGHT, missed
    assert len(NAMES) - len(missed) - len(unnamed) >= NAMED, unnamed
