"""How long parts are, so that the most that a storage takes always suffice."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.errors import LimitExceeded
from streamer.sinks.base import Layout

MiB = 1 << 20
_STAGE = 900
"""Parts of an archive of unknown length after which they become twice as long: 10,000 parts of 5 MiB and more hold
5 TiB so, the longest object that S3 takes, and what is short is still sent in short parts."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The lengths of all parts but the last: `step` bytes where the whole is known, otherwise growing from it."""

    step: int
    known: bool
    layout: Layout

    def length(self, number: int) -> int:
        """Bytes of a part. LimitExceeded where the storage does not take so many, or none so long."""
        if number > self.layout.most or self.step > self.layout.largest:
            raise LimitExceeded(
                f"the archive is too long for the storage: it takes {self.layout.most} parts of at most "
                f"{self.layout.largest} bytes"
            )
        return self.step if self.known else min(self.step << (number - 1) // _STAGE, self.layout.largest)


def steps(wanted: int, size: int | None, layout: Layout) -> Steps:
    """Parts of `wanted` bytes, longer where the storage needs it. `size` is that of the whole, if it is known."""
    step = max(wanted, layout.smallest)
    if size is not None:
        least = -(-size // layout.most)
        if least > step:
            step = -(-least // MiB) * MiB
    return Steps(step, size is not None, layout)
