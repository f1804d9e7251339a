"""Another record is written into the pipe to the parent, with times of its own."""

from __future__ import annotations

import sys
from typing import Any

from attnbench.selftest.cheats.plain import attention

TRUSTED = "gains"
ALONE = True
DONE: list[bool] = []


def forged_record(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    frame: Any = None if DONE else sys._getframe()
    while frame is not None:
        worker = frame.f_locals.get("self")
        if hasattr(worker, "_send") and not DONE:
            DONE.append(True)
            _forging(worker)
        frame = frame.f_back
    return attention(q, k, v, causal, softmax_scale)


def _forging(worker: Any) -> None:
    """Its messages say a third of every sample."""
    real = worker._send

    def send(event: Any) -> None:
        if type(event).__name__ == "RecordMade":
            event = event._replace(line=_quicker(event.line))
        real(event)

    worker._send = send


def _quicker(line: str) -> str:
    import json

    record = json.loads(line)
    if record["backend"] != forged_record.__name__:
        return line
    for block in (record.get("measurement") or {}).get("blocks", ()):
        block["samples_s"] = [sample / 3 for sample in block["samples_s"]]
    return json.dumps(record)
