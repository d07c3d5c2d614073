"""A directory for what a context needs while it is open: gone, with everything in it, on every way out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamer.changeset.descriptor import DIRECTORY
from streamer.changeset.removal import remove


@contextmanager
def scratch(above: Path) -> Iterator[Path]:
    """A new directory (0700) below `above`; its removal follows no link. Blocks; OSError."""
    place = Path(tempfile.mkdtemp(prefix="context-", dir=above))
    parent = os.open(above, DIRECTORY)
    try:
        yield place
    finally:
        try:
            name = os.fsencode(place.name)
            remove(parent, name, name)  # shutil.rmtree fails on trees that are deep enough
        finally:
            os.close(parent)
