"""`attnbench repro`: the script draws the same numbers, runs the same kernel, comes to the same verdict."""

import ast
import dataclasses
import inspect
import json
import re
import subprocess
import sys

import pytest
import torch
from fakes.report_runs import write_run
from paths import ROOT

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.plugins import load
from attnbench.printable import one_line
from attnbench.records.record import LSE_ERROR, MAX_ERROR, RELATIVE_RMSE, RMS_RATIO, WORST_ROW, Record
from attnbench.records.store import StoreError, read
from attnbench.reference.distributions import DISTRIBUTIONS
from attnbench.reference.inputs import make_inputs
from attnbench.repro import judge as repro_judge
from attnbench.repro.script import literal, repro_script
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

FUNCTIONS = ROOT / "tests" / "plugins_bad" / "functions.py"
CASE = Case.make(batch=2, num_heads=4, num_heads_kv=2, head_dim=32, seqlen_q=40, seqlen_k=56, dtype="bf16", causal=True)


def script(tmp_path, backend, case=CASE, plugins=(), **change):
    """The repro script of a real record of that backend."""
    known = builtin() | load(plugins)
    record = run_trial(Problem(case, "cpu", Checks(), Timing(), 0, Phases()), known[backend], timed=False)
    record = dataclasses.replace(record, **change)
    environment = {"device": "cpu", "plugins": [str(spec) for spec in plugins]}
    run = write_run(tmp_path / "run", [record], environment)
    return repro_script(run, record.case_key, backend), record


def executed(text, monkeypatch, capsys, *arguments):
    """(exit status, what it printed, its variables), run in this process: starting torch takes seconds."""
    monkeypatch.setattr(sys, "argv", ["repro.py", *map(str, arguments)])
    names = {"__name__": "__main__"}
    with pytest.raises(SystemExit) as caught:
        exec(compile(text, "repro.py", "exec"), names)
    return caught.value.code, capsys.readouterr().out, names


@pytest.mark.parametrize("seqlen_q", [40, 70])
@pytest.mark.parametrize("backend", ["naive", f"{FUNCTIONS}:right"])
def test_a_right_record_is_right_again(tmp_path, monkeypatch, capsys, backend, seqlen_q):
    plugins = [backend] if ":" in backend else []
    case = dataclasses.replace(CASE, seqlen_q=seqlen_q)
    text, record = script(tmp_path, backend.rpartition(":")[2], case, plugins)
    status, printed, _ = executed(text, monkeypatch, capsys)
    assert (record.status, status) == ("ok", 0), printed
    assert "WRONG" not in printed and "non-finite outputs: 0" in printed
    for check in record.accuracy.checks:
        if check.rule in ("relative RMSE", "max error", "worst row's relative RMSE"):
            assert f"{check.rule}: {check.value:.4g}, limit {check.limit:.4g}" in printed


def test_an_emulated_kernel_is_launched_as_it_was(tmp_path, monkeypatch, capsys):
    case = dataclasses.replace(CASE, head_dim=64, head_dim_v=64)
    text, record = script(tmp_path, "hopper_emulated[simple]", case)
    seed = record.kernel["emulated"]["seed"]
    assert f".under(Emulation(delivery=['random:{seed}'], checks='full'))" in text
    status, printed, names = executed(text, monkeypatch, capsys)
    assert (record.status, status) == ("ok", 0), printed
    assert names["backend"].config(case, 0, f"random:{seed}").seed == seed


@pytest.mark.parametrize(("dtype", "scaling"), [("e4m3", "head"), ("e4m3", "block"), ("e5m2", "token")])
def test_an_8_bit_record_is_judged_on_what_the_kernel_was_given(tmp_path, monkeypatch, capsys, dtype, scaling):
    case = dataclasses.replace(CASE, dtype=dtype, scaling=scaling, hadamard=True, block_size=32, inputs="outliers")
    text, record = script(tmp_path, "fp8_emulated", case)
    status, printed, _ = executed(text, monkeypatch, capsys)
    assert (record.status, status) == ("ok", 0), printed
    rmse = next(check for check in record.accuracy.checks if check.rule == "relative RMSE")
    assert f"relative RMSE: {rmse.value:.4g}, limit {rmse.limit:.4g}" in printed


def test_a_wrong_record_is_wrong_again_and_says_where(tmp_path, monkeypatch, capsys):
    text, record = script(tmp_path, "wrong", plugins=[f"{FUNCTIONS}:wrong"])
    status, printed, _ = executed(text, monkeypatch, capsys)
    assert (record.status, status) == ("incorrect", 1)
    worst = next(check for check in record.accuracy.failures if check.rule == "worst row's relative RMSE")
    line = next(line for line in printed.splitlines() if line.startswith(worst.rule))
    assert line == f"{worst.rule}: {worst.value:.4g}, limit {worst.limit:.4g}  WRONG {worst.where}"


@pytest.mark.parametrize(
    "spoil",
    ["lse[0, 0, 0] = nan", "lse[1, 2, 3] += 1", "lse[0, 1] = -inf", "out[1, 7, 3, 2] = nan", "out[0, 9] *= 2"],
)
def test_a_kernel_that_went_bad_meanwhile_is_found_out(tmp_path, monkeypatch, capsys, spoil):
    text, _ = script(tmp_path, "right", plugins=[f"{FUNCTIONS}:right"])
    bad = tmp_path / "bad.py"
    bad.write_text(
        FUNCTIONS.read_text().replace("def right(", "def really(").replace("return right(", "return really(")
        + "\nfrom math import inf, nan\n\ndef right(*arguments, **options):\n"
        f"    out, lse = really(*arguments, **options)\n    {spoil}\n    return out, lse\n"
    )  # fmt: skip
    status, printed, _ = executed(text, monkeypatch, capsys, bad)
    assert status == 1, printed


@pytest.mark.parametrize(("inputs", "dtype"), [*((name, "bf16") for name in DISTRIBUTIONS), ("fp8_extremes", "e5m2")])
def test_every_distribution_is_drawn_the_same(tmp_path, monkeypatch, capsys, inputs, dtype):
    case = dataclasses.replace(CASE, inputs=inputs, seed=3, dtype=dtype)
    text, _ = script(tmp_path, "naive" if dtype == "bf16" else "fp8_emulated", case)
    _, _, names = executed(text, monkeypatch, capsys)
    drawn = make_inputs(case)
    for name in "qkv":
        assert torch.equal(names[name].view(torch.int16), getattr(drawn, name).view(torch.int16)), name


@pytest.mark.parametrize("inputs", ["needle", "needle_hidden", "needle_edges"])
@pytest.mark.parametrize("head_dim", [4, 8, 16])
def test_needles_that_several_keys_match_are_no_failure(tmp_path, monkeypatch, capsys, inputs, head_dim):
    """Few entries: sign vectors come twice, and such rows are a mean of values that nobody retrieves."""
    case = dataclasses.replace(CASE, inputs=inputs, head_dim=head_dim)
    text, record = script(tmp_path, "naive", case)
    status, printed, _ = executed(text, monkeypatch, capsys)
    assert (record.status, status) == ("ok", 0), printed
    assert "rows that did not retrieve their key's v: 0, limit 0" in printed


def test_there_is_nothing_to_show_of_a_case_that_was_not_taken(tmp_path):
    with pytest.raises(StoreError, match="naive did not take that case, so that nothing ran: it takes no e4m3"):
        script(tmp_path, "naive", status="unsupported", reason="it takes no e4m3", accuracy=None)


@pytest.mark.parametrize("reason", ['say """no""" \\N', "a\nb", 'ends with a quote"', "{brace} $dollar"])
def test_whatever_a_reason_holds_the_script_compiles(tmp_path, reason):
    change = {"status": "error", "kind": "crash", "reason": reason, "accuracy": None}
    text, _ = script(tmp_path, "naive", **change)
    compile(text, "repro.py", "exec")
    assert "LIMITS = {}" in text


class _Blank(ast.NodeTransformer):
    """Every literal becomes None, so that what is left of a script is what it does."""

    def visit_Constant(self, node):
        return ast.Constant(None)

    def visit_List(self, node):
        return ast.Constant(None) if all(isinstance(item, ast.Constant) for item in node.elts) else node


def skeleton(text):
    return ast.dump(_Blank().visit(ast.parse(text)))


HOSTILE = [
    '"; print("PWNED"); x="',
    "'; print('PWNED')",
    '"""',
    "\\",
    "\n",
    "\x00",
    "\ud800",
    "{x} $y ${z}",
    "\u2028",
    "é",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_of_a_run_gets_into_a_script_as_data_only(tmp_path, hostile):
    """Name, reason, version, plugins and device: the script does the same whatever they hold."""
    quiet, _ = written_script(tmp_path / "quiet", "naive", "it broke", ["mine.py"], {})
    loud, record = written_script(
        tmp_path / "loud", f"naive{hostile}", f"it broke {hostile}", [f"mine{hostile}.py"], {"device": f"cpu{hostile}"}
    )
    assert skeleton(loud) == skeleton(quiet)
    assert repr(record.backend)[1:-1] in loud or ascii(record.backend) in loud  # it is there, as a literal


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_plugin_s_file_and_function_are_data_too(tmp_path, hostile):
    quiet, _ = written_script(tmp_path / "quiet", "mine", "it broke", ["file.py:mine"], {})
    name = f"mine{hostile}"
    loud, _ = written_script(tmp_path / "loud", name, "it broke", [f"file{hostile}.py:{one_line(name)}"], {})
    assert skeleton(loud) == skeleton(quiet)


def written_script(path, backend, reason, plugins, environment):
    """The script of a record as another program may have written it, which holds whatever that program liked."""
    record = Record(CASE, "naive", "1", "error", kind="crash", reason="it broke")
    run = write_run(path, [record], {"plugins": plugins, **environment})
    row = json.loads((run / "records.jsonl").read_text()) | {"backend": backend, "reason": reason}
    (run / "records.jsonl").write_text(json.dumps(row) + "\n")
    (taken,) = read(run).records
    return repro_script(run, taken.case_key, taken.backend), taken


def test_a_literal_is_what_it_stands_for():
    for value in [
        "a",
        "'",
        '"',
        "\\",
        "\x00",
        "\ud800",
        1.5,
        float("inf"),
        -float("inf"),
        {"a": [1, None, True, (2,)]},
    ]:
        assert ast.literal_eval(literal(value)) == value
    with pytest.raises(ValueError, match="malformed|is not what"):
        literal(float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": "unheard_of"}, 'inputs "unheard_of", which nobody can draw'),
        ({"window_left": 3}, "has fields that are unknown here"),
    ],
)
def test_what_cannot_be_drawn_here_is_said(tmp_path, change, message):
    run = write_run(tmp_path / "run", [Record(CASE, "naive", "1", "error", kind="crash", reason="it broke")], {})
    row = json.loads((run / "records.jsonl").read_text())
    row["case"] |= change
    row["case_key"] = (
        row["case_key"].replace("normal", "unheard_of") if "inputs" in change else row["case_key"] + "-window_left=3"
    )
    (run / "records.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(StoreError, match=message):
        repro_script(run, row["case_key"], "naive")


def test_a_plugin_function_needs_torch_and_its_own_file_only(tmp_path):
    text, record = script(tmp_path, "right", plugins=[f"{FUNCTIONS}:right"])
    (tmp_path / "repro.py").write_text(text)
    command = [sys.executable, "-I", "repro.py", str(FUNCTIONS)]  # -I: no PYTHONPATH, so that no attnbench is found
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "import attnbench" not in text and "from attnbench" not in text
    assert f'"case_key": {record.case_key!r},\n    "backend": {"right"!r},' in text


def test_the_scripts_judge_spells_the_rules_as_records_do():
    """Its source is copied out and imports nothing of ours, so the names stand there again."""
    source = inspect.getsource(repro_judge)
    for rule in (RELATIVE_RMSE, WORST_ROW, MAX_ERROR, LSE_ERROR, RMS_RATIO):
        assert f'"{rule}"' in source, rule
    assert set(repro_judge.ALWAYS) == {RELATIVE_RMSE, WORST_ROW, MAX_ERROR, LSE_ERROR}
    assert "attnbench" not in re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)
