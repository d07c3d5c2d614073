"""How this package words failures: names shown safely, `OSError` turned into the errors of streamer."""

from __future__ import annotations

import os

from streamer.errors import SourceChanged, SourceFailed

_SHOWN = 300


def shown(path: bytes) -> str:
    """A path for messages: quoted, one line, printable, long ones cut in the middle."""
    if len(path) > _SHOWN:
        path = path[: _SHOWN // 2] + b"[...]" + path[-_SHOWN // 2 :]
    return repr(path.decode("utf-8", "backslashreplace")) if path else "the root directory"


def reading_failed(path: bytes, error: OSError) -> SourceFailed:
    """The error to raise when the kernel refused to read something of the source."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return SourceFailed(f"could not read {shown(path)}: {reason}", member=shown(path))


def changed(path: bytes, how: str) -> SourceChanged:
    """The error to raise when the source is not what it was a moment ago; `how` ends the sentence."""
    return SourceChanged(f"{shown(path)} changed while it was read: {how}", member=shown(path))
