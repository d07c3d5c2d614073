"""A mount namespace of the benchmark's own: whatever it, an engine or streamer mounts ends with the last process in it,
and the machine's own /run and /dev/shm are out of reach."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError

HOME = Path("/run/streamer-bench")
"""In a tmpfs, gone afterwards: sockets, PIDs, mount points. Short, since a socket's path may have 107 bytes."""

_CLONE_NEWNS = 0x20000
_DROP = Path("/proc/sys/vm/drop_caches")


def private() -> None:
    """Moves this process, and all that it starts from now on, into a mount namespace of its own. BenchError if it may
    not. Before any thread is started."""
    if os.geteuid() != 0:
        raise BenchError("the benchmark mounts and starts engines: run it as root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise BenchError(f"no private mount namespace: {os.strerror(ctypes.get_errno())}; run it with CAP_SYS_ADMIN")
    _mount("--make-rprivate", "/")
    for place in ("/run", "/dev/shm"):
        if os.path.isdir(place):
            _mount("-t", "tmpfs", "tmpfs", place)
    HOME.mkdir(parents=True)


@contextmanager
def overlay(lowers: Sequence[Path], name: str) -> Iterator[Path]:
    """The layers (topmost first) as one read-only tree, at the same place each time that this name is given."""
    target = HOME / name
    target.mkdir(exist_ok=True)
    _mount("-t", "overlay", "-o", f"ro,lowerdir={':'.join(map(os.fspath, lowers))}", "overlay", os.fspath(target))
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def cold() -> None:
    """Writes back what is dirty, then drops the page cache, directory entries and inodes."""
    os.sync()
    _DROP.write_text("3")


def warm_only() -> str | None:
    """Why the caches cannot be dropped; None if they can."""
    try:
        cold()
    except OSError as error:
        return f"{_DROP} cannot be written: {error.strerror}"
    return None


def read_from_disks() -> int:
    """Bytes, since the machine started; of those that are counted (`pgpgin`)."""
    return parse_paged_in(Path("/proc/vmstat").read_text())


def parse_paged_in(vmstat: str) -> int:
    for line in vmstat.splitlines():
        if line.startswith("pgpgin "):
            return int(line.split()[1]) << 10
    return 0


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"mount {' '.join(arguments)}: {done.stderr.strip()}")
