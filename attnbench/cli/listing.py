"""`attnbench list`: what there is. Reads no torch and imports no plugin; each list imports only what it is about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from attnbench.screen import columns, wrapped

# What a state begins with: `available`, `not here`.
_STATE = re.compile(r"[:;]| \(")
# Wrapped lines of a last column begin no further right, or they would be single words.
MOST_MARGIN = 36


def list_backends(plugins: Sequence[str]) -> Iterator[str]:
    """One line a backend: its name, what it runs on, its version, or why it cannot run here."""

    from attnbench.backends import builtin
    from attnbench.plugins import announced_names, check_spec, installed_names

    for spec in plugins:
        check_spec(spec)
    rows = []
    for name, backend in builtin().items():
        reason = backend.unavailable()
        if reason:
            state = f"not here: {reason}"
        elif backend.emulated:  # which sources they are of, a record says: hashing them all takes too long for a list
            state = "available (in the CPU emulation)"
        else:
            state = f"available ({backend.version()})"
        named = backend.by_name_only
        if named and not reason:
            state += f"; on {' and '.join(named)} only where it is named"
        rows.append((name, ", ".join(backend.devices), state))
    rows += [(name, "", "plugin, not imported") for name in (*announced_names(plugins), *installed_names())]
    return _columns(rows, noted=True)


def list_suites(plugins: Sequence[str]) -> Iterator[str]:
    from attnbench.suite.load import shipped_suites

    return _columns([(name, about) for name, about, _ in shipped_suites()])


def list_inputs(plugins: Sequence[str]) -> Iterator[str]:
    from attnbench.reference.distributions import DISTRIBUTIONS

    rows = [(name, distribution.about) for name, distribution in DISTRIBUTIONS.items()]
    return _columns([*rows, ("FILE.safetensors", "q, k and v of your own, (batch, seqlen, heads, head_dim)")])


def list_probes(plugins: Sequence[str]) -> Iterator[str]:
    from attnbench.correctness.probes import PROBES

    return _columns([(probe.name, probe.about) for probe in PROBES.values()])


def list_metrics(plugins: Sequence[str]) -> Iterator[str]:
    from attnbench.records.metrics import METRICS

    return _columns([(metric.name, metric.unit, metric.about) for metric in METRICS])


def _columns(rows: Sequence[Sequence[str]], noted: bool = False) -> Iterator[str]:
    """Left-aligned columns, the last one as long as it is, or wrapped within itself where a terminal is narrower.

    noted: there, a text of the last column that several rows share stands once below them, under a number.
    """
    if not rows:
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    margin, width = sum(widths) + 2 * len(widths), columns()
    shared = _shared([row[-1] for row in rows], (width or 0) - margin) if noted and width else {}
    for row in rows:
        last = row[-1] if row[-1] not in shared else f"{_STATE.split(row[-1])[0]} ({shared[row[-1]]})"
        line = "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), last]).rstrip()
        yield from wrapped(line, " " * min(margin, MOST_MARGIN), width)
    for text, number in shared.items():
        yield from wrapped(f"({number}) {text}", " " * 4, width)


def _shared(texts: Sequence[str], room: int) -> dict[str, int]:
    """Numbers of the texts that are too long for their column and not alone."""
    often = [text for text, times in Counter(texts).items() if times > 1 and len(text) > room]
    return {text: number for number, text in enumerate(often, start=1)}


LISTINGS: Mapping[str, Callable[[Sequence[str]], Iterator[str]]] = {
    "backends": list_backends,
    "suites": list_suites,
    "inputs": list_inputs,
    "probes": list_probes,
    "metrics": list_metrics,
}
