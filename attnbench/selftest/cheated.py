"""`attnbench selftest --cheats`: kernels that want a better figure than they earn, run as any plugin is.

Each is timed in turns with an honest kernel that does the same work; one that comes out right and in much less time has
gained a false figure.
"""

from __future__ import annotations

import ast
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attnbench.messages import TRUSTED, UNTRUSTED
from attnbench.records import store
from attnbench.records.record import Record
from attnbench.run.runner import ALTERED, Request, Silent, run_suite
from attnbench.selftest.cheats.run_directory_edited import RUN
from attnbench.suite.load import parse_suite

FOLDER = Path(__file__).parent / "cheats"
NO_KINDS = ("__init__", "plain")
REFERENCE = "honest"
# Of the honest kernel's time, what no kernel that does the same work takes less of, on a busy machine either.
GAINS_BELOW = 0.6
NO_GAIN, GAINS, TOLD = "no gain", "gains", "told"
SUITE = """
name: cheats
groups: [{name: one, axes: {batch: 1, num_heads: 4, head_dim: 64, seqlen: 256, dtype: bf16, causal: false}}]
timing: {min_samples: 20, min_time_s: 0.05, max_time_s: 1, warmup_s: 0.05}
checks: {probes: []}
"""


@dataclass(frozen=True)
class Kind:
    """A file of cheats. trusted: its TRUSTED; backends: what it is to be judged by; honest: what must pass."""

    file: Path
    about: str
    trusted: str
    backends: tuple[str, ...]
    honest: tuple[str, ...]
    alone: bool

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def spec(self) -> str:
        """As `--plugin` takes it."""
        return str(self.file)


@dataclass(frozen=True)
class Finding:
    """What became of one backend. outcome: "no gain", "gains", "told" (at the end of the
    run), or the status or kind of its record."""

    kind: Kind
    backend: str
    outcome: str
    reason: str
    share: float | None  # of the honest kernel's time

    def expected(self, untrusted: bool) -> bool:
        if self.backend in self.kind.honest:
            return self.outcome == NO_GAIN
        return self.outcome != GAINS if untrusted else self.outcome == self.kind.trusted


def kinds() -> list[Kind]:
    """Read without importing any of them."""
    return [_kind(file) for file in sorted(FOLDER.glob("*.py")) if file.stem not in NO_KINDS]


def _kind(file: Path) -> Kind:
    tree = ast.parse(file.read_text())
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    honest = constants.get("HONEST")
    names = ast.literal_eval(honest) if honest is not None else ()
    about = " ".join((ast.get_docstring(tree) or "").split())
    trusted = ast.literal_eval(constants["TRUSTED"])
    return Kind(file, about, trusted, (file.stem,), tuple(names), "ALONE" in constants)


def run_cheats(say: Callable[[str], None]) -> int:
    """Runs every kind in both modes and says what became of it; 1 where one fared otherwise than it is known to."""
    wanted, strange, gained = kinds(), 0, list[str]()
    for untrusted in (False, True):
        say(f"{UNTRUSTED if untrusted else TRUSTED}: outcome, and its time as a share of the honest kernel's")
        for finding in findings(wanted, untrusted):
            expected = finding.expected(untrusted)
            strange += not expected
            gained += [finding.backend] if finding.outcome == GAINS and not untrusted else []
            share = "" if finding.share is None else f"{finding.share:.2f}"
            mark = "" if expected else f"  NOT AS EXPECTED: {finding.reason or finding.kind.trusted}"
            say(f"  {finding.backend:22} {finding.outcome:12} {share:>5}{mark}".rstrip())
    say(f"{len(wanted)} kinds; a false figure without --untrusted: {', '.join(gained) or 'none'}")
    return 1 if strange else 0


def findings(wanted: Sequence[Kind], untrusted: bool) -> Iterator[Finding]:
    """Those that leave others alone in one run, each other one in a run of its own."""
    together = [kind for kind in wanted if not kind.alone]
    for group in ([together] if together else []) + [[kind] for kind in wanted if kind.alone]:
        yield from _of_run(group, untrusted)


def _of_run(group: Sequence[Kind], untrusted: bool) -> Iterator[Finding]:
    specs = [f"{FOLDER / 'plain.py'}:{REFERENCE}", *(spec for kind in group for spec in _specs(kind))]
    with tempfile.TemporaryDirectory(prefix="attnbench-cheats-") as folder:
        out = Path(folder) / "run"
        names = [REFERENCE, *(name for kind in group for name in (*kind.backends, *kind.honest))]
        suite = replace(parse_suite(SUITE, "cheats"), backends=tuple(names))
        trust = UNTRUSTED if untrusted else TRUSTED
        request = Request(suite, "cpu", out, Silent(), tuple(specs), trust=trust)
        os.environ[RUN] = str(out)
        try:
            outcome = run_suite(request)
        finally:
            del os.environ[RUN]
        if any(ALTERED in told for told in outcome.incomplete):
            yield from (Finding(kind, name, TOLD, ALTERED, None) for kind in group for name in kind.backends)
            return
        records = {record.backend: record for record in store.read(out).records}
    reference_s = _median_s(records[REFERENCE])
    for kind in group:
        for name in (*kind.backends, *kind.honest):
            yield _finding(kind, name, records[name], reference_s)


def _specs(kind: Kind) -> Iterator[str]:
    text = kind.file.read_text()
    if "\nBACKENDS = " in text:
        yield kind.spec
        return
    for name in (*kind.backends, *kind.honest):
        yield f"{kind.spec}:{name}"


def _median_s(record: Record) -> float:
    assert record.measurement is not None, f"{record.backend} has no times: {record.reason}"
    return statistics.median(record.measurement.samples_s)


def _finding(kind: Kind, name: str, record: Record, reference_s: float) -> Finding:
    if record.status != "ok" or record.measurement is None:
        return Finding(kind, name, str(record.kind or record.status), record.reason, None)
    share = _median_s(record) / reference_s
    return Finding(kind, name, GAINS if share < GAINS_BELOW else NO_GAIN, record.reason, share)
