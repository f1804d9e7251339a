"""Thousands of mutated suite files through the command line: what is no suite is one line and status 2, ever."""

import re

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from mutated import mutated, originals

from attnbench.cli import main
from attnbench.suite.load import load_suite, parse_suite
from attnbench.suite.schema import json_schema
from attnbench.suite.source import SuiteError, read_source

# A line that quotes a value cuts it.
LONGEST = 1500


def complaint(path, validator):
    """What is wrong with how a file is read or refused; "" where nothing is."""
    done = CliRunner().invoke(main, ["run", str(path), "--dry-run"])
    if done.exit_code == 2:
        lines = done.output.splitlines()
        one_line = len(lines) == 1 and lines[0].startswith("attnbench: ") and len(lines[0]) <= LONGEST
        return "" if one_line else f"status 2 with {len(lines)} lines: {done.output[:300]}"
    if done.exit_code != 0:
        return f"status {done.exit_code}: {done.output[-1500:]}"
    return wrongly_taken(path, validator, done.output)


def wrongly_taken(path, validator, printed):
    """Why a file that was taken should not have been, or was taken for something else; "" where neither is so."""
    suite = load_suite(path)
    keys = [key for _, key in suite.kept_keys()]
    count = int(re.search(r": (\d+) cases; ", printed)[1])
    shown = [line for line in printed.splitlines()[1:] if not line.startswith("excluded  ")]
    if not len(keys) == len(set(keys)) == count == len(shown):
        return f"{count} cases told, {len(shown)} shown, {len(keys)} there, {len(set(keys))} different ones"
    if [key for _, key in parse_suite(suite.to_yaml(), "stored.yaml").kept_keys()] != keys:
        return "the stored text is another suite"
    value = read_source(path).value
    if any(name != name.strip() for group in value["groups"] for name in group.get("axes", {})):
        return ""  # which the schema cannot say
    refused = next(validator.iter_errors(value), None)
    return "" if refused is None else f"taken, though the schema says: {refused.message[:200]}"


def complaints(seeds, folder):
    schema, texts = json_schema(), originals()
    validator = jsonschema.validators.validator_for(schema)(schema)
    path, found, taken = folder / "mutated.yaml", {}, 0
    for seed in seeds:
        path.write_bytes(mutated(seed, texts))
        wrong = complaint(path, validator)
        if wrong:
            found[seed] = wrong
        try:
            load_suite(path)
            taken += 1
        except SuiteError:
            pass
    return found, taken


def test_mutated_suites_in_short(tmp_path):
    found, taken = complaints(range(150), tmp_path)
    assert found == {}
    assert 15 < taken < 130, "mutations that break all files, or none, show little"


@pytest.mark.full
def test_mutated_suites(tmp_path):
    found, taken = complaints(range(1000, 6000), tmp_path)
    assert found == {}
    assert 500 < taken < 4500


def test_a_mutation_is_a_function_of_its_seed():
    texts = originals()
    assert [mutated(seed, texts) for seed in range(20)] == [mutated(seed, texts) for seed in range(20)]
    assert len({mutated(seed, texts) for seed in range(20)}) == 20
    assert yaml.safe_load(texts[0])["name"] == "made"
