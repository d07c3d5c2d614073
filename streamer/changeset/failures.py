"""How this package words failures: names shown safely, `OSError` turned into the errors of streamer."""

from __future__ import annotations

import os

from streamer.errors import InvalidRequest, SourceChanged, SourceFailed, shown


def quoted(path: bytes) -> str:
    """A path for the middle of a sentence."""
    return f"'{shown(path)}'" if path else "the root directory"


def reading_failed(path: bytes, error: OSError) -> SourceFailed:
    """The error to raise when the kernel refused to read something of the source."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return SourceFailed(f"could not read {quoted(path)}: {reason}", member=shown(path))


def changed(path: bytes, how: str) -> SourceChanged:
    """The error to raise when the source is not what it was a moment ago; `how` ends the sentence."""
    return SourceChanged(f"{quoted(path)} changed while it was read: {how}", member=shown(path))


def name_too_long(path: bytes) -> InvalidRequest:
    """The error for a path that was asked for and that no file system could have."""
    return InvalidRequest(f"the path {quoted(path)} holds a name that is too long", parameter="path")
