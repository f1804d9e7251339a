"""What the documentation names exists, what it shows runs, and what it lists is complete."""

import ast
import dataclasses
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import typing
import zlib
from functools import cache
from pathlib import Path

import click
import pytest
import yaml
from paths import ROOT

from attnbench import backend as protocol
from attnbench import check, load, plugins
from attnbench.backends import builtin
from attnbench.behaviour.table import MARK as BEHAVIOUR_MARK
from attnbench.case import DEFAULTS, FIELDS, REQUIRED, RESERVED, SCALINGS, Case
from attnbench.claims.page import MARK
from attnbench.cli import main
from attnbench.cli.group import FAULT, INCOMPLETE, INTERRUPTED, USAGE_ERROR
from attnbench.compare.gate import GRAVITY
from attnbench.records.measurement import Block, Conditions, Measurement, PrepTiming
from attnbench.records.metrics import METRICS
from attnbench.records.record import KINDS, STATUSES, Accuracy, Check, Record
from attnbench.run.runner import STATUS_MEANS
from attnbench.settings import Checks, Factors, Timing
from attnbench.suite.load import parse_suite
from attnbench.suite.schema import Exclude, SuiteModel
from attnbench.timing import conditions, stopping, timers

TOP = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*TOP, *SITE, *sorted((ROOT / "kernels").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "reference"
README_LINES = 150
COLUMNS = 120
# Committed run with a measured and an unsupported record, an environment and sentinels.
RUN = ROOT / "results" / "2026-11-26-quick-cpu"
# Where paths of pages begin: at the top, and for headers where the compiler looks.
PLACES = [ROOT, ROOT / "kernels" / "include", ROOT / "kernels" / "emulation" / "include"]
# Files that a step on a Hopper machine makes.
MADE_LATER = {"tests/golden/hopper.npz"}
# What of the case fields' defaults follows from other fields, as the page says it.
FOLLOWS = {"num_heads_kv": "as `num_heads`", "head_dim_v": "as `head_dim`", "softmax_scale": "head_dim**-0.5",
           "kv_dtype": "as `dtype`"}  # fmt: skip
PATH = re.compile(r"(?:(?:attnbench|suites|tests|kernels|docs|benchmarks|reports)/|results/\d{4}-\d\d-\d\d)[\w./*-]*")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


class Page:
    """A markdown file in parts. code: (language or "", text) of each block, fenced or indented; prose: the rest."""

    def __init__(self, path: Path):
        self.code: list[tuple[str, str]] = []
        prose: list[str] = []
        block: list[str] | None = None
        language = ""
        for line in path.read_text().splitlines():
            if line.startswith("```") and block is None:
                block, language = [], line[3:].strip()
            elif line.startswith("```"):
                self.code.append((language, "\n".join(block) + "\n"))
                block = None
            elif block is not None:
                block.append(line)
            elif line.startswith("    ") and (not prose or not prose[-1].strip()):
                self.code.append(("", line[4:] + "\n"))
            else:
                prose.append(line)
        assert block is None, f"{path}: a fence that is not closed"
        self.prose = "\n".join(prose)
        self.spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", self.prose)]
        self.links = re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`]+`", "", self.prose))
        self.headings = [line.lstrip("#").strip() for line in prose if re.match(r"#{1,6} ", line)]

    def section(self, heading: str) -> str:
        """What stands under a heading, up to the next one of any level. Raises where there is none."""
        found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", self.prose, re.MULTILINE | re.DOTALL)
        assert found, f"no section {heading!r}"
        return found[1]

    def rows(self, heading: str, table: int = 0) -> list[list[str]]:
        """The cells of a section's table, without its head."""
        tables = re.findall(r"(?:^\|.*\n?)+", self.section(heading), re.MULTILINE)
        lines = tables[table].strip().splitlines()[2:]
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in lines]

    def names(self, heading: str, table: int = 0) -> list[str]:
        """The code in the first column of a section's table, in order; each stands there once."""
        found = [name for row in self.rows(heading, table) for name in re.findall(r"`([^`]+)`", row[0])]
        assert len(found) == len(set(found)), found
        return found


@cache
def page_of(path: Path) -> Page:
    return Page(path)


def anchors(headings: list[str]) -> set[str]:
    """Those that both GitHub and the site make of headings: where the two differ, no link may lead."""
    plain = [re.sub(r"[`*]", "", heading).lower() for heading in headings]
    github = {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in plain}
    site = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip()) for text in plain}
    return github & site


@each_page
def test_every_link_leads_somewhere(page):
    for link in page_of(page).links:
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: no such file"
        assert page not in SITE or target in SITE, f"{link}: pages of the site link to each other only"
        if anchor:
            assert anchor in anchors(page_of(target).headings), f"{link}: no such heading"


def test_links_are_found_and_judged(tmp_path):
    """The check itself: what it must find, and what it must refuse."""
    path = tmp_path / "page.md"
    path.write_text("# A `b` c\n\n[to\nit](x.md#a-b-c) `[no](link)`\n\n    [no](code)\n\n```text\n[no](code)\n```\n")
    assert page_of(path).links == ["x.md#a-b-c"] and anchors(page_of(path).headings) == {"a-b-c"}
    assert anchors(["1 - 2"]) == set()


def exists(place: Path, word: str) -> bool:
    return any(place.glob(word)) if "*" in word else (place / word).exists()


@each_page
def test_every_path_exists(page):
    for span in page_of(page).spans:
        word = span.split()[0]
        if PATH.fullmatch(word) and word not in MADE_LATER:
            assert any(exists(place, word) for place in PLACES), f"`{span}`: no such file"


def test_paths_are_recognized():
    for path in ("attnbench/case.py", "kernels/fwd_*.cu", "suites/", "tests/docs/test_docs.py", "results/2026-11-26-x"):
        assert PATH.fullmatch(path), path
    for other in ("attnbench.case", "results/gpu/<step>", "attnbench/backends/<name>.py", "kernels.py/x y"):
        assert not PATH.fullmatch(other), other


def commands_in(page: Page) -> list[list[str]]:
    """The words behind `attnbench` of every command line that is shown."""
    shown = [line for language, text in page.code if language in ("", "yaml", "sh") for line in text.splitlines()]
    shown += page.spans
    found = []
    for line in shown:
        for text in re.findall(r"(?:^|[\s/(])attnbench((?: +[^\s;|>&()]+)+)", re.sub(r"\s#.*", "", line)):
            quotes = text.count('"') % 2 or text.count("'") % 2
            found.append(text.split() if quotes else shlex.split(text))
    return found


def refuse_wrong_command(words: list[str]) -> None:
    """Raises AssertionError where a verb, an option or a choice does not exist."""
    command: click.Command = main
    words = [word.strip("[],") for word in words]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no verb {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    options = {name: option for option in command.params if isinstance(option, click.Option) for name in option.opts}
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    words = iter(words)
    for word in words:
        if word in ("-h", "--help") or (word == "--version" and command is main):
            continue
        if word.startswith("-"):
            assert word in options, f"{command.name} has no option {word}"
            if not options[word].is_flag:
                next(words, None)
        elif arguments and isinstance(arguments[0].type, click.Choice):
            assert word in arguments[0].type.choices, f"{command.name} takes no {word}"
        else:
            assert arguments or word == "options", f"{command.name} takes no argument {word}"


@each_page
def test_every_command_exists(page):
    for words in commands_in(page_of(page)):
        refuse_wrong_command(words)


def test_commands_are_found_and_judged(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("`attnbench run\nquick`, attnbench checks\n\n    attnbench gate A B --margin 1%   # so\n\n"
                    "```yaml\nrun: for i in 1; do .venv/bin/attnbench run x --out b/$i; done\n```\n")  # fmt: skip
    assert commands_in(Page(path)) == [["gate", "A", "B", "--margin", "1%"], ["run", "x", "--out", "b/$i"],
                                       ["run", "quick"]]  # fmt: skip
    for wrong in ("walk", "run --backends x", "list things", "kernels make", "kernels build --all", "doctor now"):
        with pytest.raises(AssertionError):
            refuse_wrong_command(wrong.split())
    for right in ("run x --only a=b", "kernels inspect --json", "list [backends, suites]", "report -o x", "--version"):
        refuse_wrong_command(right.split())
    assert sum(len(commands_in(page_of(page))) for page in PAGES) > 50


MAKEFILE = (ROOT / "Makefile").read_text() + (ROOT / "kernels" / "gpu.mk").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def makes_in(page: Page) -> list[list[str]]:
    lines = [line for _, text in page.code for line in text.splitlines()] + page.spans
    return [re.sub(r"\s#.*", "", line).split()[1:] for line in lines if re.match(r"make( |$)", line)]


@each_page
def test_every_make_target_exists(page):
    for words in makes_in(page_of(page)):
        for word in words:
            variable, equals, _ = word.partition("=")
            known = re.search(rf"\b{variable}\b", MAKEFILE) if equals else word in TARGETS
            assert known, f"make {' '.join(words)}: no {word}"


def test_make_targets_are_found():
    assert {"run", "test", "gpu"} <= TARGETS and "running" not in TARGETS
    assert ["run", "TORCH_INDEX=<address>"] in makes_in(page_of(ROOT / "README.md"))


@each_page
def test_every_dotted_name_exists(page):
    for span in page_of(page).spans:
        name = re.match(r"attnbench(?:\.[A-Za-z_]\w*)+", span)
        if name:
            refuse_wrong_name(name[0])


def refuse_wrong_name(name: str) -> None:
    """Raises AssertionError unless it is a module, or something in one."""
    parts = name.split(".")
    inside = [parts.pop()] if not is_module(parts) else []
    assert is_module(parts), f"no module {'.'.join(parts)}"
    if inside:
        assert hasattr(importlib.import_module(".".join(parts)), inside[0]), name


def is_module(parts: list[str]) -> bool:
    place = ROOT.joinpath(*parts)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def test_dotted_names_are_judged():
    for right in ("attnbench.case", "attnbench.load", "attnbench.backends.naive", "attnbench.case.Case"):
        refuse_wrong_name(right)
    for wrong in ("attnbench.nothing", "attnbench.case.nothing", "attnbench.nothing.at"):
        with pytest.raises(AssertionError):
            refuse_wrong_name(wrong)


@pytest.mark.parametrize("path", [*PAGES, ROOT / "Makefile", ROOT / "kernels" / "gpu.mk"], ids=name_of)
def test_every_module_that_is_started_exists(path):
    for module in started_in(path):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def started_in(path: Path) -> list[str]:
    return re.findall(r" -m ((?:attnbench|benchmarks)[\w.]*)", path.read_text())


def test_started_modules_are_found():
    assert {"attnbench", "benchmarks.quantize_kernel"} <= set(started_in(ROOT / "kernels" / "gpu.mk"))


def test_the_stops_of_a_case_have_their_functions():
    stops = page_of(ROOT / "ARCHITECTURE.md").rows("The eight stops of a case")
    assert len(stops) == 8
    for stop, path, functions, _ in stops:
        text = (ROOT / path.strip("`")).read_text()
        assert f"attnbench/{stop}/" in path
        for function in re.findall(r"`(?:\w+\.)?(\w+)`", functions):
            assert re.search(rf"def {function}\(", text), f"{path}: no {function}"


# ---- Examples


def examples(language: str) -> list:
    found = [(name_of(page), text) for page in PAGES for lang, text in page_of(page).code if lang == language]
    return [pytest.param(text, id=f"{page}-{number}") for number, (page, text) in enumerate(found)]


@pytest.mark.parametrize("text", examples("yaml"))
def test_yaml_examples_load(text):
    value = yaml.safe_load(text)
    if "jobs" in value:  # a workflow
        assert all(step.get("run") or step.get("uses") for job in value["jobs"].values() for step in job["steps"])
    else:
        assert parse_suite(text, "example.yaml").jobs()


@pytest.mark.parametrize("text", examples("python"))
def test_python_examples_run(text, capsys):
    """All but the plugins, which have a test of their own, and the one that is a test."""
    ast.parse(text)
    if "from mine import" in text:
        return
    names = {"__name__": "example"}
    exec(compile(text.replace("results/RUN", str(RUN)), "example", "exec"), names)
    if "class Backend" in text:
        shown = {name for name in vars(names["Backend"]) if not name.startswith("_")}
        shown |= set(names["Backend"].__annotations__)
        real = {name for name in vars(protocol.Backend) if not name.startswith("_")}
        assert shown == real | set(protocol.Backend.__annotations__)
    if "load(" in text:
        assert "cpu_flash" in capsys.readouterr().out


def test_there_are_examples():
    assert len(examples("yaml")) >= 3 and len(examples("python")) >= 6


SMALL = "groups: [{name: one, axes: {batch: 1, num_heads: 4, head_dim: 16, %s}}]\ntiming: {max_time_s: 1}\n"


@pytest.fixture
def function_of(small):
    """Writes a plugin with a function `mine`; gives what judges it on one tiny case of these axes."""

    def load_function(path, text):
        edited = path.with_name(f"mine_{zlib.crc32(text.encode())}.py")  # a file is imported once
        edited.write_text(text)
        (backend,) = plugins.load([f"{edited}:mine"]).values()
        return lambda axes: check(backend, small(axes))[0].status == "ok"

    return load_function


@pytest.fixture
def small(tmp_path):
    """The path of a suite of one tiny case of these axes."""

    def write(axes):
        path = tmp_path / "small.yaml"
        path.write_text(SMALL % axes)
        return str(path)

    return write


def plugin(tmp_path, first_line):
    """The plugin file that the page about kernels of one's own shows."""
    (text,) = {text for page in PAGES for _, text in page_of(page).code if text.startswith(f"# {first_line}\n")}
    path = tmp_path / first_line
    path.write_text(text)
    return path


def test_the_function_is_right_and_wrong_where_the_page_says_so(tmp_path, function_of):
    path = plugin(tmp_path, "mine.py")
    right = path.read_text()
    assert function_of(path, right)("seqlen: 33, causal: true, num_heads_kv: 2")
    assert function_of(path, right)("seqlen_q: 40, seqlen_k: 33, causal: true"), "rows that see no key, too"
    for left_out, instead, shape, message in (
        ("attn_mask=mask", "is_causal=causal", "seqlen_q: 4, seqlen_k: 33, causal: true", "causal is aligned top left"),
        (", enable_gqa=True", "", "seqlen: 33, num_heads_kv: 2", "exception"),
    ):
        assert right.count(left_out) == 1
        with pytest.raises(AssertionError, match=message):
            function_of(path, right.replace(left_out, instead))(shape)


def test_the_first_command_ends_well(tmp_path, command):
    """README's own kernel on every bf16 case of `quick`, short and not timed."""
    path = plugin(tmp_path, "mine.py")
    words = next(words for words in commands_in(page_of(ROOT / "README.md")) if "mine.py:mine" in words)
    assert words[:2] == ["run", "quick"] and words[words.index("--only") + 1] == "dtype=bf16"
    shorter = ["--axis", "seqlen=48", "--no-time", "--backend", "mine", "--device", "cpu", "--out", tmp_path / "run"]
    done = command(*[f"{path}:mine" if word == "mine.py:mine" else word for word in words], *shorter)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = load(tmp_path / "run")
    assert set(kept.status) == {"ok"} and set(kept.num_heads_kv) == {1, 2, 3, 4}


def test_the_test_on_the_page_runs(tmp_path):
    """docs/how-to/in-your-tests.md, with README's kernel, on the cases of grouped heads."""
    plugin(tmp_path, "mine.py")
    text = next(
        text for _, text in page_of(ROOT / "docs" / "how-to" / "in-your-tests.md").code if "parametrize" in text
    )
    (tmp_path / "test_mine.py").write_text(text)
    asked = ["-v", "-k", "q203", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-c", "/dev/null"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *asked, tmp_path / "test_mine.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_mine.py::test_mine[bf16-d64-h6.2-b3-q203-k203-causal-normal.0] PASSED" in done.stdout


def test_the_class_is_a_backend(tmp_path, small):
    (backend,) = plugins.load([str(plugin(tmp_path, "kernels_of_mine.py"))]).values()
    (record,) = check(backend, small("seqlen: 33, causal: true"))
    assert (record.backend, record.status) == ("mine", "ok")
    for refused in ("seqlen: 33, dtype: e4m3", "seqlen_q: 4, seqlen_k: 33", "seqlen: 33, num_heads_kv: 1"):
        with pytest.raises(AssertionError, match="took none of 1 cases"):
            check(backend, small(refused))


# ---- Completeness of the reference


def shown_default(value) -> str:
    """A default as the tables show it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{value}`"
    return str(value)


SUITE = page_of(REFERENCE / "suite-format.md")


def test_every_case_field_is_documented():
    rows = {row[0].strip("`"): row[1:] for row in SUITE.rows("Case fields")}
    assert sorted(rows) == sorted(FIELDS)
    for name, (default, values) in rows.items():
        expected = (
            "required" if name in REQUIRED else FOLLOWS.get(name) or shown_default(DEFAULTS[name]).removesuffix(".0")
        )
        assert default == expected, name
        if name == "scaling":
            assert re.findall(r"`(\w+)`", values) == list(SCALINGS)
    assert all(f"`{name}`" in SUITE.section("Case fields") for name in RESERVED)


@pytest.mark.parametrize(("heading", "model"), [("Timing", Timing), ("Checks", Checks), ("Factors", Factors)])
def test_every_setting_is_documented_with_its_default(heading, model):
    rows = {row[0].strip("`"): row[1] for row in SUITE.rows(heading)}
    assert list(rows) == list(model.model_fields)
    for name, field in model.model_fields.items():
        if isinstance(field.default, (bool, int, float, str)):
            number = isinstance(field.default, float) and heading != "Factors"
            assert rows[name] == (f"{field.default:g}" if number else shown_default(field.default)), name


def test_every_key_of_a_suite_and_of_a_group_is_documented():
    (group,) = typing.get_args(SuiteModel.model_fields["groups"].annotation)
    assert sorted(SUITE.names("Top level")) == sorted(SuiteModel.model_fields)
    assert sorted(SUITE.names("Groups")) == sorted(group.model_fields)
    assert all(f"{name}: " in SUITE.section("Groups") for name in Exclude.model_fields)


def test_every_shipped_suite_is_described():
    described = page_of(ROOT / "docs" / "how-to" / "write-a-suite.md").names("Suites that ship")
    assert sorted(described) == sorted(name_of(path) for path in (ROOT / "suites").glob("*.yaml"))


RECORDS = page_of(REFERENCE / "run-directory.md")


def fields(kind) -> list[str]:
    return sorted(field.name for field in dataclasses.fields(kind))


def test_every_key_of_a_record_is_documented():
    assert sorted(RECORDS.names("A record")) == sorted({*fields(Record), "case_key"})
    assert sorted(RECORDS.names("Accuracy", 0)) == fields(Accuracy)
    assert all(f"`{name}`" in RECORDS.section("Accuracy") for name in fields(Check))
    assert sorted(RECORDS.names("Measurement")) == fields(Measurement)
    assert all(f"`{name}`" in RECORDS.section("Measurement") for name in fields(PrepTiming))
    assert sorted(RECORDS.names("A block")) == fields(Block)
    assert sorted(RECORDS.names("Conditions")) == fields(Conditions)
    assert RECORDS.names("Status, kind, reason", 0) == list(STATUSES)
    assert RECORDS.names("Status, kind, reason", 1) == list(KINDS)


def lines_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (RUN / name).read_text().splitlines()]


def test_what_a_real_run_holds_is_documented():
    """Keys that no dataclass names: of the accuracy's values, the environment and the sentinels."""
    documented = set(RECORDS.names("Accuracy", 1))
    rows = lines_of("records.jsonl")
    held = {name for row in rows if row["accuracy"] for name in row["accuracy"]["values"]}
    assert held and held <= documented
    assert set(json.loads((RUN / "environment.json").read_text())) <= set(RECORDS.names("environment.json"))
    held = {name for row in lines_of("sentinels.jsonl") for name in row}
    assert "gemm_flops_per_s" in held and held <= set(RECORDS.names("sentinels.jsonl"))


def test_every_flag_is_documented():
    flags = {value for module in (conditions, stopping, timers) for name, value in vars(module).items()
             if name.isupper() and isinstance(value, str) and value == name.lower()}  # fmt: skip
    assert {"power_capped", "unblocked"} <= flags and sorted(RECORDS.names("Flags")) == sorted(flags)


def test_the_example_keys_are_keys():
    common = {"batch": 1, "seqlen": 512, "num_heads": 4, "head_dim": 128, "causal": True}
    long = Case.make(**{**common, "batch": 4, "seqlen": 4096, "num_heads": 16, "num_heads_kv": 4})
    rotated = Case.make(**common, dtype="e4m3", inputs="outliers", hadamard=True)
    assert {long.key, rotated.key} <= {span for span in RECORDS.spans if "-" in span}


COMMANDS = page_of(REFERENCE / "cli.md")


def verbs(group: click.Group = main, before: str = "attnbench") -> dict[str, click.Command]:
    found = {}
    for name, command in group.commands.items():
        inner = isinstance(command, click.Group)
        found |= verbs(command, f"{before} {name}") if inner else {f"{before} {name}": command}
    return found


def test_every_verb_and_option_is_documented():
    assert [name for name in COMMANDS.headings if name.startswith("attnbench ")] != []
    assert {name for name in COMMANDS.headings if name.startswith("attnbench ")} == set(verbs())
    for heading, command in verbs().items():
        options = {name for one in command.params if isinstance(one, click.Option) for name in one.opts}
        section = COMMANDS.section(heading)
        rows = COMMANDS.rows(heading) if "\n|" in section else []
        shown = {name.split()[0] for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
        assert shown == options, heading


def test_every_exit_status_is_documented():
    shown = {int(row[0].strip("*")) for row in COMMANDS.rows("Exit statuses")}
    assert shown == {*STATUS_MEANS, *GRAVITY, USAGE_ERROR, INTERRUPTED, FAULT, INCOMPLETE}


def test_every_metric_is_documented():
    page = page_of(REFERENCE / "python-api.md")
    assert sorted(page.names("Metrics")) == sorted(metric.name for metric in METRICS)


def test_every_column_of_the_table_is_documented():
    section = page_of(REFERENCE / "python-api.md").section("attnbench.load")
    apart = {*FIELDS, *(metric.name for metric in METRICS)}
    columns = {name for name in load(RUN).columns if name not in apart and not re.match("(rule|limit|value)_", name)}
    assert "ci_low_s" in columns and columns <= set(re.findall(r"`(\w+)`", section))
    raw = page_of(REFERENCE / "python-api.md").section("Raw samples")
    assert set(load(RUN, samples=True).columns) - set(FIELDS) <= set(re.findall(r"`(\w+)`", raw))


MEMBERS = ("name", "deterministic", "version", "unavailable", "unsupported", "prepare")


def test_the_optional_members_of_a_backend_have_these_defaults():
    page = page_of(REFERENCE / "backend-protocol.md")
    for cell, default, _ in page.rows("Optional members"):
        name = cell.strip("`").partition("(")[0]
        if "(" not in cell:
            assert default.strip("`") == repr(getattr(protocol.Base, name)).replace("'", '"'), name
    members = {name for name in vars(protocol.Base) if not name.startswith("_")}
    described = {
        name.partition("(")[0]
        for name in (*page.names("Optional members"), *page.names("Members that nothing reads yet"), *MEMBERS)
    }
    assert {"devices", "own_quantizer", "prep_call"} <= members <= described


def test_every_backend_is_described():
    described = page_of(REFERENCE / "backend-protocol.md").names("Built-in backends")
    for name in builtin():
        assert name in described or f"{name.partition('[')[0]}[...]" in described, name
    for name in described:
        assert name in builtin() or name.endswith("[...]"), name


def test_a_term_of_the_glossary_is_defined_once_and_says_where():
    entries = re.findall(r"^- (.*?)(?=^- |^#|\Z)", page_of(REFERENCE / "glossary.md").prose, re.MULTILINE | re.DOTALL)
    terms = [term for entry in entries for bold in re.findall(r"\*\*(.+?)\*\*", entry) for term in bold.split(", ")]
    assert len(entries) > 80 and len(terms) == len(set(terms)), sorted(one for one in terms if terms.count(one) > 1)
    for entry in entries:
        assert re.search(r"`attnbench/[\w/]+\.py`", entry), entry


# ---- Form


def test_the_site_has_every_page():
    shown = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2])
    assert sorted(shown) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in SITE)


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", [*TOP, *SITE], ids=name_of)
def test_lines_are_not_long(page):
    """But of a page that a command writes: its tables have a line a row."""
    written = {
        "claims.md": MARK,
        "behaviour.md": BEHAVIOUR_MARK,
        "published-kernels.md": "<!-- Written by `make published` from run directories. -->",
    }
    if page.name in written:
        assert page.read_text().startswith(written[page.name])
        return
    assert [line for line in page.read_text().splitlines() if len(line) > COLUMNS] == []


def test_the_licence_is_the_one_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "BSD-3-Clause" and project["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("BSD 3-Clause License\n\nCopyright (c) 2026, the attnbench authors\n")
