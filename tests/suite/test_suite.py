"""Suites expand to exactly the cases that a person would count by hand, and survive being stored and overridden."""

from __future__ import annotations

import itertools
import subprocess
import sys

import jsonschema
import pytest
import yaml
from paths import ROOT

from attnbench.case import Case
from attnbench.suite.load import load_suite, parse_suite, shipped_suites, with_overrides
from attnbench.suite.schema import json_schema
from attnbench.suite.source import SuiteError
from attnbench.suite.suite import parse_only

FULL = """
name: full
about: every feature of the format — at once
backends: [naive, "hopper[ws]"]
defaults: {dtype: bf16, causal: false, inputs: normal, seqlen: 1k, num_heads: 8}
groups:
  - name: grid
    axes:
      dtype: [fp16, bf16, e4m3]
      head_dim: [64, 128, 256]
      causal: [false, true]
      seqlen: [512, 1k, 2k]
    derive: {batch: 16k / seqlen, num_heads: 2048 / head_dim, num_heads_kv: 1024 / head_dim}
    exclude:
      - {when: {dtype: e4m3, head_dim: [256, 64]}, reason: no kernel takes it}
      - {when: {num_heads: 16, seqlen: 2k, dtype: bf16}, reason: derived fields match too}
  - name: bound
    axes:
      "batch, seqlen_q": [[8, 1], [1, 64]]
      head_dim: 128
      dtype: e4m3
      scaling: [tensor, head]
      hadamard: [false, true]
      softmax_scale: [null, 1e-2]
    exclude:
      - {when: {scaling: tensor, hadamard: true}, reason: in another suite}
    time: false
    timing: {min_samples: 5}
    checks: {factors: {rmse: 3}, repeats: 0}
timing: {min_time_s: 0.1, regime: burst}
checks: {oracle: sampled}
"""


def grid_by_hand():
    for dtype, head_dim, causal, seqlen in itertools.product(
        ("fp16", "bf16", "e4m3"), (64, 128, 256), (False, True), (512, 1024, 2048)
    ):
        if (dtype == "e4m3" and head_dim != 128) or (dtype, head_dim, seqlen) == ("bf16", 128, 2048):
            continue
        yield Case.make(dtype=dtype, head_dim=head_dim, causal=causal, seqlen=seqlen, batch=16384 // seqlen,
                        num_heads=2048 // head_dim, num_heads_kv=1024 // head_dim)  # fmt: skip


def bound_by_hand():
    for (batch, seqlen_q), scaling, hadamard, scale in itertools.product(
        ((8, 1), (1, 64)), ("tensor", "head"), (False, True), (None, 0.01)
    ):
        if scaling == "tensor" and hadamard:
            continue
        yield Case.make(batch=batch, seqlen_q=seqlen_q, seqlen_k=1024, num_heads=8, head_dim=128, dtype="e4m3",
                        scaling=scaling, hadamard=hadamard, softmax_scale=scale)  # fmt: skip


@pytest.fixture
def full():
    return parse_suite(FULL, "full.yaml")


def test_expansion_is_the_product_in_the_order_written(full):
    by_group = {
        name: [job.case for job in jobs] for name, jobs in itertools.groupby(full.jobs(), lambda job: job.group)
    }
    assert by_group == {"grid": list(grid_by_hand()), "bound": list(bound_by_hand())}
    assert [len(cases) for cases in by_group.values()] == [54 - 12 - 2, 16 - 4]


def test_excluded_cases_keep_their_reason(full):
    reasons = list(full.excluded().values())
    counts = {reason: reasons.count(reason) for reason in reasons}
    assert counts == {"no kernel takes it": 12, "derived fields match too": 2, "in another suite": 4}
    assert not set(full.excluded()) & {job.case for job in full.jobs()}


def test_group_settings_override_the_suites(full):
    grid, bound = full.jobs()[0], full.jobs()[-1]
    assert (grid.time, grid.timing.min_samples, grid.timing.min_time_s, grid.timing.regime) == (True, 30, 0.1, "burst")
    assert (bound.time, bound.timing.min_samples, bound.timing.min_time_s, bound.timing.regime) == (
        False,
        5,
        0.1,
        "burst",
    )
    assert (grid.checks.oracle, grid.checks.repeats, grid.checks.factors.rmse) == ("sampled", 2, 1.5)
    assert (bound.checks.oracle, bound.checks.repeats, bound.checks.factors.rmse) == ("sampled", 0, 3)
    assert bound.checks.factors.max_error == 2


def test_what_a_suite_leaves_out():
    suite = parse_suite("groups: [{name: a, axes: {batch: 1, seqlen: 1, num_heads: 1, head_dim: 8}}]", "plain.yaml")
    assert (suite.name, suite.about, suite.backends, suite.only) == ("plain", "", None, ())
    assert suite.jobs()[0].case.key == "bf16-d8-h1-b1-q1-k1-full-normal.0"
    timing, checks = suite.timing.model_dump(), suite.checks.model_dump()
    assert timing == {"regime": "sustained", "cache": "cold", "timer": "auto", "processes": 1, "min_samples": 30,
                      "interleave": True, "min_time_s": 0.5, "max_time_s": 15, "timeout_s": 120, "warmup_s": 0.25,
                      "compile_timeout_s": 600, "settle_s": None}  # fmt: skip
    assert checks == {"oracle": "auto", "repeats": 2, "processes": 1, "probes": (), "sources": False,
                      "factors": {"max_error": 2, "rmse": 1.5, "worst_row": 4, "fp8": 1.3}}  # fmt: skip


def overridden(suite):
    return with_overrides(suite, only=[parse_only("dtype=e4m3"), parse_only("causal=false")], time=False,
                          backends=["triton"], timing={"processes": 3, "timeout_s": 9.5})  # fmt: skip


@pytest.mark.parametrize("change", [lambda suite: suite, overridden], ids=["as written", "overridden"])
def test_a_stored_suite_loads_to_the_same_jobs_and_bytes(full, change):
    suite = change(full)
    stored = suite.to_yaml()
    again = parse_suite(stored, "stored.yaml")
    assert again.jobs() == suite.jobs() and again.excluded() == suite.excluded()
    assert (again.name, again.about, again.backends, again.only) == (
        suite.name,
        suite.about,
        suite.backends,
        suite.only,
    )
    assert again.to_yaml() == stored
    assert "defaults" not in stored


def test_words_that_look_like_numbers_survive_storing():
    text = 'groups: [{name: "1e3", axes: {batch: 1, seqlen: 1, num_heads: 1, head_dim: 8}, derive: {seed: 7}}]'
    again = parse_suite(parse_suite(text, "007.yaml").to_yaml(), "stored.yaml")
    assert (again.name, again.jobs()[0].group, again.jobs()[0].case.seed) == ("007", "1e3", 7)


def keys(text, **overrides):
    return [job.case.key for job in with_overrides(parse_suite(text, "x.yaml"), **overrides).jobs()]


SIZES = "batch: 1, num_heads: 4, head_dim: 64"


@pytest.mark.parametrize(
    "defaults, axes, derive, lengths",
    [
        ("seqlen: 8", "", "", [(8, 8)]),
        ("seqlen: 8", "seqlen_q: [1, 2]", "", [(1, 8), (2, 8)]),
        ("seqlen_q: 8", "seqlen: [1, 2]", "", [(1, 1), (2, 2)]),
        ("seqlen: 8", "seqlen: [1, 2]", "", [(1, 1), (2, 2)]),
        ("seqlen: 8", "", "seqlen_q: 3 * seqlen_k", [(24, 8)]),
        ("seqlen_k: 8", "seqlen_q: [1, 8]", "", [(1, 8), (8, 8)]),
        ("", '"seqlen_q, seqlen_k": [[1, 2k], [2k, 1]]', "", [(1, 2048), (2048, 1)]),
        ("seqlen: 8", "", "seqlen: head_dim / 2", [(32, 32)]),
        ("", "seqlen: [1, 2]", "seed: seqlen_k - 1", [(1, 1), (2, 2)]),
        ("", "seqlen_q: [1m]", "seqlen_k: 0.5 * seqlen_q + 2 - 0.25 * 8 - (-4)", [(2**20, 2**19 + 4)]),
    ],
)
def test_lengths_from_defaults_axes_and_derive(defaults, axes, derive, lengths):
    axes = ", ".join(part for part in (SIZES, axes) if part)
    suite = parse_suite(
        f"defaults: {{{defaults}}}\ngroups: [{{name: a, axes: {{{axes}}}, derive: {{{derive}}}}}]", "x.yaml"
    )
    assert [(job.case.seqlen_q, job.case.seqlen_k) for job in suite.jobs()] == lengths
    assert parse_suite(suite.to_yaml(), "y.yaml").jobs() == suite.jobs()


def test_an_excluded_combination_need_not_be_a_case():
    text = f"""groups:
  - name: a
    axes: {{{SIZES}, dtype: [bf16, e4m3], hadamard: [false, true], seqlen: [64, 100]}}
    derive: {{seed: 128 / seqlen}}
    exclude:
      - {{when: {{dtype: bf16, hadamard: true}}, reason: 16-bit types are not rotated}}
      - {{when: {{seqlen: 100}}, reason: does not divide}}
"""
    suite = parse_suite(text, "x.yaml")
    assert [job.case.key for job in suite.jobs()] == [
        "bf16-d64-h4-b1-q64-k64-full-normal.2",
        "e4m3-d64-h4-b1-q64-k64-full-normal.2",
        "e4m3-d64-h4-b1-q64-k64-full-normal.2-hadamard=on",
    ]
    assert suite.excluded() == {}


def test_an_exclusion_sees_the_completed_case():
    text = f"""groups:
  - name: a
    axes: {{{SIZES}, seqlen_q: [8, 64], seqlen_k: 64, num_heads_kv: [null, 1]}}
    exclude:
      - {{when: {{num_heads_kv: 4, seqlen_q: 8}}, reason: multi-head}}
      - {{when: {{seqlen: 64, scaling: head, num_heads_kv: 1}}, reason: equal lengths}}
"""
    assert keys(text) == ["bf16-d64-h4.1-b1-q8-k64-full-normal.0", "bf16-d64-h4-b1-q64-k64-full-normal.0"]


@pytest.mark.parametrize(
    "only, count",
    [
        (["dtype=e4m3"], 6 + 12), (["dtype=fp16,bf16"], 34), (["dtype=fp16", "dtype=bf16"], 34),
        (["seqlen=1k"], 14), (["seqlen=512,2k"], 26), (["seqlen_k=1024"], 26), (["causal=TRUE"], 20),
        (["batch=8", "seqlen=2k"], 12),
        (["softmax_scale=0.01"], 6), (["hadamard=true"], 4), (["p_scale=256"], 52),
    ],
)  # fmt: skip
def test_only_filters_jobs_and_exclusions(full, only, count):
    match = [parse_only(text) for text in only]
    suite = with_overrides(full, only=match)
    assert len(suite.jobs()) == count
    wanted = {name: {value for other, values in match if other == name for value in values} for name, _ in match}
    for case in [*(job.case for job in suite.jobs()), *suite.excluded()]:
        for name, values in wanted.items():
            held = case.seqlen_q if name == "seqlen" else getattr(case, name)
            assert held in values and (name != "seqlen" or case.seqlen_k == held)


def test_the_command_line_beats_the_files_only():
    axes = f"{SIZES}, dtype: [bf16, fp16], seqlen: [1, 2, 3]"
    text = f"only: {{seqlen: [1, 2], dtype: bf16}}\ngroups: [{{name: a, axes: {{{axes}}}}}]"
    assert [key.split("-")[4] for key in keys(text)] == ["q1", "q2"]
    assert keys(text, only=[parse_only("seqlen=3")]) == ["bf16-d64-h4-b1-q3-k3-full-normal.0"]


def test_only_chooses_groups(full):
    suite = with_overrides(full, only=[parse_only("group=bound"), parse_only("batch=8")])
    assert {(job.group, job.case.batch) for job in suite.jobs()} == {("bound", 8)}
    assert parse_suite(suite.to_yaml(), "stored.yaml").jobs() == suite.jobs()
    both = with_overrides(full, only=[parse_only("group=bound,grid")])
    assert both.jobs() == full.jobs()


def test_overrides_hold_for_every_group(full):
    suite = overridden(full)
    assert {(job.time, job.timing.processes, job.timing.timeout_s) for job in suite.jobs()} == {(False, 3, 9.5)}
    assert {job.timing.min_samples for job in suite.jobs()} == {30, 5}
    assert suite.backends == ("triton",)
    assert {job.time for job in with_overrides(full, time=True).jobs()} == {True}
    assert with_overrides(full).jobs() == full.jobs()


def test_anchors_and_merge_keys():
    text = f"""defaults: &base {{dtype: fp16, {SIZES}}}
groups: [{{name: a, axes: {{<<: *base, dtype: bf16, seqlen: 4}}}}]
"""
    assert keys(text) == ["bf16-d64-h4-b1-q4-k4-full-normal.0"]


def test_names_resolve_to_files_first_then_to_shipped_suites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_suite("quick").name == "quick"
    (tmp_path / "quick").write_text(f"name: mine\ngroups: [{{name: a, axes: {{{SIZES}, seqlen: 1}}}}]")
    assert load_suite("quick").name == "mine"


def test_schema_describes_every_key_and_value():
    schema = json_schema()
    assert schema["title"] == "attnbench suite" and schema["required"] == ["groups"]
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        for name, entry in part["properties"].items():
            assert name in ("name", "groups", "timing", "checks", "emulation") or entry.get("description"), name
    axes = schema["$defs"]["Group"]["properties"]["axes"]
    assert {"enum": ["fp16", "bf16", "fp32", "e4m3", "e5m2"]} in axes["properties"]["dtype"]["anyOf"]
    assert "seqlen" in axes["properties"] and list(axes["patternProperties"]) == ["^[a-z_]+( *, *[a-z_]+)+$"]
    assert schema["$defs"]["Timing"]["properties"]["processes"]["default"] == 1


def test_reading_suites_imports_no_torch_and_listing_them_no_pydantic():
    code = (
        "import sys; from attnbench.suite.load import load_suite, shipped_suites;"
        "names = [row[0] for row in shipped_suites()];"
        "assert not {'torch', 'pydantic', 'numpy'} & set(sys.modules); load_suite('quick').to_yaml();"
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules); print(*names)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed == [name for name, _, _ in shipped_suites()]


def test_shipped_suites_have_a_purpose():
    listed = shipped_suites()
    assert {"quick", "h100-smoke", "h100", "fp8_error", "edges"} <= {name for name, _, _ in listed}
    for name, about, path in listed:
        assert path.stem == name and len(about) > 10


@pytest.mark.parametrize("path", [path for _, _, path in shipped_suites()], ids=lambda path: path.stem)
def test_shipped_suites_load_store_and_name_known_backends(path):
    from attnbench.backends import builtin

    suite = load_suite(path)
    suite.check_backends(builtin())
    again = parse_suite(suite.to_yaml(), "stored.yaml")
    assert again.jobs() == suite.jobs() and again.to_yaml() == suite.to_yaml()


def test_a_large_product_expands_exactly():
    text = f"""groups:
  - name: a
    axes:
      batch: 1
      num_heads: [1, 2, 4, 8, 16]
      head_dim: [64, 128]
      causal: [no, yes]
      seqlen_q: {list(range(1, 51))}
      seqlen_k: {list(range(1, 21))}
    derive: {{seed: seqlen_q * seqlen_k}}
"""
    jobs = parse_suite(text, "x.yaml").jobs()
    assert len(jobs) == 20_000 == len({job.case for job in jobs})
    assert all(job.case.seed == job.case.seqlen_q * job.case.seqlen_k for job in jobs)


def test_blanks_around_the_name_of_an_axis_mean_nothing():
    text = 'groups: [{name: a, axes: {" batch ": [1, 2], "seqlen ,  num_heads": [[1k, 2]], dtype: bf16, head_dim: 64}}]'
    assert [(job.case.batch, job.case.seqlen_q) for job in parse_suite(text, "x.yaml").jobs()] == [(1, 1024), (2, 1024)]


def test_a_leading_zero_makes_no_octal_number():
    text = "groups: [{name: a, axes: {batch: 010, num_heads: 1, head_dim: 8, seqlen: 016k}}]"
    (job,) = parse_suite(text, "x.yaml").jobs()
    assert (job.case.batch, job.case.seqlen_q) == (10, 16 * 1024)


def test_errors_are_value_errors():
    assert issubclass(SuiteError, ValueError)


def test_the_schema_agrees_with_the_loader():
    """What ships is valid, the resolved form too; what the loader refuses by form is refused as far as a schema can."""
    schema = json_schema()
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    for _, _, path in shipped_suites():
        for text in (path.read_text(), load_suite(path).to_yaml()):
            assert list(kind(schema).iter_errors(yaml.safe_load(text))) == [], path
    case = "groups: [{name: g, axes: {batch: 1, num_heads: 2, head_dim: 64, seqlen: 128}}]"
    for old, new in (
        ("batch: 1", "batch: 0"),
        ("head_dim", "head_dims"),
        ("groups", "group"),
        ("]", "]\nchecks: {probes: al}"),
    ):
        assert not kind(schema).is_valid(yaml.safe_load(case.replace(old, new))), new
        with pytest.raises(SuiteError):
            parse_suite(case.replace(old, new), "made.yaml")
    assert kind(schema).is_valid(yaml.safe_load(case + "\nchecks: {probes: all}"))
