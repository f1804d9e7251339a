"""The faults beside this file as backends, and what a suite's cases say of them."""

import importlib
import re
import sys
from pathlib import Path

from attnbench.plugins import FunctionBackend
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

FAULTS = Path(__file__).parent / "faults"
# What the faults are written with; no fault itself.
SHARED = "attention"


def fault_names():
    return sorted(path.stem for path in FAULTS.glob("*.py") if path.stem != SHARED)


def fault_module(name):
    if str(FAULTS) not in sys.path:
        sys.path.insert(0, str(FAULTS))
    return importlib.import_module(name)


def backend_of(name):
    module = fault_module(name)
    if hasattr(module, "BACKENDS"):
        return module.BACKENDS[0]
    return FunctionBackend(name, getattr(module, name), source="a report")


def pose(names, jobs):
    """By fault: its records of the jobs that it takes. Each job's inputs and references are made once."""
    records = {name: [] for name in names}
    for job in jobs:
        problem = Problem(job.case, "cpu", job.checks, job.timing, 0, Phases())
        for name in names:
            record = run_trial(problem, backend_of(name), timed=False)
            if record.status != "unsupported":
                records[name].append(record)
    return records


def caught(records):
    return [record for record in records if record.status != "ok"]


def cause_of(record):
    """What the record says is wrong: the likely cause, or what the contract or the kernel said."""
    return record.likely_cause or ("" if record.status == "incorrect" else record.reason.partition("\n")[0])


def is_right(name, cause):
    return any(re.search(pattern, cause) for pattern in fault_module(name).CAUSES)
