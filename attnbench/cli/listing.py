"""`attnbench list`: what there is. Reads no torch and imports no plugin; each list imports only what it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence


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
    return _columns(rows)


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


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Left-aligned columns, the last one as long as it is."""
    if not rows:
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip()


LISTINGS: Mapping[str, Callable[[Sequence[str]], Iterator[str]]] = {
    "backends": list_backends,
    "suites": list_suites,
    "inputs": list_inputs,
    "probes": list_probes,
    "metrics": list_metrics,
}
