"""A thread waits for the records of the run and divides the times in them by ten."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from attnbench.selftest.cheats.plain import attention

TRUSTED = "told"
ALONE = True
# A plugin would look for the newest folder in results/.
RUN = "ATTNBENCH_CHEATED_RUN"
STARTED: list[threading.Thread] = []


def run_directory_edited(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    if not STARTED:
        STARTED.append(threading.Thread(target=_edit, args=(Path(os.environ.get(RUN, "results")),), daemon=True))
        STARTED[0].start()
    return attention(q, k, v, causal, softmax_scale)


def _edit(run: Path) -> None:
    records = run / "records.jsonl"
    while not (records.is_file() and "run_directory_edited" in records.read_text()):
        time.sleep(0.01)
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    for record in lines:
        for block in (record.get("measurement") or {}).get("blocks", ()):
            block["samples_s"] = [sample / 10 for sample in block["samples_s"]]
    records.write_text("".join(f"{json.dumps(record)}\n" for record in lines))
