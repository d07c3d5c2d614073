"""What must be the same before and after: descriptors, mounts, threads, tasks, children."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass

import anyio


@dataclass(frozen=True)
class Held:
    descriptors: tuple[str, ...]
    mounts: tuple[str, ...]
    threads: tuple[str, ...]

    def beyond(self, before: Held) -> list[str]:
        """What is held now and was not before."""
        extra = []
        for name in ("descriptors", "mounts", "threads"):
            then = list(getattr(before, name))
            for item in getattr(self, name):
                if item in then:
                    then.remove(item)
                else:
                    extra.append(f"{name}: {item}")
        return extra


def held(mark: str = "") -> Held:
    """What this process holds now, of mounts those whose line mentions `mark` (other tests mount at the same time).

    Sockets are left out: a client's half-closed one is the kernel's to end."""
    descriptors = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if not target.startswith(("socket:", "/proc/")):
            descriptors.append(target)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        points = tuple(sorted(line.split()[4] for line in mounts if mark and mark in line))
    threads = tuple(sorted(t.name for t in threading.enumerate() if not t.name.startswith(("AnyIO", "asyncio_"))))
    return Held(tuple(sorted(descriptors)), points, threads)


async def settles(before: Held, mark: str = "", limit: float = 60) -> list[str]:
    """What is still held beyond `before` after at most `limit` seconds; empty if all is released."""
    deadline = time.monotonic() + limit
    while True:
        extra = held(mark).beyond(before)
        if not extra or time.monotonic() > deadline:
            return extra
        await anyio.sleep(0.01)


def tasks() -> set[str]:
    """Names of the coroutines of every task of the running loop but the calling one."""
    current = asyncio.current_task()
    return {repr(task.get_coro()) for task in asyncio.all_tasks() if task is not current and not task.done()}
