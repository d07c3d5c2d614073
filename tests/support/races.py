"""Somebody who renames inside a tree while it is read or written."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

RENAME_EXCHANGE = 2
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}[os.uname().machine]

_ATTACKER = """
import ctypes, sys
libc = ctypes.CDLL(None)
number, count = int(sys.argv[1]), int(sys.argv[2])
a, b = sys.argv[3].encode(), sys.argv[4].encode()
print("ready", flush=True)
for _ in range(count):
    libc.syscall(number, -100, a, -100, b, 2)
"""


def exchange(a: bytes, b: bytes) -> None:
    """Swaps two names atomically."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_RENAMEAT2, -100, a, -100, b, RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), a)


@contextmanager
def exchanging(a: bytes, b: bytes, *, count: int = 2_000_000) -> Iterator[subprocess.Popen[bytes]]:
    """Another process swaps the two names again and again, at most `count` times, until the block is left."""
    attacker = subprocess.Popen(
        [sys.executable, "-c", _ATTACKER, str(_SYS_RENAMEAT2), str(count), os.fsdecode(a), os.fsdecode(b)],
        stdout=subprocess.PIPE,
    )
    try:
        assert attacker.stdout is not None
        attacker.stdout.readline()
        yield attacker
    finally:
        attacker.kill()
        attacker.communicate()
