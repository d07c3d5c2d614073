"""How long parts are, so that the most that a storage takes always suffice."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.errors import LimitExceeded
from streamer.sinks.base import Layout

MiB = 1 << 20
_STAGE = 1000
"""Parts of an archive of unknown length after which they become twice as long: 10,000 parts of 16 MiB and more hold
16 TiB so, and what is short is still sent in short parts."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The lengths of all parts but the last: `step` bytes where the whole is known, otherwise growing from it."""

    step: int
    known: bool
    largest: int

    def length(self, number: int) -> int:
        """Bytes of a part. LimitExceeded where it would be longer than the storage takes."""
        size = self.step if self.known else self.step << (number - 1) // _STAGE
        if size > self.largest:
            raise LimitExceeded(f"the archive is too long for parts of at most {self.largest} bytes")
        return size


def steps(wanted: int, size: int | None, layout: Layout) -> Steps:
    """Parts of `wanted` bytes, longer where the storage needs it. `size` is that of the whole, if it is known."""
    step = max(wanted, layout.smallest)
    if size is not None:
        least = -(-size // layout.most)
        if least > step:
            step = -(-least // MiB) * MiB
    return Steps(step, size is not None, layout.largest)
