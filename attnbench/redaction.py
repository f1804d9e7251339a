"""Secrets in what is stored: each is replaced by a hash, so that equal commands and equal failures still read equal.

What is taken for a secret: user and password in an address, the value of a variable, option, key or header that is
named like one, and the tokens of some services by their form. What a build command sets is a secret whatever its name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

# NOTE: bounded, or a long word would be tried from each of its letters. Tokens in the plural are a text's.
_NAME = (
    r"[\w.-]{0,40}(?:token(?!s)|secret|passw(?:or)?d|passphrase|pwd|api[_-]?key|access[_-]?key|private[_-]?key|"
    r"credential|cookie)[\w.-]{0,40}"
)
_VALUE = r"(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"',;&|)\]}]+)"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<before>\b[a-z][a-z0-9+.-]{0,30}://)(?P<secret>[^\s/@\"'<>]+)(?=@)",
        rf"(?P<before>\bauthorization\b[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|token)\s+)?)(?P<secret>{_VALUE})",
        r"(?P<before>\bbearer\s+)(?P<secret>[\w.~+/=-]{8,})",
        rf"(?P<before>(?<![\w.-]){_NAME}[\"']?\s*[=:](?!=)\s*)(?P<secret>{_VALUE})",
        rf"(?P<before>(?<![\w-])--?{_NAME}\s+)(?P<secret>(?!-){_VALUE})",
        r"(?P<before>)(?P<secret>\b(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|AKIA|pypi-)[\w-]{12,})",
    )
)
# A variable that a shell command sets for what follows it.
_ASSIGNED = re.compile(rf"(?P<before>(?:^|(?<=[\s;&|(]))[A-Za-z_]\w*=)(?P<secret>{_VALUE})")
_REDACTED = re.compile(r"<redacted [0-9a-f]{8}>")
# Every pattern needs one of these; most texts have none, and are told so at once.
_HINT = re.compile(
    r"://|authorization|bearer|token|secret|pass|pwd|key|credential|cookie|gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox|"
    r"AKIA|pypi-",
    re.IGNORECASE,
)
# So that a short secret cannot be found by trying: some 20 ms an attempt, and 32 bits are no proof of a guess.
_ROUNDS = 50_000
_SALT = b"attnbench"


def redacted(text: str) -> str:
    """The text without secrets: `--token <redacted 1f0c3a77>`; the same secret gives the same hash everywhere."""
    if _HINT.search(text) is None:
        return text
    for pattern in _PATTERNS:
        text = pattern.sub(_replace, text)
    return text


def redacted_command(command: str) -> str:
    """A shell command without secrets, and without the values of variables that it sets."""
    return redacted(_ASSIGNED.sub(_replace, command))


def redacted_facts(value: Any) -> Any:
    """The same of every text in a JSON value."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: redacted_facts(item) for name, item in value.items()}
    return [redacted_facts(item) for item in value] if isinstance(value, (list, tuple)) else value


def _replace(match: re.Match[str]) -> str:
    secret = match["secret"]
    bare = secret.strip("\"'")
    if not bare or _REDACTED.search(secret) or secret.startswith("<redacted"):
        return match[0]
    return f"{match['before']}<redacted {_digest(bare)}>"


@lru_cache(1024)
def _digest(secret: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", secret.encode("utf-8", "surrogatepass"), _SALT, _ROUNDS, 4).hex()
