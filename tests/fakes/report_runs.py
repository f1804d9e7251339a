"""Hand-made runs for the tests of everything that reads records: small, exact, without randomness."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnbench.case import Case
from attnbench.records.measurement import Block, Measurement
from attnbench.records.record import Accuracy, Check, Record

H200 = {
    "attnbench": {"version": "0.1.0", "revision": "0123456789abcdef", "dirty": False},
    "cpu": {"model": "Xeon 8480C", "cores": 26},
    "memory_bytes": 256 * 2**30,
    "gpu": {
        "name": "NVIDIA H200", "compute_capability": [9, 0], "sm_count": 132, "l2_bytes": 50 * 2**20,
        "power_limit_w": 700, "max_sm_clock_mhz": 1980,
    },
    "versions": {"torch": "2.13.0", "triton": "3.7.1"},
    "sentinels": {"gemm_flops_per_s": 750e12},
}  # fmt: skip
LAPTOP = {"cpu": {"model": "Laptop CPU", "cores": 2}, "gpu": None, "versions": {"torch": "2.13.0"}}


def case(**fields: Any) -> Case:
    return Case.make(**{"batch": 4, "seqlen": 4096, "num_heads": 16, "head_dim": 128, **fields})


def accuracy(rmse: float = 2e-3, limit: float = 3e-3, **values: float) -> Accuracy:
    """As the judge gives it; fails when rmse is over its limit."""
    failed = rmse > limit
    checks = (
        Check("non-finite outputs", 0, 0, True),
        Check("max error", 10 * rmse, 15 * limit, 10 * rmse <= 15 * limit),
        Check("relative RMSE", rmse, limit, not failed),
        Check("worst row's relative RMSE", 3 * rmse, 4 * limit, 3 * rmse <= 4 * limit),
    )
    return Accuracy("full", 1024, checks, {"bias": 1e-6, "eager_rmse": limit / 1.5, **values}, "last buffers")


def measurement(time_s: float, **fields: Any) -> Measurement:
    """Thirty samples around time_s: 1 % apart at most, the median exactly time_s."""
    samples = tuple(time_s * (1 + 0.005 * (-1) ** index * (1 + index // 2) / 15) for index in range(30))
    timing = {"timer": "events", "regime": "sustained", "cache": "cold", "calls_per_sample": 1, "converged": True}
    unmet = () if fields.get("converged", True) else ("18 of 30 samples",)
    return Measurement(**{"blocks": (Block(samples, 30),), **timing, "unmet": unmet, **fields})


def ok(backend: str, time_s: float | None, values: Accuracy | None = None, timing: dict | None = None,
       warnings: Sequence[str] = (), **fields: Any) -> Record:  # fmt: skip
    """A passed record; timed unless time_s is None."""
    timed = None if time_s is None else measurement(time_s, **(timing or {}))
    return Record(case(**fields), backend, "1.0", "ok", accuracy=values or accuracy(), measurement=timed,
                  warnings=tuple(warnings))  # fmt: skip


def incorrect(backend: str, cause: str = "", error_map: Sequence[str] = (), **fields: Any) -> Record:
    reason = "relative RMSE 0.04, limit 0.003 at batch 0, head 3, row 17"
    reason += f"; likely cause: {cause}" if cause else ""
    found = replace(accuracy(rmse=0.04), error_map=tuple(error_map))
    return Record(case(**fields), backend, "1.0", "incorrect", reason="\n".join((reason, *error_map)), accuracy=found)


def unsupported(backend: str, reason: str, **fields: Any) -> Record:
    return Record(case(**fields), backend, "1.0", "unsupported", reason=reason)


def failed(backend: str, kind: str, reason: str, **fields: Any) -> Record:
    return Record(case(**fields), backend, "1.0", "error", kind=kind, reason=reason)


def write_run(path: Path, records: Sequence[Record], environment: dict[str, Any] = H200, name: str = "made") -> Path:
    """A run directory as the store writes it."""
    path.mkdir(parents=True)
    (path / "environment.json").write_text(json.dumps(environment))
    (path / "suite.yaml").write_text(f"name: {name}\n")
    (path / "records.jsonl").write_text("".join(record.to_json() + "\n" for record in records))
    return path
