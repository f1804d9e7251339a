"""Messages between the judge and a candidate process: JSON, one a packet, descriptors of segments beside it.

Never pickle: what a candidate says is data, and is looked at before it is used.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

# Of one message: a few thousand calls of one hand-over, or what a plugin says of itself.
MESSAGE_BYTES = 1 << 17
# The kernel passes at most so many in one message (SCM_MAX_FD is 253).
MOST_DESCRIPTORS = 250


class WireError(ValueError):
    """A packet that is no message."""


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Raises OSError where nobody is left to read, WireError for a message that is too long."""
    text = json.dumps(message).encode()
    if len(text) > MESSAGE_BYTES:
        raise WireError(f"a message of {len(text):,} bytes; at most {MESSAGE_BYTES:,} go through")
    socket.send_fds(end, [text], descriptors)


def receive(end: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The message and its descriptors; None where the other end is closed. Raises WireError."""
    text, descriptors, flags, _ = socket.recv_fds(end, MESSAGE_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not text:
        return None, descriptors
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise WireError(f"it wrote {text[:60]!r} where a message belongs") from None
    if flags & socket.MSG_TRUNC or not isinstance(message, dict):
        raise WireError(f"it wrote {text[:60]!r} where a message belongs")
    return message, descriptors
