"""What errors have in common."""

from __future__ import annotations

import pytest

from streamer.errors import shown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain", "plain"),
        ("ü".encode(), "ü"),
        (b"\xff\n\x1b", "\\xff\\n\\x1b"),
        ("\u202egnp".encode(), "\\u202egnp"),
        (b"x" * 200, "x" * 200),
        (b"x" * 201, "x" * 100 + "[...]" + "x" * 100),
        (b"\xff" * 200, "\\xff" * 200),
    ],
)
def test_names_in_messages(name: bytes, text: str) -> None:
    assert shown(name) == text
