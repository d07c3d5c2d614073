"""Whoever looks on while something is downloaded."""

from __future__ import annotations


class Watch:
    """Here nothing happens; override what is of interest. Called on the event loop, often: be quick."""

    def progress(self, done: int, size: int | None, doing: str = "") -> None:
        """`done` bytes are there of `size`, None where only the end will tell. `doing` says in a few words why none
        come right now, and is empty while they do."""

    def note(self, text: str) -> None:
        """Something that a person may want to know: a sentence."""
