"""Where a connection comes from: an address, or the user at the other end of a unix socket."""

from __future__ import annotations

import socket
import struct

UNKNOWN = "gone"


def origin(connection: socket.socket | None) -> str:
    """`10.0.0.7`, `user 1000`; `gone` once nobody can tell any more."""
    try:
        if connection is None:
            return UNKNOWN
        if connection.family == socket.AF_UNIX:
            _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return f"user {user}"
        return str(connection.getpeername()[0])
    except OSError:
        return UNKNOWN
