"""Source lines of operations: `loc(...)` in the text of Triton's intermediate representation."""

from __future__ import annotations

import re

# A frame of Triton's own language, as tl.sum, is not where a kernel's author looks.
_LIBRARY = re.compile(r"/triton/(?:language|experimental)/")


class Locations:
    """Of one module; text: the module's, whose aliases `#loc12 = loc(...)` stand at its beginning and its end."""

    def __init__(self, text: str):
        self.aliases = dict(re.findall(r"^(#loc\d*) = (loc\(.*\))$", text, re.MULTILINE))
        self.places: dict[str, str] = {}

    def place(self, location: str) -> str:
        """`file.py:12`, the innermost line outside of Triton's library; "" where none is known."""
        if location not in self.places:
            self.places[location] = self.innermost(location)
        return self.places[location]

    def innermost(self, location: str) -> str:
        inside = location.strip()
        if inside.startswith("#loc"):
            inside = self.aliases.get(inside, "loc(unknown)")
        inside = inside[4:-1]
        if inside.startswith("callsite("):
            callee, _, caller = inside[9:-1].partition(" at ")
            return self.innermost(as_location(callee)) or self.innermost(as_location(caller))
        file = re.match(r'"([^"]*)":(\d+)', inside)
        if file:
            return "" if _LIBRARY.search(file[1]) else f"{file[1].rpartition('/')[2]}:{file[2]}"
        within = re.match(r'"[^"]*"\((.*)\)$', inside) or re.match(r"(#loc\d*)$", inside)
        return self.innermost(as_location(within[1])) if within else ""


def as_location(text: str) -> str:
    return text if text.startswith(("#loc", "loc(")) else f"loc({text})"
