"""Text from elsewhere, safe to store and to print: kernels' output, names, exceptions, lines of a run directory.

What a terminal, a log or a parser would obey instead of showing is shown as an escape: control characters, halves of
surrogate pairs (bytes of a name that is no UTF-8), marks that turn the direction of writing.
"""

from __future__ import annotations

import re

# Colours and cursor movements (ECMA-48, control sequences), and commands to the terminal up to their end (OSC, DCS).
_SEQUENCES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)")
# Categories Cc, Cs, Zl and Zp of Unicode without tab and line feed, and of Cf what hides or reorders letters (Boucher
# and Anderson, "Trojan Source", arXiv:2111.00169).
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ud800-\udfff]"
)
# Bytes that are no UTF-8, as Python holds them in file names (PEP 383).
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF
# Lines that GitHub's runner obeys where they are printed: blanks are trimmed before `::`, `##[` counts anywhere
# (actions/runner, src/Runner.Common/ActionCommand.cs).
_COMMAND = re.compile(r"^([^\S\n]*)::", re.MULTILINE)


def printable(text: str) -> str:
    """Text of any number of lines without terminal sequences; what else is no letter, as an escape: `\\x00`."""
    if text.isprintable():
        return text
    return _UNSAFE.sub(_escape, _SEQUENCES.sub("", text.replace("\r\n", "\n")))


def one_line(text: str) -> str:
    """The same for a name: line breaks and tabs are escapes too."""
    if text.isprintable():
        return text
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def log_text(text: str) -> str:
    """Printable text that no line of which is a workflow command to a CI system; its colours stay."""
    return _COMMAND.sub(r"\1\\::", text).replace("##[", "##\\[")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
