"""`--axis`: the cases that a person would write down for the same words, whatever gave the field before."""

import itertools

import pytest

from attnbench.case import Case
from attnbench.suite.axes import DEFAULTS, parse_axes
from attnbench.suite.load import axes_suite, load_suite, parse_suite
from attnbench.suite.source import SuiteError
from attnbench.suite.suite import parse_only

GROUPS = """
groups:
  - name: bound
    axes:
      "batch, seqlen": [[8, 64], [4, 128], [4, 256]]
      dtype: [bf16, e4m3]
      head_dim: 64
    derive: {num_heads: 512 / head_dim, num_heads_kv: 256 / head_dim}
    exclude:
      - {when: {dtype: e4m3, batch: 8}, reason: too small}
      - {when: {seqlen: 256}, reason: too long}
"""


def keys(suite):
    return [job.case.key for job in suite.jobs()]


@pytest.fixture
def overridden(tmp_path):
    """The suite of a text with these axes; what it stores of itself loads to the same cases."""

    def load(text, *axes):
        path = tmp_path / "s.yaml"
        path.write_text(text)
        assert load_suite(path).jobs()
        suite = load_suite(path, parse_axes(axes))
        for complete in (True, False):
            assert keys(parse_suite(suite.to_yaml(complete), "again.yaml")) == keys(suite)
        return suite

    return load


def test_without_a_suite_it_is_the_product_over_the_defaults():
    suite = axes_suite(parse_axes(["head_dim=64,128", "seqlen=1k,2k", "causal=true"]))
    by_hand = [
        Case.make(batch=1, num_heads=4, head_dim=head_dim, seqlen=seqlen, dtype="bf16", causal=True).key
        for head_dim, seqlen in itertools.product((64, 128), (1024, 2048))
    ]
    assert keys(suite) == by_hand and suite.name == "axes" and suite.left_out == ()
    assert keys(parse_suite(suite.to_yaml(complete=False), "again.yaml")) == by_hand
    assert "timing" not in suite.to_yaml(complete=False) and "min_samples" in suite.to_yaml()
    plain = Case.make(**{**DEFAULTS, "seqlen": 1024, "num_heads_kv": 2})
    assert keys(axes_suite(parse_axes(["num_heads_kv=2"]))) == [plain.key]
    (decode,) = axes_suite(parse_axes(["seqlen_q=1"])).jobs()
    assert (decode.case.seqlen_q, decode.case.seqlen_k) == (1, 1024)


def test_the_same_field_twice_has_the_values_of_both():
    (axis,) = parse_axes(["seqlen=1k", "seqlen=64,2k"])
    assert axis.rows == ((1024,), (64,), (2048,))


def test_a_field_of_a_bound_axis_is_taken_out_of_it(overridden):
    """batch keeps its values, each once; the exclusion of lengths that are gone goes, the other stays."""
    suite = overridden(GROUPS, "seqlen=512")
    assert keys(suite) == [
        "bf16-d64-h8.4-b8-q512-k512-full-normal.0",
        "bf16-d64-h8.4-b4-q512-k512-full-normal.0",
        "e4m3-d64-h8.4-b4-q512-k512-full-normal.0",
    ]
    assert list(suite.excluded().values()) == ["too small"]
    assert "too long" not in suite.to_yaml()


def test_one_length_of_a_bound_seqlen_leaves_the_other(overridden):
    suite = overridden(GROUPS, "seqlen_q=1", "dtype=bf16")
    assert [(job.case.batch, job.case.seqlen_q, job.case.seqlen_k) for job in suite.jobs()] == [
        (8, 1, 64), (4, 1, 128), (4, 1, 256),
    ]  # fmt: skip


def test_what_was_derived_gives_way_and_the_rest_follows_the_new_values(overridden):
    suite = overridden(GROUPS, "head_dim=32,128", "num_heads_kv=1", "seqlen=64", "dtype=bf16", "batch=1")
    assert keys(suite) == ["bf16-d32-h16.1-b1-q64-k64-full-normal.0", "bf16-d128-h4.1-b1-q64-k64-full-normal.0"]


def test_the_command_line_beats_what_the_file_keeps_and_its_defaults(overridden):
    text = "defaults: {batch: 2, num_heads: 4, seqlen: 64}\ngroups: [{name: a, axes: {head_dim: [64, 96]}}]\n"
    suite = overridden(text + "only: {head_dim: 64, batch: 2}\n", "head_dim=128", "seqlen_k=32")
    assert keys(suite) == ["bf16-d128-h4-b2-q64-k32-full-normal.0"]


def test_what_cannot_be_is_left_out_and_told(overridden):
    suite = overridden(GROUPS, "hadamard=false,true", "batch=1", "seqlen=64")
    assert keys(suite) == [
        "bf16-d64-h8.4-b1-q64-k64-full-normal.0",
        "e4m3-d64-h8.4-b1-q64-k64-full-normal.0",
        "e4m3-d64-h8.4-b1-q64-k64-full-normal.0-hadamard=on",
    ]
    assert suite.left_out == (
        "group bound: 1 combination left out: hadamard applies to dtype e4m3 and e5m2 only, not to bf16",
    )


def test_what_a_group_has_already_is_left_out_of_the_next_and_an_emptied_group_goes():
    suite = load_suite("quick", parse_axes(["seqlen=256"]))
    assert [group.name for group in suite.groups] == [
        "dense",
        "gqa",
        "shapes",
        "decode",
        "decode_fp16",
        "e4m3",
        "probes",
    ]
    assert suite.left_out == ("group lengths: 1 combination left out: group dense has it already",)
    only = (parse_only("group=lengths"),)
    assert keys(load_suite("quick", parse_axes(["seqlen=256"]), only)) == ["bf16-d64-h4-b1-q256-k256-full-normal.0"]


@pytest.mark.parametrize("name", ["quick", "edges", "h100", "ablation", "large", "fp8_error"])
@pytest.mark.parametrize("axis", ["dtype=bf16", "dtype=e4m3", "seqlen=512", "head_dim=64", "causal=true", "batch=2"])
def test_shipped_suites_take_axes_and_store_them(name, axis):
    suite = load_suite(name, parse_axes([axis]))
    field, value = axis.split("=")
    names = {"seqlen": ("seqlen_q", "seqlen_k")}.get(field, (field,))
    for job in suite.jobs():
        assert all(str(getattr(job.case, name)).lower() == value for name in names)
    stored = parse_suite(suite.to_yaml(), "stored.yaml")
    assert [(job.group, job.case, job.timing, job.checks) for job in stored.jobs()] == [
        (job.group, job.case, job.timing, job.checks) for job in suite.jobs()
    ]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["head_dims=64"], '--axis head_dims=64: unknown field "head_dims" (did you mean "head_dim"?)'),
        (["head_dim=6x4"], "--axis head_dim=6x4: head_dim must be a whole number (1k is 1024), not '6x4'"),
        (["causal=maybe"], "--axis causal=maybe: causal must be true or false, not 'maybe'"),
        (["window=4"], '--axis window=4: "window" is reserved'),
        (["head_dim"], "--axis head_dim: write field=value"),
        (["head_dim=64,,128"], "--axis head_dim=64,,128: write field=value"),
        (["batch,seqlen=1"], "--axis batch,seqlen=1: one field each; fields that change together are bound"),
        (["seqlen=1k,1024"], "--axis seqlen: 1024 is there twice; give it once"),
        (["seqlen=1k", "seqlen_k=1"], "--axis seqlen and --axis seqlen_k: both set seqlen_k; leave one out"),
        (["num_heads_kv=1,3"], "--axis num_heads_kv=3: no case can have it: num_heads 4 is not a multiple of num_he"),
        (["hadamard=false,true"], "not to bf16; add --axis dtype=e4m3, or leave it out"),
        (["head_dim=600"], "--axis head_dim=600: no case can have it: head_dim 600 is above 576"),
    ],
)
def test_a_mistake_names_the_axis_the_value_and_the_way_out(axes, message):
    with pytest.raises(SuiteError) as caught:
        axes_suite(parse_axes(axes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_in_a_suite(overridden):
    with pytest.raises(SuiteError, match=r"^--axis batch=8: no case can have it: excluded: too small; leave it out"):
        overridden(GROUPS, "batch=8", "dtype=e4m3")
    derived = "groups: [{name: a, axes: {seqlen: 64, head_dim: 64, num_heads: 1}, derive: {batch: 512 / seqlen}}]"
    with pytest.raises(SuiteError, match='"a" derives batch from seqlen .* set batch with --axis too'):
        overridden(derived, "seqlen_q=1")
    lengths = ",".join(map(str, range(1, 2000)))
    with pytest.raises(SuiteError, match='group "all" expands to more than 1,000,000 cases; give fewer values'):
        axes_suite(parse_axes([f"seqlen_q={lengths}", f"seqlen_k={lengths}"]))
