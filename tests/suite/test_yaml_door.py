"""YAML as nobody should write it: constructors that fail, aliases that multiply, merges; each is one line."""

import tracemalloc

import pytest

from attnbench.suite.load import parse_suite
from attnbench.suite.source import MAX_ALIASED, SuiteError, parse_source

CASE = "groups: [{name: a, axes: {batch: 1, seqlen: 64, num_heads: 4, head_dim: 64}}]\n"

# What stands behind `about:` in line 2, and what is said of it.
FAILING = {
    "2026-13-45": '"2026-13-45" cannot be read as timestamp (month must be in 1..12); text stands in quotes, '
                  "without a tag",
    "2026-11-29 25:00:00": '"2026-11-29 25:00:00" cannot be read as timestamp (hour must be in 0..23)',
    "2026-11-29": '"about" must be text, not "2026-11-29"',
    "9" * 5000: f'"{"9" * 60}" cannot be read as int (Exceeds the limit',
    "!!int x": '"x" cannot be read as int (invalid literal for int() with base 10: \'x\')',
    "!!int ''": '"" cannot be read as int (it is none)',
    "!!float x": '"x" cannot be read as float (could not convert string to float',
    "!!bool maybe": '"maybe" cannot be read as bool (it is none)',
    "!!timestamp x": '"x" cannot be read as timestamp (it is none)',
    "!!binary x": "not valid YAML: failed to decode base64 data",
    "!!seq x": '"x" cannot be read as seq (it is none)',
    "!!map x": '"x" cannot be read as map (it is none)',
    "!!set x": '"x" cannot be read as set (it is none)',
    "!mine x": "not valid YAML: could not determine a constructor for the tag '!mine'",
    "=": "not valid YAML: could not determine a constructor",
    "*nobody": "not valid YAML: found undefined alias",
}  # fmt: skip


@pytest.mark.parametrize("value, message", FAILING.items(), ids=lambda text: text[:20])
def test_a_value_that_cannot_be_made_is_one_line(value, message):
    with pytest.raises(SuiteError) as caught:
        parse_suite(f"{CASE}about: {value}\n", "x.yaml")
    assert str(caught.value).startswith(f"x.yaml:2: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["2026-13-45", "!!int x", "? [a]\n", "? {a: b}\n", "2026-11-29", "12", "true", "null"])
def test_a_key_that_is_no_text_is_one_line(key):
    with pytest.raises(SuiteError, match=r"^x\.yaml:2: (a key must be text|\"[^\"]*\" cannot be read as)"):
        parse_suite(f"{CASE}{key}: x\n", "x.yaml")


def bomb(levels, link):
    """Ten times as many values at each level."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]" if link == "*" else "l0: &l0 {a: 1}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*l{level - 1}"] * 10)
        body = f"[{aliases}]" if link == "*" else f"{{<<: [{aliases}], k{level}: 1}}"
        lines.append(f"l{level}: &l{level} {body}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("link", ["*", "<<"])
@pytest.mark.parametrize("levels", [7, 30])
def test_aliases_that_multiply_are_refused_before_they_do(link, levels):
    tracemalloc.start()
    try:
        with pytest.raises(SuiteError) as caught:
            parse_suite(bomb(levels, link) + CASE, "x.yaml")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("x.yaml:1: aliases (*name) repeat ")
    assert str(caught.value).endswith(f" values; the most is {MAX_ALIASED:,}")
    assert peak_bytes < 5e6


def test_what_an_alias_names_is_shared():
    source = parse_source("a: &a [1, 2]\nb: [*a, *a]\n", "x.yaml")
    assert source.value == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    assert source.value["b"][0] is source.value["b"][1] is source.value["a"]


def test_aliases_in_reason_are_no_mistake():
    text = "a: &a [1, 2, 3]\n" + "".join(f"b{number}: *a\n" for number in range(1000))
    assert len(parse_source(text, "x.yaml").value) == 1001


def test_merged_keys_come_first_and_give_way_to_own_and_to_earlier_ones():
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {d: 5, <<: [*x, *y], a: 6}\n"
    merged = parse_source(text, "x.yaml").value["z"]
    assert list(merged.items()) == [("b", 2), ("c", 4), ("a", 6), ("d", 5)]


@pytest.mark.parametrize("merged", ["3", "[x]", "text", "[[a]]"])
def test_what_is_merged_must_be_mappings(merged):
    with pytest.raises(SuiteError, match=r'^x\.yaml:2: "<<" merges a mapping, or a list of mappings$'):
        parse_suite(f"{CASE}defaults: {{<<: {merged}}}\n", "x.yaml")


def test_lines_are_found_through_merges_and_lists():
    source = parse_source("base: &b\n  seed: 1\ngroups:\n  - {<<: *b}\n  -\n    name: a\n", "x.yaml")
    assert [source.line(place) for place in ((), ("groups",), ("groups", 0, "seed"), ("groups", 1, "name"))] == [
        1, 3, 2, 6,
    ]  # fmt: skip
    assert source.line(("groups", 1, "axes", "dtype")) == 6 - 1 + 1, "the nearest thing around it"


@pytest.mark.parametrize("opened", ["[", "{a: ", "- "])
def test_depth_has_an_end(opened):
    with pytest.raises(SuiteError):
        parse_suite(opened * 100_000, "x.yaml")


def test_a_message_does_not_repeat_a_whole_file():
    with pytest.raises(SuiteError) as caught:
        parse_suite(f"{CASE}defaults: {{dtype: {'x' * 100_000}}}\n", "x.yaml")
    assert len(str(caught.value)) < 1000


TOO_LONG = ["timeout_s: 1e10", "timeout_s: 1e300", "max_time_s: 1e12", "warmup_s: 1e10", "settle_s: 1e19"]


@pytest.mark.parametrize("setting", TOO_LONG)
def test_a_time_that_no_system_call_holds_is_refused(setting):
    name, _, value = setting.partition(": ")
    with pytest.raises(SuiteError) as caught:
        parse_suite(f"{CASE}timing: {{{setting}}}\n", "x.yaml")
    assert str(caught.value).startswith(f'x.yaml:2: "{name}" must be at most 31622400, not {float(value)}'[:60])
