"""environment.json and sentinels.jsonl, checked at the door by pydantic: a fact is of its type, or it is left out.

As far as readers look into them; other keys are kept as they are, their texts printable and their numbers bounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError
from pydantic_core import from_json

from attnbench.records.json_values import checked
from attnbench.records.measurement import Count, RecordError
from attnbench.records.stored_record import mended
from attnbench.records.validation import Open, Rate, Share, first_mistake, kind_of, short, told


class _Cpu(Open):
    model: str | None = None
    cores: Count | None = None
    quota_cores: Share | None = None
    governor: str | None = None
    boost: bool | None = None
    load: Share | None = None
    virtual_machine: bool | None = None


class _Gpu(Open):
    name: str | None = None
    compute_capability: str | float | Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    sm_count: Count | None = None
    l2_bytes: Count | None = None
    memory_bytes: Count | None = None
    power_limit_w: Share | None = None
    default_power_limit_w: Share | None = None
    max_sm_clock_mhz: Share | None = None
    application_sm_clock_mhz: Share | None = None
    ecc: bool | None = None
    mig: bool | None = None
    mps: bool | None = None
    other_processes: Count | None = None
    driver: str | None = None
    cuda_driver: str | None = None
    fingerprint: str | None = None


class _Torch(Open):
    version: str | None = None


class _Threads(Open):
    intra_op: Count | None = None


class _Worker(Open):
    torch: _Torch | None = None
    threads: _Threads | None = None
    gpu: _Gpu | None = None
    cache_bytes: Count | None = None


class _Source(Open):
    version: str | None = None
    revision: str | None = None
    dirty: bool | None = None


class _Os(Open):
    distribution: str | None = None


class _Python(Open):
    version: str | None = None


class _Ceiling(Open):
    gemm_flops_per_s: Rate | None = None


class _Revision(Open):
    ref: str | None = None
    commit: str | None = None
    tree: str | None = None
    build: str | None = None


class _Interleaved(Open):
    session: str | None = None
    arm: str | None = None


class _Trust(Open):
    mode: str | None = None
    missing: list[str] | None = None


class Environment(Open):
    """environment.json, as far as readers look into it."""

    collected_utc: str | None = None
    device: Annotated[str, StringConstraints(pattern=r"^(cpu|cuda(:\d{1,4})?)$")] | None = None
    machine: str | None = None
    host: str | None = None
    cpu: _Cpu | None = None
    memory_bytes: Count | None = None
    gpu: _Gpu | None = None
    gpu_count: Count | None = None
    os: _Os | None = None
    python: _Python | None = None
    versions: dict[str, str | None] | None = None
    nvcc: str | None = None
    attnbench: _Source | None = None
    kernels: dict[str, str | None] | None = None
    worker: _Worker | None = None
    plugins: list[str] | None = None
    trust: _Trust | None = None
    suspect: bool | str | None = None
    sentinels: _Ceiling | None = None
    processes: Count | None = None
    revision: _Revision | None = None
    interleaved: _Interleaved | None = None
    resumed: list[Environment] | None = None


class Sentinel(Open):
    """One line of sentinels.jsonl."""

    role: str | None = None
    gemm_dtype: str | None = None
    gemm_flops_per_s: Rate | None = None
    copy_bytes_per_s: Rate | None = None
    clock_step_s: Annotated[float, Field(ge=-1e12, le=1e12)] | None = None
    error: str | None = None


def environment_facts(text: bytes) -> tuple[dict[str, Any], list[str]]:
    """(what is known, what is wrong with its line), of an environment.json: what is wrong is left out."""
    row, wrong = _json_object(text)
    if row is None:
        return {}, [wrong]
    facts: dict[str, Any] = {}
    problems = []
    for name, value in row.items():
        try:
            facts |= checked({name: value}, "")
        except ValueError as error:
            problems.append(f"{_line_of(text, (name,))}: {str(error).removeprefix('.')}, left out")
    try:
        Environment.model_validate(facts)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False)
        # One problem a place: a union has a mistake for each of its branches. The last first, or places would move.
        found = {_held(facts, mistake["loc"]): mistake for mistake in reversed(mistakes)}
        problems += [f"{_line_of(text, place)}: {told(mistake)}, left out" for place, mistake in found.items()][::-1]
        for place in found:
            _leave_out(facts, place)
    return facts, problems


def sentinel_row(line: bytes) -> dict[str, Any]:
    """One line of sentinels.jsonl. Raises RecordError where it is none."""
    row, wrong = _json_object(line)
    if row is None:
        raise RecordError(wrong.partition(": ")[2].removesuffix(", left out"))
    try:
        facts: dict[str, Any] = checked(row, "")
        Sentinel.model_validate(facts)
    except ValidationError as error:
        raise RecordError(first_mistake(error)) from None
    except ValueError as error:
        raise RecordError(str(error).removeprefix(".")) from None
    return facts


def json_object(text: bytes, types: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object that holds these keys with values of these types. Raises ValueError where it is none."""
    row, wrong = _json_object(text)
    if row is None:
        raise ValueError(wrong.partition(": ")[2].removesuffix(", left out"))
    for name, kind in types.items():
        if name not in row:
            raise ValueError(f'it lacks "{name}"')
        if type(row[name]) is not kind:
            raise ValueError(f"{name}: should be {kind_of(kind())}, not {kind_of(row[name])}")
    return row


def _json_object(text: bytes) -> tuple[dict[str, Any] | None, str]:
    """(the object, ""), or (None, what is wrong with its line)."""
    try:
        row = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        try:
            row = json.loads(mended(text)) if b"\\ud" in text.lower() else None
        except RecordError:
            row = None
        if row is None:
            line = str(error).partition(" at line ")[2].partition(" ")[0]
            return None, f"{line or 1}: not JSON: {short(str(error))}, left out"
    if isinstance(row, dict):
        return row, ""
    return None, f"1: not a JSON object but {kind_of(row)}, left out"


def _held(facts: Any, place: Sequence[str | int]) -> tuple[str | int, ...]:
    """The part of a place that the facts hold; further parts of it name branches of a union."""
    held: list[str | int] = []
    for part in place:
        inside = part in facts if isinstance(facts, dict) else isinstance(facts, list) and isinstance(part, int)
        if not inside:
            break
        held.append(part)
        facts = facts[part]
    return tuple(held)


def _leave_out(facts: Any, place: Sequence[str | int]) -> None:
    *outer, last = place
    for part in outer:
        facts = facts[part]
    del facts[last]


def _line_of(text: bytes, place: Sequence[str | int]) -> int:
    """The number of the line that a key stands in, in JSON as attnbench writes it: each key after those around it."""
    position = 0
    for part in place:
        found = text.find(json.dumps(part).encode() + b":", position) if isinstance(part, str) else -1
        position = found if found >= 0 else position
    return text.count(b"\n", 0, position) + 1
