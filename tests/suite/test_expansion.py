"""Cases of a group as they are made one by one, held against the product written out; and how loading grows."""

import itertools
import random
import time

import pytest

from attnbench.case import FIELDS, INTERDEPENDENT, Case, CaseError
from attnbench.suite.load import parse_suite
from attnbench.suite.source import SuiteError

LEGAL = {
    "batch": [1, 2, 7], "num_heads": [1, 4, 6], "num_heads_kv": [1, 2, 3, 4, None], "head_dim": [32, 48, 64, 600],
    "head_dim_v": [64, 128, 577, None], "dtype": ["bf16", "e4m3"], "causal": [False, True], "seqlen_q": [1, 64],
    "seqlen_k": [64, 100], "inputs": ["normal", "outliers"], "seed": [0, 3], "scaling": ["head", "none", "block"],
    "block_size": [128, 64], "hadamard": [False, True], "p_scale": [256, 448.0], "softmax_scale": [None, 0.125],
    "mask_alignment": ["bottom_right", "top_left"], "kv_dtype": [None, "bf16"], "calls": [1, 3],
}  # fmt: skip
HARMLESS = {
    "num_heads": [4, 12],
    "num_heads_kv": [1, 2, None],
    "head_dim": [32, 64],
    "head_dim_v": [128, 8],
    "dtype": ["e4m3"],
}
NEEDED = ("batch", "seqlen_q", "seqlen_k", "num_heads", "head_dim")


def is_case(values):
    try:
        return Case.make(**values)
    except CaseError:
        return None


def text_of(value):
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def listed(values):
    return f"[{', '.join(map(text_of, values))}]"


def matches(case, when):
    return all(getattr(case, name) in values for name, values in when.items())


def random_group(draw):
    """(axes, excludes) with a few values each, in a random order."""
    names = [*NEEDED, *draw.sample([name for name in FIELDS if name not in NEEDED], draw.choice([1, 2, 5]))]
    draw.shuffle(names)
    choices = LEGAL if draw.random() < 0.4 else {**LEGAL, **HARMLESS}
    axes = {name: draw.sample(choices[name], min(draw.choice([1, 2, 4]), len(choices[name]))) for name in names}
    excludes = []
    for _ in range(draw.choice([0, 1, 3])):
        fields = draw.sample(names, draw.choice([1, 2]))
        excludes.append({name: draw.sample(axes[name], draw.choice([1, len(axes[name])])) for name in fields})
    return axes, excludes


def write(axes, excludes):
    lines = [f"groups:\n  - name: g\n    axes: {{{', '.join(f'{name}: {listed(v)}' for name, v in axes.items())}}}\n"]
    whens = [", ".join(f"{name}: {listed(values)}" for name, values in when.items()) for when in excludes]
    if whens:
        lines += ["    exclude:\n", *(f"      - {{when: {{{when}}}, reason: r{n}}}\n" for n, when in enumerate(whens))]
    return "".join(lines)


def expected(axes, excludes):
    """Keys of the cases and of what is left out, or None where the suite is a mistake: the product, one by one."""
    kept, left_out, used = [], [], set()
    for row in itertools.product(*axes.values()):
        values = dict(zip(axes, row))
        case = is_case(values)
        seen = dict(values)
        for name, other in (("num_heads_kv", "num_heads"), ("head_dim_v", "head_dim")):
            if seen.get(name, 0) is None:
                seen[name] = seen[other]
        reason = next((n for n, when in enumerate(excludes) if all(seen[k] in v for k, v in when.items())), None)
        if reason is not None:
            used.add(reason)
            left_out += [] if case is None else [(case.key, f"r{reason}")]
        elif case is None:
            return None
        else:
            kept.append(case.key)
    if used != set(range(len(excludes))) or len(set(kept)) < len(kept) or not kept:
        return None
    return kept, left_out


def test_every_expansion_is_the_product_written_out():
    draw, right, mistakes = random.Random(14), 0, 0
    for _ in range(300):
        axes, excludes = random_group(draw)
        wanted, text = expected(axes, excludes), write(axes, excludes)
        if wanted is None:
            mistakes += 1
            with pytest.raises(SuiteError):
                parse_suite(text, "x.yaml")
            continue
        right += 1
        suite = parse_suite(text, "x.yaml")
        keys = [job.case.key for job in suite.jobs()]
        assert keys == wanted[0] == [key for _, key in suite.kept_keys()], text
        assert suite.count() == len(keys)
        assert {case.key: reason for case, reason in suite.excluded().items()} == dict(wanted[1]), text
        assert all(job.case == Case.make(**job.case.to_dict()) for job in suite.jobs())
    assert right > 40 and mistakes > 40, "the suites drawn are neither all right nor all wrong"


def test_a_field_that_is_not_interdependent_is_legal_by_itself():
    """What the check of a group relies on: it looks at such a field's values one by one, not at combinations."""
    draw, legal = random.Random(3), 0
    for _ in range(3000):
        values = {name: draw.choice(choices) for name, choices in LEGAL.items()}
        if draw.random() < 0.7:
            values |= {"scaling": "head", "block_size": 128, "hadamard": False, "p_scale": 256, "num_heads_kv": 1}
        free = {name: draw.choice(LEGAL[name]) for name in LEGAL if name not in INTERDEPENDENT}
        legal += is_case(values) is not None
        assert (is_case(values) is None) == (is_case(values | free) is None)
    assert 300 < legal < 2700


@pytest.mark.parametrize("bound, twice", [("num_heads_kv: [null, 4]", True), ("num_heads_kv: [null, 2]", False),
                                          ("head_dim_v: [64, null]", True), ("softmax_scale: [0.125, 0.5]", False),
                                          ('"num_heads_kv, seed": [[null, 0], [4, 0]]', True)])  # fmt: skip
def test_a_case_that_is_there_under_two_names_is_told(bound, twice):
    text = f"groups: [{{name: g, axes: {{batch: 1, seqlen: 8, num_heads: 4, head_dim: 64, {bound}}}}}]"
    if twice:
        with pytest.raises(SuiteError, match='^x.yaml:1: group "g" has the case .* twice; exclude one$'):
            parse_suite(text, "x.yaml")
    else:
        assert len(parse_suite(text, "x.yaml").jobs()) == 2


def test_an_exclude_of_many_values_is_held_against_each_case():
    seeds = list(range(60))
    text = ("groups: [{name: g, axes: {batch: 1, seqlen_q: [1, 2], seqlen_k: " f"{list(range(1, 61))}, seed: {seeds}, "
            "num_heads: 1, head_dim: 64}, exclude: [{when: {seqlen_k: " f"{list(range(2, 61))}, seed: {seeds}}}, "
            "reason: wide}, {when: {seqlen: 1, seed: [3, 4]}, reason: narrow}]}]")  # fmt: skip
    suite = parse_suite(text, "x.yaml")
    assert suite.count() == 2 * 60 - 2
    assert sorted(set(suite.excluded().values())) == ["narrow", "wide"]


def processor_s(text):
    """The fastest of three."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        parse_suite(text, "x.yaml")
        taken.append(time.process_time() - started)
    return min(taken)


def long_axis(count):
    return (
        f"groups: [{{name: g, axes: {{seed: {list(range(count))}, seqlen: 8, batch: 1, num_heads: 1, head_dim: 8}}}}]"
    )


def many_excludes(count):
    excludes = ", ".join(f"{{when: {{seed: {seed}, dtype: bf16}}, reason: r}}" for seed in range(count))
    return long_axis(count + 1)[:-2] + f", exclude: [{excludes}]}}]"


@pytest.mark.parametrize("make, short", [(long_axis, 3000), (many_excludes, 300)])
def test_loading_grows_linearly(make, short):
    """Eight times as long takes 8 and not 64 times the time; benchmarks/suite_speed.py measures the exponent."""
    parse_suite(make(10), "x.yaml")
    assert processor_s(make(8 * short)) < 22 * processor_s(make(short))
