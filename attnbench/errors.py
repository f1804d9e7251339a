"""What a user's mistake is: the command line shows it as one line, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend: the message names the thing, the value and the way out, in one line.

    status: how the command line ends with it; 2, a mistake in the command or the suite, where a class says no other.
    """

    status = 2


def suggest(name: str, known: Iterable[str]) -> str:
    """What to append to "unknown x": the nearest known name, or all of them."""
    import difflib

    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f' (did you mean "{near[0]}"?)' if near else f"; there are {', '.join(known)}"
