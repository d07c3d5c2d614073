"""Ports of loopback for servers that have to be told theirs before they start."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_FIRST, _COUNT = 12_000, 8_000
"""Below those that the kernel gives to whoever asks for any, so that no client of another test gets one by chance."""


@contextmanager
def ports(count: int, also: int = 0) -> Iterator[list[int]]:
    """So many that are free and, while the block is open, that no other test chooses, in whatever process; with `also`,
    the same holds for those that lie so much higher."""
    with ExitStack() as claims:
        found: list[int] = []
        for number in range(_COUNT):
            port = _FIRST + (os.getpid() + number) % _COUNT
            wanted = {port, port + also}
            with ExitStack() as claim:
                if all(_claimed(each, claim) for each in wanted) and all(map(_free, wanted)):
                    claims.push(claim.pop_all())
                    found.append(port)
            if len(found) == count:
                break
        else:
            raise AssertionError(f"no {count} free ports")
        yield found


def _claimed(port: int, claim: ExitStack) -> bool:
    """Whether nobody else has it. A name that is bound is gone with the process that bound it, however that ends."""
    name = claim.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    try:
        name.bind(f"\0streamer-tests-port-{port}")
    except OSError:
        return False
    return True


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
