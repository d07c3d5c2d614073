"""A network of its own for one thread: what is dropped there, nobody else misses."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

_CLONE_NEWNET = 0x40000000


def possible() -> str:
    """Why there can be none here; empty if there can."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    missing = [name for name in ("ip", "iptables") if shutil.which(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


def alone(work: Callable[[], None]) -> None:
    """Runs `work` in a thread with a loopback of its own, which the threads and programs that it starts share."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            # Small buffers: hundreds of peers that do not read must not take all memory of the kernel.
            Path("/proc/sys/net/ipv4/tcp_wmem").write_text("4096 16384 262144")
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="network")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def drop_from(address: str) -> None:
    """From now on nothing that this address sends arrives."""
    subprocess.run(["iptables", "-A", "INPUT", "-s", address, "-j", "DROP"], check=True, capture_output=True)
