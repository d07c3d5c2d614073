"""Tokens for tests: made as people make them, in a file as people keep them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from streamer.access.scope import Kind, Scope
from streamer.access.secret import contents
from streamer.access.token import Token, issued, parsed
from streamer.access.watch import Watched


def scope(
    kinds: Iterable[str] = tuple(Kind), stores: Iterable[str] | None = None, names: Iterable[str] | None = None
) -> Scope:
    return Scope(
        frozenset(map(Kind, kinds)),
        None if stores is None else frozenset(stores),
        None if names is None else tuple(names),
    )


class Keys:
    """A file of tokens: `add` writes a new one into it, `secrets` has each by its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets: dict[str, str] = {}
        path.touch(0o600)

    def add(self, name: str, scope: Scope, expires: datetime | None = None) -> str:
        secret, line = issued(name, scope, expires)
        with self.path.open("a") as file:
            file.write(line + "\n")
        self.secrets[name] = secret
        return secret

    def watched(self) -> Watched[tuple[Token, ...]]:
        path = str(self.path)
        return Watched("tokens", [path], lambda: parsed(contents(path, "tokens"), path))

    def header(self, name: str) -> str:
        return f"Authorization: Bearer {self.secrets[name]}\r\n"
