"""What a plugin's backend says of itself, as data: said in the candidate process, looked at by the judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnbench.backend import Base, RemoteError
from attnbench.printable import one_line

# Yes or no.
FLAGS = (
    "own_quantizer", "partials_16bit", "scores_int8", "scores_16bit", "lse_informational", "approximate", "stateful",
    "unbiased",
)  # fmt: skip
# Yes or no, or of which tensors or dtypes.
FLAGS_OR_NAMES = ("deterministic", "copies_inputs")
NAMES = ("devices", "by_name_only", "exact_settings", "absent_relations")
# Of a name, and of a version.
NAME_CHARACTERS, VERSION_CHARACTERS = 200, 200


def declared(backend: Base) -> dict[str, Any]:
    """In the candidate: name, version and traits of a backend."""
    said: dict[str, Any] = {"name": backend.name, "version": version(backend), "accumulator": backend.accumulator}
    said |= {name: getattr(backend, name) for name in (*FLAGS, "batch_invariant")}
    for name in (*FLAGS_OR_NAMES, *NAMES):
        value = getattr(backend, name)
        said[name] = value if isinstance(value, bool) else sorted(map(str, value))
    return said


def version(backend: Base) -> str:
    try:
        return str(backend.version())[:VERSION_CHARACTERS]
    except (Exception, SystemExit) as error:  # a library that is not installed has no version; `unavailable` says why
        return f"unknown ({type(error).__name__})"


def checked(said: Any) -> dict[str, Any]:
    """By the judge: the same with the types that a backend has. Raises RemoteError where something is none."""
    if not isinstance(said, Mapping):
        raise RemoteError("contract", f"a backend was declared as {type(said).__name__}")
    try:
        found = {name: _text(said[name], name) for name in ("name", "version", "accumulator")}
        traits: dict[str, Any] = {name: _flag(said[name], name) for name in FLAGS}
        traits["batch_invariant"] = None if said["batch_invariant"] is None else _flag(said["batch_invariant"], "it")
        for name in FLAGS_OR_NAMES:
            value = said[name]
            traits[name] = value if isinstance(value, bool) else frozenset(_names(value, name))
        for name in NAMES:
            traits[name] = _names(said[name], name)
    except KeyError as error:
        raise RemoteError("contract", f"a backend was declared without {error}") from None
    traits["absent_relations"] = frozenset(traits["absent_relations"])
    if not found["name"] or one_line(found["name"]) != found["name"] or len(found["name"]) > NAME_CHARACTERS:
        raise RemoteError("contract", f"a backend is named {found['name'][:NAME_CHARACTERS]!r}")
    return {**found, **traits}


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RemoteError("contract", f"a backend's {name} must be text, not {value!r:.100}")
    return value


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise RemoteError("contract", f"a backend's {name} must be True or False, not {value!r:.100}")
    return value


def _names(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RemoteError("contract", f"a backend's {name} must be names, not {value!r:.100}")
    return tuple(value)
