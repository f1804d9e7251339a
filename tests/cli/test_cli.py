"""The command line: every mistake is one line and exit status 2, nothing is written, the reading half has no torch."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from fakes.report_runs import ok, write_run
from paths import ROOT

FUNCTIONS = ROOT / "tests" / "plugins_bad" / "functions.py"
SIZES = "batch: 1, num_heads: 4, head_dim: 64, seqlen: 64"
GROUP = f"groups:\n  - {{name: a, axes: {{{SIZES}}}}}\n"


def group(axes=SIZES, rest=""):
    return f"groups: [{{name: a, axes: {{{axes}}}{rest}}}]\n"


# (what the suite file holds, further arguments, what the one line says)
MISTAKES = {
    "unknown key": ("timin: {}\n" + GROUP, [], 's.yaml:1: unknown key "timin" at the top level'),
    "unknown axis": (group("heads: 4, " + SIZES), [], 's.yaml:1: unknown key "heads" under "axes"'),
    "unknown backend in the file": ("backends: [naiv]\n" + GROUP, [], 's.yaml:1: unknown backend "naiv"'),
    "unknown backend asked for": (GROUP, ["--backend", "naiv"], 'unknown backend "naiv"'),
    "backends in one": (GROUP, ["--backend", "naive,flex"], "name them one by one: --backend naive --backend flex"),
    "expands to nothing": (group(SIZES.replace("batch: 1", "batch: []")), [], "expands to nothing"),
    "everything excluded": (group(rest=", exclude: [{when: {batch: 1}, reason: x}]"), [], "expands to nothing"),
    "the same case twice": (group("softmax_scale: [null, 0.125], " + SIZES), [], "-q64-k64-full-normal.0 twice"),
    "the same case in two groups": (GROUP + f"  - {{name: b, axes: {{{SIZES}}}}}\n", [], "has already"),
    "heads do not divide": (group("num_heads_kv: 3, " + SIZES), [], "num_heads 4 is not a multiple of num_heads_kv 3"),
    "zero": (group(SIZES.replace("batch: 1", "batch: 0")), [], "batch must be between 1 and"),
    "negative": (group(SIZES.replace("seqlen: 64", "seqlen: -64")), [], "-64"),
    "head_dim too large": (group(SIZES.replace("head_dim: 64", "head_dim: 1024")), [], "head_dim 1024 is above 576"),
    "derive is no arithmetic": (group(rest=", derive: {head_dim_v: head_dim ** 2}"), [], "is not allowed; use numbers"),
    "derive is not whole": (group(rest=", derive: {head_dim_v: 100 / head_dim}"), [], "it must come out whole"),
    "derive divides by zero": (group(rest=", derive: {head_dim_v: 1 / (batch - 1)}"), [], "divides by zero"),
    "a list": ("- 1\n", [], "s.yaml"),
    "a text": ("hello\n", [], "s.yaml"),
    "empty": ("", [], "s.yaml"),
    "no YAML": ("a: [1\n", [], "s.yaml:"),
    "binary": ("\x00\x01", [], "s.yaml"),
    "reserved field": (group("window: 8, " + SIZES), [], "reserved for a later version"),
    "a distribution that is not there": (group("inputs: nothing, " + SIZES), [], "nothing"),
    "--only on no axis": (GROUP, ["--only", "sequence=64"], 'unknown field "sequence"'),
    "--only without a value": (GROUP, ["--only", "seqlen"], "write field=value"),
    "--only keeps nothing": (GROUP, ["--only", "seqlen=128"], "no case of suite"),
    "a missing plugin": (GROUP, ["--plugin", "nowhere.py:f"], 'plugin "nowhere.py:f": no file nowhere.py'),
    "a plugin that cannot be": (GROUP, ["--plugin", "nowhere"], "give file.py:function, module:function, or file.py"),
    "a device that cannot be": (GROUP, ["--device", "tpu"], 'unknown device "tpu"; use auto, cpu, cuda'),
    "timeout zero": (GROUP, ["--timeout", "0"], """Invalid value for '--timeout': "0" is no duration; write 90s"""),
    "timeout negative": (GROUP, ["--timeout", "-3"], """Invalid value for '--timeout': "-3" is no duration"""),
    "timeout no number": (GROUP, ["--timeout", "soon"], '"soon" is no duration'),
    "timeout nan": (GROUP, ["--timeout", "nan"], '"nan" is no duration'),
    "processes zero": (GROUP, ["--processes", "0"], "Invalid value for '--processes': 0 is not in the range x>=1"),
    "processes too many": (GROUP, ["--processes", "101"], '"processes" must be at most 100, not 101'),
    "a budget that is none": (GROUP, ["--budget", "-1m"], '"-1m" is no duration; write 90s, 15m or 2h'),
    "--emulated without a kernel": (GROUP, ["--emulated", "--backend", "naive"], "lists none of our kernels (naive)"),
    "an unknown delivery": (GROUP, ["--emulation", "lazzy"], '"lazzy" is no delivery (did you mean "lazy"?)'),
    "unknown emulation checks": (GROUP, ["--emulation-checks", "some"], "'some' is not one of 'full', 'fast'"),
    "an option that is not there": (GROUP, ["--fast"], "No such option"),
    "an occupied directory": (GROUP, ["--out", "{folder}"], "{folder} exists and is not empty; choose another --out\n"),
    "a file as directory": (GROUP, ["--out", "{suite}"], "{suite} exists and is not a folder; choose another --out\n"),
    "a suite twice": (GROUP, ["{suite}", "--out", "x"], 'two of these suites are named "s"; run them one by one'),
    "a card with a leading zero": (GROUP, ["--device", "cuda:01"], 'unknown device "cuda:01"; use auto, cpu, cuda'),
    "a directory in a file": (GROUP, ["--out", "{suite}/run"], "cannot write the run directory"),
    "resume of nothing": (GROUP, ["--resume", "nowhere"], "nowhere: no such run directory"),
    "resume and another out": (GROUP, ["--resume", "a", "--out", "b"], "leave out --out b"),
    "resume of no run": (GROUP, ["--resume", "{folder}"], "not a run directory (it has no records.jsonl)"),
}  # fmt: skip
# These are seen once a worker has started; the others at once.
IN_A_WORKER = {"a directory in a file"}


def one_line(done, status=2):
    """The single line on stderr of a user's mistake."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("attnbench: "), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    """Calls the command line in this process: (exit status, stdout, stderr). A start costs a tenth of a second."""
    from click.testing import CliRunner

    from attnbench.cli.verbs import main

    def call(*arguments):
        result = CliRunner().invoke(main, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)

    return call


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if name not in IN_A_WORKER])
def test_a_mistake_is_one_line_and_nothing_is_written(mistake, in_process, tmp_path, monkeypatch):
    text, arguments, message = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    suite = tmp_path / "s.yaml"
    suite.write_text(text)
    names = {"suite": suite, "folder": tmp_path}
    given = [argument.format(**names) for argument in arguments]
    if "--device" not in given:
        given += ["--device", "cpu"]
    line = one_line(in_process("run", *([] if "--resume" in given else [suite]), *given))
    assert message.format(**names) in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]


@pytest.mark.parametrize("mistake", sorted(IN_A_WORKER))
def test_a_mistake_that_a_worker_starts_for(mistake, command):
    _, arguments, message = MISTAKES[mistake]
    suite = command.suite(SIZES)
    given = [argument.format(suite=suite, folder=command.folder) for argument in arguments]
    assert message in one_line(command("run", suite, "--backend", "naive", "--device", "cpu", *given))
    assert [path.name for path in command.folder.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("def f(:\n", ":f", "does not import: SyntaxError"),
        ("raise SystemExit(0)\n", ":f", "does not import: SystemExit: 0 (mine.py:1)"),
        ("import os; os._exit(3)\n", ":f", "no worker could start, the worker process exited with status 3"),
        ("import ctypes; ctypes.string_at(0)\n", ":f", "killed by SIGSEGV: Fatal Python error: Segmentation fault"),
        ("x = 1\n", "", "a module needs BACKENDS"),
        ("def naive(q, k, v, *, causal, softmax_scale): ...\n", ":naive", 'is named "naive" like a built-in'),
    ],
)
def test_a_plugin_that_does_not_import_is_a_mistake_too(command, text, spec, message):
    plugin = command.folder / "mine.py"
    plugin.write_text(text)
    done = command("run", command.suite(SIZES), "--device", "cpu", "--out", "out", "--plugin", f"{plugin}{spec}")
    assert message in one_line(done)
    assert not (command.folder / "out").exists()


def test_a_suite_may_name_a_plugin_of_a_module_but_nothing_unknown(command):
    plugin = ROOT / "tests" / "plugins_bad" / "misbehaving.py"
    suite = command.suite(SIZES, rest="backends: [naive, behave]\n")
    done = command("run", suite, "--device", "cpu", "--plugin", plugin, "--out", "out")
    assert 'unknown backend "behave" (did you mean "behaves"?)' in one_line(done)
    assert not (command.folder / "out").exists()


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a CUDA device")
def test_a_device_that_is_not_here_is_one_line(command):
    done = command("run", command.suite(SIZES), "--device", "cuda:3", "--out", "out")
    assert "sees no CUDA device; install a CUDA build, or use --device cpu" in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "name a suite, such as quick"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such suite file"),
        (["run", "."], "is a folder; name a suite file in it"),
        (["list", "backends", "--plugin", "nowhere.py:f"], 'plugin "nowhere.py:f": no file nowhere.py'),
        (["list", "things"], "'things' is not one of 'backends', 'suites', "),
        (["report", "nowhere"], "nowhere: no such run directory"),
        (["report"], "Missing argument 'RUN...'"),
        (["repro", "nowhere", "key", "naive"], "nowhere: no such run directory"),
        (["nothing"], "No such command 'nothing'"),
        (["--nothing"], "No such option"),
    ],
)
def test_mistakes_of_other_verbs(in_process, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in one_line(in_process(*arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_schema_is_refused_by_every_reader(in_process, tmp_path):
    run = write_run(tmp_path / "run", [ok("naive", 1e-3)])
    records = run / "records.jsonl"
    records.write_text(records.read_text().replace('"schema":1', '"schema":99'))
    before = records.read_bytes()
    for arguments in (["report", run], ["repro", run, "key", "naive"], ["run", "--resume", run]):
        told = one_line(in_process(*arguments), status=3)
        assert "schema 99; this version reads schema 1; read it with the version" in told
    assert records.read_bytes() == before


def test_repro_names_what_is_there(in_process, tmp_path):
    record = ok("naive", 1e-3)
    run = write_run(tmp_path / "run", [record])
    assert f'did you mean "{record.case_key}"' in one_line(in_process("repro", run, record.case_key + "0", "naive"))
    assert '(did you mean "naive"?)' in one_line(in_process("repro", run, record.case_key, "naiv"))


def test_no_suite_runs_where_another_has_no_place(in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(GROUP)
    run = write_run(tmp_path / "out" / "b", [ok("naive", 1e-3)])
    line = one_line(in_process("run", "a.yaml", "b.yaml", "--device", "cpu", "--out", "out"))
    assert "out/b exists and is not empty; choose another --out, or continue it with --resume out/b" in line
    assert list((tmp_path / "out").iterdir()) == [run]


@pytest.fixture
def requested(monkeypatch):
    """The requests that a command makes, instead of their running."""
    from attnbench.run.runner import Outcome

    made = []
    monkeypatch.setattr(
        "attnbench.cli.running.command.run_suite", lambda request: made.append(request) or Outcome(request.out)
    )
    return made


def test_resume_runs_the_backends_that_were_begun_and_no_others(in_process, requested, tmp_path):
    """A file of several, of which --backend had named one."""
    run = write_run(tmp_path / "run", [ok("naive", 1e-3)], {"device": "cpu", "plugins": ["mine.py"]})
    (run / "suite.yaml").write_text("backends: [second]\n" + GROUP)
    (tmp_path / "mine.py").write_text("")
    assert in_process("run", "--resume", run, "--plugin", tmp_path / "mine.py").returncode == 3
    (request,) = requested
    assert request.suite.backends == ("second",) and request.resume and not request.add_plugins
    more = ("--plugin", tmp_path / "mine.py", "--plugin", f"{FUNCTIONS}:slow")
    line = one_line(in_process("run", "--resume", run, *more))
    assert f"this run did not use --plugin {FUNCTIONS}:slow; leave it out, or name a backend of it too with --b" in line
    assert in_process("run", "--resume", run, *more, "--backend", "slow").returncode == 3
    assert requested[1].suite.backends == ("slow",) and requested[1].plugins[1] == f"{FUNCTIONS}:slow"


def test_what_an_interruption_left_unbegun_is_named(in_process, tmp_path, monkeypatch):
    from attnbench.run.runner import Outcome

    monkeypatch.chdir(tmp_path)
    for name in "abc":
        (tmp_path / f"{name}.yaml").write_text(GROUP)
    begun = []

    def run_suite(request):
        begun.append(request.out)
        return Outcome(request.out, interrupted=len(begun) == 2)

    monkeypatch.setattr("attnbench.cli.running.command.run_suite", run_suite)
    done = in_process("run", "a.yaml", "b.yaml", "c.yaml", "--device", "cpu", "--out", "out")
    assert done.returncode == 130 and [path.name for path in begun] == ["a", "b"]
    assert "go on with: attnbench run --resume out/b\n" in done.stdout and done.stdout.endswith("not begun: c\n")


def test_plugins_join_where_no_backend_is_named(in_process, requested, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("backends: [naive]\n" + GROUP)
    for given, joins in (((), True), (("--backend", "naive"), False)):
        in_process("run", "s.yaml", "--device", "cpu", "--plugin", f"{FUNCTIONS}:slow", *given)
        assert requested[-1].add_plugins is joins and requested[-1].suite.backends == ("naive",)
        plan = in_process("run", "s.yaml", "--dry-run", "--plugin", f"{FUNCTIONS}:slow", *given).stdout
        assert plan.startswith("s: 1 cases; backends: naive" + (", slow\n" if joins else "\n"))


def test_resume_stays_on_its_machine(in_process, tmp_path, monkeypatch):
    run = write_run(tmp_path / "cpu", [ok("naive", 1e-3)], {"device": "cpu", "cpu": {"model": "i486"}})
    (run / "suite.yaml").write_text(GROUP)
    assert "this run was begun on i486, and here is " in one_line(in_process("run", "--resume", run))
    found = [SimpleNamespace(name=name) for name in ("K80", "H100")]
    monkeypatch.setattr("attnbench.cli.running.command.gpus", lambda: found)
    run = write_run(tmp_path / "cuda", [ok("naive", 1e-3)], {"device": "cuda:1", "gpu": {"name": "H200"}})
    (run / "suite.yaml").write_text(GROUP)
    assert "was begun on H200, and here is H100; begin a run of its own" in one_line(in_process("run", "--resume", run))


def test_resume_goes_on_where_it_began(in_process, tmp_path):
    environment = {"device": "cuda:0"}
    run = write_run(tmp_path / "run", [ok("naive", 1e-3)], environment)
    (run / "suite.yaml").write_text(GROUP)
    line = one_line(in_process("run", "--resume", run, "--device", "cpu"))
    assert "this run was begun on cuda:0, not on cpu; leave out --device cpu" in line
    line = one_line(in_process("run", "--resume", run, "quick"))
    assert 'is a run of suite "suite", not of "quick"; name no suite with --resume' in line


def test_dry_run_prints_the_cases_and_writes_nothing(in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("backends: [naive]\n" + group(SIZES.replace("seqlen: 64", "seqlen: [64, 1k]")))
    done = in_process("run", "s.yaml", "--dry-run", "--plugin", f"{FUNCTIONS}:slow", "--only", "seqlen=1k")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines() == [
        "s: 1 cases; backends: naive, slow",
        "a  bf16-d64-h4-b1-q1024-k1024-full-normal.0",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_list_names_plugins_without_importing_them(in_process, tmp_path):
    bomb = tmp_path / "bomb.py"
    bomb.write_text("raise SystemExit('imported')\n")
    done = in_process("list", "backends", "--plugin", f"{bomb}:boom")
    assert done.returncode == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "plugin, not imported" in rows["boom"] and "available (torch" in rows["naive"]
    if not __import__("torch").cuda.is_available():
        assert "not here: " in rows["fa2"]


def test_backends_are_listed_where_torch_is_missing(in_process, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = in_process("list", "backends")
    assert done.returncode == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    for name in ("naive", "cpu_flash", "fp8_emulated", "fp8_baseline"):
        assert 'not here: torch is not installed; get it with: pip install "torch' in rows[name]


@pytest.mark.parametrize(("what", "names"), [("suites", "quick"), ("inputs", "needle"), ("metrics", "tflops")])
def test_lists(in_process, what, names):
    done = in_process("list", what)
    assert done.returncode == 0 and names in done.stdout.lower()


def test_an_output_that_nobody_reads_is_an_interruption():
    """`attnbench ... | head`: exit status 1 would mean an incorrect result."""
    read, write = os.pipe()
    os.close(read)
    arguments = [sys.executable, "-m", "attnbench", "list", "backends"]
    done = subprocess.run(arguments, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert (done.returncode, done.stderr) == (130, "attnbench: interrupted: nobody reads the output any more\n")


IMPORTED = """
import sys
sys.argv = ["attnbench", *{arguments!r}]
from attnbench.cli.verbs import main
try:
    main()
finally:
    print(sorted(set({names!r}) & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--help"], ("torch", "pydantic", "pandas", "numpy", "matplotlib", "yaml", "rich")),
        (["run", "--help"], ("torch", "pydantic", "pandas", "numpy", "matplotlib", "yaml", "rich")),
        (["list", "backends"], ("torch", "triton", "pydantic", "pandas", "numpy", "matplotlib")),
        (["list", "suites"], ("torch", "triton", "pydantic", "pandas", "numpy", "matplotlib")),
        (["list", "inputs"], ("torch", "triton", "pandas", "numpy", "matplotlib")),
        (["list", "metrics"], ("torch", "triton", "pandas", "numpy", "matplotlib")),
        (["run", "quick", "--dry-run"], ("torch", "triton", "pandas", "numpy", "matplotlib")),
        (["schema"], ("torch", "triton", "pandas", "numpy", "matplotlib")),
    ],
)
def test_the_reading_half_imports_nothing_heavy(arguments, names):
    code = IMPORTED.format(names=names, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout
    assert done.stderr == "[]\n"


def test_python_m_is_the_same_program(command):
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, "attnbench, version 0.1.0\n")
    helped = command("--help")
    assert helped.returncode == 0 and helped.stdout.startswith("Usage: attnbench [OPTIONS] COMMAND")


VERBS = ("run", "list", "report", "claims", "compare", "gate", "ab", "doctor", "selftest", "kernels", "repro", "schema",
         "behaviour", "judge")  # fmt: skip


@pytest.mark.parametrize("verb", [*VERBS, "kernels build", "kernels inspect"])
def test_every_verb_helps_with_an_example(in_process, verb):
    done = in_process(*verb.split(), "--help")
    assert done.returncode == 0 and f"Example: attnbench {verb}" in done.stdout


def test_the_list_of_verbs_is_whole_and_no_line_of_it_is_cut(in_process):
    for group, verbs in (((), VERBS), (("kernels",), ("build", "inspect"))):
        listed = in_process(*group, "--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
        assert {line.split()[0] for line in listed.splitlines()} == set(verbs)
        assert all(line.endswith((".", "?")) and not line.endswith("...") for line in listed.splitlines())


def test_called_bare_it_shows_its_help(in_process):
    done = in_process()
    assert done.returncode in (0, 2) and "Commands:" in done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(command, shell):
    done = command("", env={"_ATTNBENCH_COMPLETE": f"{shell}_source"})
    assert done.returncode == 0 and "attnbench" in done.stdout
    if shell == "bash":
        words = {"_ATTNBENCH_COMPLETE": "bash_complete", "COMP_WORDS": "attnbench run --backend na", "COMP_CWORD": "3"}
        assert "plain,naive" in command(env=words).stdout
        words["COMP_WORDS"], words["COMP_CWORD"] = "attnbench run qui", "2"
        assert "plain,quick" in command(env=words).stdout
