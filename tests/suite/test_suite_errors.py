"""Every mistake in a suite is one line: file, line, thing, value, way out."""

from __future__ import annotations

import pytest

from attnbench.reference.distributions import DISTRIBUTIONS
from attnbench.suite.load import load_suite, parse_suite, with_overrides
from attnbench.suite.source import SuiteError
from attnbench.suite.suite import parse_only

SIZES = "batch: [1], seqlen: [64], num_heads: [4], head_dim: [64]"
WHOLE = f"groups: [{{name: a, axes: {{{SIZES}}}}}]\n"


def group(axes="", rest="", sizes=SIZES, name="a"):
    """A suite whose group starts in line 2, its axes in line 3, anything more in line 4."""
    axes = ", ".join(part for part in (sizes, axes) if part)
    return f"groups:\n  - name: {name}\n    axes: {{{axes}}}\n" + (f"    {rest}\n" if rest else "")


NAMES = ("seqlen, batch, seqlen_q, seqlen_k, num_heads, num_heads_kv, head_dim, head_dim_v, dtype, causal, "
         "inputs, seed, "
         "scaling, block_size, hadamard, p_scale, softmax_scale, mask_alignment, "
         "kv_dtype, calls")  # fmt: skip
INPUTS = ", ".join(DISTRIBUTIONS)

MISTAKES = {
    # the file as a whole
    "": 'x.yaml:1: a suite is a mapping with the key "groups"; this file is empty',
    "- a\n": 'x.yaml:1: a suite is a mapping with the key "groups"; this file is a list',
    "hello\n": 'x.yaml:1: a suite is a mapping with the key "groups"; this file is a single value',
    "a: 1\nb: [1\n": "x.yaml:3: not valid YAML: did not find expected ',' or ']'",
    "a: 1\n---\nb: 2\n": "x.yaml:2: not valid YAML: but found another document",
    "name: !!python/name:os.system\n": "x.yaml:1: not valid YAML: could not determine a constructor for the tag "
                                      "'tag:yaml.org,2002:python/name:os.system'",
    "name: x\ngrups: []\n": 'x.yaml:2: unknown key "grups" at the top level (did you mean "groups"?)',
    "a: &x [*x]\n": "x.yaml: nested too deeply, or an alias that contains itself",
    "1: 2\n": "x.yaml:1: a key must be text; write it in quotes",
    "name: a\nabout: b\nname: c\n": 'x.yaml:3: the key "name" is here twice (first in line 1); remove one',
    "name: x\n": 'x.yaml:1: "groups" is missing at the top level',
    "groups: []\n": 'x.yaml:1: "groups" must be at least one entry, not []',
    "groups: {}\n": 'x.yaml:1: "groups" must be a list, not {}',
    "groups:\n  - 3\n": 'x.yaml:2: "groups[0]" must be a mapping, not 3',
    # keys
    "grups: []\n" + WHOLE: 'x.yaml:1: unknown key "grups" at the top level (did you mean "groups"?)',
    WHOLE + "zzz: 1\n": 'x.yaml:2: unknown key "zzz" at the top level; there are name, about, backends, '
                        'emulated, emulation, defaults, groups, '
                        "timing, checks, only, at_least",
    group("head_dims: [64]"): 'x.yaml:3: unknown key "head_dims" under "axes" (did you mean "head_dim"?)',
    group("zzz: [64]"): f'x.yaml:3: unknown key "zzz" under "axes"; there are {NAMES}',
    group("window: [64]"): 'x.yaml:3: "window" under "axes" is reserved for a later version and cannot be '
                           'set yet; remove it',
    group(rest="tming: {}"): 'x.yaml:4: unknown key "tming" under "groups" (did you mean "timing"?)',
    group(rest="timing: {min_sample: 3}"): 'x.yaml:4: unknown key "min_sample" under "timing" (did you mean '
                                           '"min_samples"?)',
    group(rest="checks: {factors: {rms: 3}}"): 'x.yaml:4: unknown key "rms" under "factors" (did you mean "rmse"?)',
    group(rest="derive: {head_dims: 4}"): 'x.yaml:4: unknown key "head_dims" under "derive" (did you mean "head_dim"?)',
    "defaults: {dtyp: bf16}\n" + WHOLE: 'x.yaml:1: unknown key "dtyp" under "defaults" (did you mean "dtype"?)',
    "only: {dtyp: bf16}\n" + WHOLE: 'x.yaml:1: unknown key "dtyp" under "only" (did you mean "dtype"?)',
    "groups:\n  - axes: {}\n": 'x.yaml:2: "name" is missing under "groups"',
    # names
    group(name="a b"): 'x.yaml:2: "name" must be letters, digits, _ . - only, not "a b"',
    group() + f"  - name: a\n    axes: {{{SIZES}}}\n": 'x.yaml:4: group "a" is here twice (first in line '
                                                       '2); rename one',
    "backends: [naive, fa2, naive]\n" + WHOLE: 'x.yaml:1: "backends" lists "naive" twice; remove one',
    "backends: []\n" + WHOLE: 'x.yaml:1: "backends" must be at least one entry, not []',
    "backends: naive\n" + WHOLE: 'x.yaml:1: "backends" must be a list, not "naive"',
    # values
    group("dtype: [bf16, fp8]"): "x.yaml:3: dtype must be one of fp16, bf16, fp32, e4m3, e5m2, not 'fp8'",
    group("inputs: [gauss]"): f"x.yaml:3: inputs must be one of {INPUTS}, not 'gauss'",
    group("causal: [maybe]"): "x.yaml:3: causal must be true or false, not 'maybe'",
    group("softmax_scale: [0]"): "x.yaml:3: softmax_scale must be a positive number, not 0",
    group(sizes=SIZES.replace("[1]", "[0]")): "x.yaml:3: batch must be between 1 and 2147483647, not 0",
    group(sizes=SIZES.replace("[1]", "[-4]")): "x.yaml:3: batch must be between 1 and 2147483647, not -4",
    group(sizes=SIZES.replace("[1]", "[1.5]")): "x.yaml:3: batch must be a whole number (1k is 1024), not 1.5",
    group(sizes=SIZES.replace("[1]", "[1K]")): "x.yaml:3: batch must be a whole number (1k is 1024), not '1K'",
    group(sizes=SIZES.replace("[1]", "[true]")): "x.yaml:3: batch must be a whole number (1k is 1024), not True",
    group(sizes=SIZES.replace("[1]", "[null]")): "x.yaml:3: batch must be a whole number (1k is 1024), not None",
    group(sizes=SIZES.replace("[1]", "[9999m]")): "x.yaml:3: batch must be between 1 and 2147483647, not 10484711424",
    group(sizes=SIZES.replace("[1]", "[]")): 'x.yaml:3: "batch" under "axes" has no values, so the group '
                                             'expands to nothing; give one',
    group(sizes=SIZES.replace("[1]", "[1, 2, 1]")): 'x.yaml:3: "batch" under "axes" lists 1 twice; remove one',
    "defaults: {dtype: [bf16]}\n" + WHOLE: 'x.yaml:1: "dtype" under "defaults" takes one value, not a list; '
                                           'lists go under "axes"',
    "defaults: {seqlen: 1, seqlen_q: 2}\n" + WHOLE: 'x.yaml:1: "defaults" has "seqlen_q" and "seqlen": both '
                                                    'set seqlen_q; keep one',
    # what the case as a whole does not allow
    group(sizes="batch: [1], seqlen: [64], num_heads: [4]"): 'x.yaml:2: "head_dim" is required and missing (group "a")',
    group("num_heads_kv: [3]"): "x.yaml:3: num_heads 4 is not a multiple of num_heads_kv 3; grouped-query "
                                "attention needs a "
                                'whole ratio (group "a")',
    group("head_dim_v: [1k]"): 'x.yaml:3: head_dim_v 1024 is above 576, the largest that any backend takes (group "a")',
    group("hadamard: [true]"): 'x.yaml:3: hadamard applies to dtype e4m3 and e5m2 only, not to bf16 (group "a")',
    "defaults: {hadamard: true}\n" + group(): "x.yaml:1: hadamard applies to dtype e4m3 and e5m2 only, not to bf16 "
                                              '(group "a")',
    # whole numbers are decimal, whatever YAML 1.1 makes of these
    group(sizes=SIZES.replace("[1]", "[0x10]")): "x.yaml:3: batch must be a whole number (1k is 1024), not '0x10'",
    group(sizes=SIZES.replace("[1]", "[1:30]")): "x.yaml:3: batch must be a whole number (1k is 1024), not '1:30'",
    group(sizes=SIZES.replace("[1]", "[1_000]")): "x.yaml:3: batch must be a whole number (1k is 1024), not '1_000'",
    group(rest="timing: {min_samples: 010}"): 'x.yaml:4: "min_samples" must be a whole number, not "010"',
    # axes
    group("seqlen_q: [4]"): 'x.yaml:3: "axes" has "seqlen_q" and "seqlen": both set seqlen_q; keep one',
    group('"seed, seed": [[1, 2]]'): 'x.yaml:3: "axes" has "seed" twice: both set seed; keep one',
    group('"seed, dtyp": [[1, bf16]]'): 'x.yaml:3: unknown key "dtyp" under "axes" (did you mean "dtype"?)',
    group('"seed, dtype": [[1]]'): "x.yaml:3: \"seed, dtype\" under \"axes\" needs a list of lists of 2 "
                                   "values, not [1]",
    group('"seed, dtype": 3'): 'x.yaml:3: "seed, dtype" under "axes" needs a list of lists of 2 values, not 3',
    group('"seed, dtype": [[x, bf16]]'): "x.yaml:3: seed must be a whole number (1k is 1024), not 'x'",
    group(f"seed: {list(range(1001))}, seqlen_k: {list(range(1, 1001))}",
          sizes="batch: [1], seqlen_q: [64], num_heads: [4], head_dim: [64]"):
        'x.yaml:2: group "a" expands to 1,001,000 cases; the most is 1,000,000',
    # derive
    group(rest="derive: {head_dim_v: 100 / head_dim}"):
        'x.yaml:4: derived "head_dim_v" of group "a": "100 / head_dim" is 1.5625 where head_dim is 64; it '
        'must come out whole',
    group(rest="derive: {head_dim_v: 1e308 * 1e308 / 3}"):
        'x.yaml:4: derived "head_dim_v" of group "a": "1e308 * 1e308 / 3" is beyond every size; it must come out whole',
    group(rest="derive: {head_dim_v: head_dim / (batch - 1)}"):
        'x.yaml:4: derived "head_dim_v" of group "a": "head_dim / (batch - 1)" divides by zero where batch '
        'is 1 and head_dim is 64',
    group(rest="derive: {head_dim_v: head_dim ** 2}"):
        'x.yaml:4: "head_dim_v" under "derive": "head_dim ** 2" in "head_dim ** 2" is not allowed; use '
        'numbers, axis names and + - * / only',
    group(rest="derive: {head_dim_v: __import__('os')}"):
        'x.yaml:4: "head_dim_v" under "derive": "__import__(\'os\')" in "__import__(\'os\')" is not '
        'allowed; use numbers, axis names and + - * / only',
    group(rest="derive: {head_dim_v: 2 +}"):
        'x.yaml:4: "head_dim_v" under "derive": "2 +" is not arithmetic; use numbers, axis names and + - * / only',
    group(rest="derive: {head_dim_v: head_dims}"):
        'x.yaml:4: "head_dim_v" under "derive" uses "head_dims", which no axis sets (did you mean "head_dim"?)',
    group("dtype: [bf16]", "derive: {head_dim_v: dtype}"):
        "x.yaml:4: \"head_dim_v\" under \"derive\" uses \"dtype\", which is 'bf16': not a whole number",
    group(rest="derive: {head_dim_v: [3]}"): 'x.yaml:4: "head_dim_v" under "derive" must be an expression, not [3]',
    group(rest="derive: {dtype: 3}"):
        'x.yaml:4: "dtype" cannot be derived, only whole numbers can: batch, seqlen_q, seqlen_k, num_heads, '
        'num_heads_kv, '
        "head_dim, head_dim_v, block_size, seed, calls",
    group(rest="derive: {seqlen_k: 3}"): 'x.yaml:4: "seqlen_k" under "derive" is set in this group already; keep one',
    group(rest="derive: {num_heads_kv: num_heads - 4}"):
        'x.yaml:4: num_heads_kv must be between 1 and 2147483647, not 0 (group "a")',
    # exclude
    group(rest="exclude: [{when: {dtype: bf16}}]"): 'x.yaml:4: "reason" is missing under "exclude"',
    group(rest="exclude: [{when: {dtype: bf16}, reason: ''}]"): 'x.yaml:4: "reason" must be some text, not ""',
    group(rest="exclude: [{when: {}, reason: x}]"): 'x.yaml:4: "when" must be at least one entry, not {}',
    group(rest="exclude: [{when: {dtyp: bf16}, reason: x}]"): 'x.yaml:4: unknown key "dtyp" under "when" '
        '(did you mean "dtype"?)',
    group(rest="exclude: [{when: {dtype: fp16}, reason: x}]"):
        'x.yaml:4: this "exclude" matches nothing in group "a" that is not excluded already; correct its '
        'values or remove it',
    group(rest="exclude: [{when: {batch: 1}, reason: x}]"): "x.yaml:1: the suite expands to nothing: every "
        "case is excluded",
    # the same case twice
    group() + f"  - name: b\n    axes: {{{SIZES}}}\n":
        'x.yaml:4: group "b" has the case bf16-d64-h4-b1-q64-k64-full-normal.0, which group "a" (line 2) has already; '
        "exclude it in one of them",
    group("softmax_scale: [null, 0.125]"): 'x.yaml:2: group "a" has the case '
                                           'bf16-d64-h4-b1-q64-k64-full-normal.0 twice; exclude one',
    # timing, checks, only
    WHOLE + "timing: {regime: fast}\n": 'x.yaml:2: "regime" must be one of sustained, burst, not "fast"',
    WHOLE + "timing: {processes: 0}\n": 'x.yaml:2: "processes" must be at least 1, not 0',
    WHOLE + "timing: {timeout_s: 0}\n": 'x.yaml:2: "timeout_s" must be more than 0, not 0',
    WHOLE + "timing: {min_samples: 2.5}\n": 'x.yaml:2: "min_samples" must be a whole number, not 2.5',
    WHOLE + "timing: {min_time_s: .inf}\n": 'x.yaml:2: "min_time_s" must be a finite number, not Infinity',
    WHOLE + "timing:\n": 'x.yaml:2: "timing" must be a mapping, not null',
    WHOLE + "timing: {min_time_s: 20}\n": "x.yaml:2: max_time_s 15 is below min_time_s 20; raise it",
    group(rest="timing: {max_time_s: 0.1}"): "x.yaml:4: max_time_s 0.1 is below min_time_s 0.5; raise it",
    group(rest="time: 3"): 'x.yaml:4: "time" must be true or false, not 3',
    WHOLE + "checks: {oracle: fp128}\n": 'x.yaml:2: "oracle" must be one of auto, full, sampled, not "fp128"',
    WHOLE + "checks: {factors: {rmse: -1}}\n": 'x.yaml:2: "rmse" must be more than 0, not -1',
    WHOLE + "only: {dtype: fp16}\n": 'x.yaml: no case of suite "x" has dtype=fp16; it has dtype bf16',
}  # fmt: skip


@pytest.mark.parametrize("text, message", MISTAKES.items(), ids=lambda text: text[:60])
def test_mistakes(text, message):
    with pytest.raises(SuiteError) as caught:
        parse_suite(text, "x.yaml")
    assert str(caught.value) == message


def test_unknown_probe():
    with pytest.raises(SuiteError, match='^x.yaml:2: unknown probe "no_such" under "probes"'):
        parse_suite(WHOLE + "checks: {probes: [no_such]}\n", "x.yaml")


def test_the_line_is_the_keys_own():
    text = "groups:\n  - name: a\n    axes:\n      batch: [1]\n      # a remark\n      head_dims:\n        - 64\n"
    with pytest.raises(SuiteError, match='^x.yaml:6: unknown key "head_dims"'):
        parse_suite(text, "x.yaml")


def test_the_line_of_an_item_in_a_list():
    text = "groups:\n  - name: a\n    axes:\n      dtype:\n        - bf16\n        - fp8\n"
    with pytest.raises(SuiteError, match="^x.yaml:6: dtype must be one of"):
        parse_suite(text, "x.yaml")


def test_the_first_mistake_in_the_file_is_told():
    text = "timing: {regime: x}\nbckends: []\n" + WHOLE
    with pytest.raises(SuiteError, match="^x.yaml:1: "):
        parse_suite(text, "x.yaml")


def test_missing_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SuiteError,
        match="^none.yaml: no such suite file, and no shipped suite of that name; there are ablation, contact, cpu, ",
    ):
        load_suite("none.yaml")
    with pytest.raises(SuiteError, match=r'^quik: no such suite file, and .* \(did you mean "quick"\?\)$'):
        load_suite("quik")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SuiteError, match="^folder: is a folder; name a suite file in it$"):
        load_suite("folder")
    (tmp_path / "latin.yaml").write_bytes("about: é".encode("latin-1"))
    with pytest.raises(SuiteError, match=r"^latin.yaml: not text in UTF-8 \(byte 7\); save it as UTF-8$"):
        load_suite("latin.yaml")
    (tmp_path / "bell.yaml").write_bytes(b"about: \x07\n")
    with pytest.raises(SuiteError, match="^bell.yaml.*: not valid YAML: "):
        load_suite("bell.yaml")
    (tmp_path / "a b.yaml").write_text(WHOLE)
    with pytest.raises(SuiteError, match='^a b.yaml:1: "name" is missing at the top level, and the file'):
        load_suite("a b.yaml")


def test_unknown_backend_is_told_at_its_line():
    suite = parse_suite("name: x\nbackends:\n  - naive\n  - cpuflash\n" + WHOLE, "x.yaml")
    suite.check_backends(["naive", "cpuflash", "other"])
    with pytest.raises(SuiteError) as caught:
        suite.check_backends(["naive", "cpu_flash"])
    assert str(caught.value) == 'x.yaml:4: unknown backend "cpuflash" under "backends" (did you mean "cpu_flash"?)'


ONLY_MISTAKES = {
    "dtyp=bf16": '--only dtyp=bf16: unknown field "dtyp" (did you mean "dtype"?)',
    "window=3": '--only window=3: "window" is reserved for a later version and cannot be set yet; remove it',
    "dtype": '--only dtype: write field=value[,value], such as "dtype=bf16" or "seqlen=1k,2k"',
    "dtype=": '--only dtype=: write field=value[,value], such as "dtype=bf16" or "seqlen=1k,2k"',
    "dtype=fp8": "--only dtype=fp8: dtype must be one of fp16, bf16, fp32, e4m3, e5m2, not 'fp8'",
    "seqlen=1k,x": "--only seqlen=1k,x: seqlen must be a whole number (1k is 1024), not 'x'",
    "causal=yes": "--only causal=yes: causal must be true or false, not 'yes'",
    "p_scale=big": "--only p_scale=big: p_scale must be a positive number, not 'big'",
}


@pytest.mark.parametrize("text, message", ONLY_MISTAKES.items())
def test_only_mistakes(text, message):
    with pytest.raises(SuiteError) as caught:
        parse_only(text)
    assert str(caught.value) == message


OVERRIDE_MISTAKES = [
    ({"only": [("dtype", ("fp16",))]}, '--only dtype=fp16: no case of suite "x" has dtype=fp16; it has '
                                       'dtype bf16, e4m3'),
    ({"only": [("dtype", ("e4m3",)), ("head_dim", (64,))]},
     '--only dtype=e4m3 --only head_dim=64: no case of suite "x" matches all of these together; drop one'),
    ({"only": [("group", ("b",))]}, '--only group=b: suite "x" has no such group; there are a'),
    ({"timing": {"processes": 0}}, '"processes" must be at least 1, not 0'),
    ({"timing": {"proceses": 3}}, 'unknown key "proceses" under "timing" (did you mean "processes"?)'),
    ({"timing": {"min_time_s": 60.0}}, "max_time_s 15 is below min_time_s 60; raise it"),
]  # fmt: skip


@pytest.mark.parametrize("overrides, message", OVERRIDE_MISTAKES)
def test_override_mistakes(overrides, message):
    suite = parse_suite(group('"dtype, head_dim": [[bf16, 64], [e4m3, 128]]', sizes=SIZES.rpartition(",")[0]), "x.yaml")
    with pytest.raises(SuiteError) as caught:
        with_overrides(suite, **overrides)
    assert str(caught.value) == message
