"""What the kernel says of the mounts that a process sees (proc_pid_mountinfo(5))."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamer.errors import MountFailed

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Seen:
    """One mount: its number, its file system's device (`8:1`), type, source and options, what of that is shown
    (`root`), and where (`point`)."""

    number: bytes
    device: bytes
    root: bytes
    point: bytes
    kind: bytes
    source: bytes
    options: bytes


def seen(pid: str = "self", proc: Path = _PROC) -> Iterator[Seen]:
    """Every mount that the process sees, in the order in which they were made. OSError if it is gone, or another's."""
    with (proc / pid / "mountinfo").open("rb") as lines:
        for line in lines:
            head, _, tail = line.rstrip(b"\n").partition(b" - ")
            number, _, device, root, point, *_ = (*head.split(b" "), b"", b"", b"", b"", b"")
            kind, source, options, *_ = (*tail.split(b" "), b"", b"", b"")
            yield Seen(number, device, plain(root), plain(point), kind, plain(source), options)


def spaces() -> Iterator[str]:
    """One process of each mount namespace but this process's own, as far as this process may see them."""
    known = {os.stat("/proc/self/ns/mnt").st_ino}
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            with contextlib.suppress(OSError):
                number = os.stat(f"/proc/{pid}/ns/mnt").st_ino
                if number not in known:
                    known.add(number)
                    yield pid


def number_of(descriptor: int) -> bytes:
    """The number of the mount that an open file lies in; MountFailed for kernels that do not tell it."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as info:
        for line in info:
            if line.startswith(b"mnt_id:"):
                return line.split()[1]
    raise MountFailed("the kernel does not say which mount a descriptor belongs to (mnt_id in /proc/self/fdinfo)")


def plain(field: bytes) -> bytes:
    """A field without its escapes."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
