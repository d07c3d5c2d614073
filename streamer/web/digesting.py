"""`Repr-Digest` and `Want-Repr-Digest` (RFC 9530), SHA-256 only: a digest that is known, and one made on demand."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Sequence

from streamer.errors import ConsumerGone
from streamer.export.closing import closing
from streamer.export.plan import ExportPlan, Outline
from streamer.export.verify import verified

REPR_DIGEST = "Repr-Digest"
WANT_REPR_DIGEST = "Want-Repr-Digest"

_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=(-?[0-9]{1,15})")
_COMMA = re.compile(r"[ \t]*,[ \t]*")


def field(hexadecimal: str) -> str:
    """The value of Repr-Digest for a SHA-256."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(hexadecimal)).decode()}:"


def wanted(lines: Sequence[str]) -> bool:
    """Whether Want-Repr-Digest asks for a SHA-256. One that is not well formed asks for nothing."""
    preferences: dict[str, int] = {}
    for item in _COMMA.split(", ".join(lines).strip(" ")) if lines else ():
        found = _MEMBER.fullmatch(item)
        if found is None:
            return False
        preferences[found[1]] = int(found[2])
    return 1 <= preferences.get("sha-256", 0) <= 10


class Digesting:
    """Makes a whole archive for nothing but its digest, in the export's own thread: nothing of it reaches the loop."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._left = threading.Event()
        self.sha256 = ""
        """In hexadecimal, once `make` is back."""

    def make(self, outline: Outline) -> None:
        """Read all of this version. SourceChanged if it is another one now, ConsumerGone soon after `leave`."""
        hasher = hashlib.sha256()
        parts = outline.part((0, outline.size))
        with closing(verified(parts, self._plan.title, outline.size, None)) as chunks:
            for chunk in chunks:
                if self._left.is_set():
                    raise ConsumerGone("nobody waits for this digest any more")
                hasher.update(bytes(chunk))
        self.sha256 = hasher.hexdigest()

    def leave(self) -> None:
        """Nobody waits for the digest any more."""
        self._left.set()
