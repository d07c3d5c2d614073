"""Bearer tokens (RFC 6750): one line of TOML each, holding the token's SHA-256 and its scope, never the token.

    NAME = { sha256 = "…", kinds = ["layer", "list"], stores = ["local"], names = ["team/*"], expires = 2027-01-01 }

A token holds 256 random bits, so that a plain digest of it tells nobody anything: a slow one is for passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from streamer.access.scope import Kind, Scope
from streamer.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = "streamer_"
"""So that programs which look for secrets in the wrong places find these."""
_KEYS = ("sha256", "kinds", "stores", "names", "expires")


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    sha256: bytes
    scope: Scope
    expires: datetime | None = None

    def expired(self, now: datetime | None = None) -> bool:
        return self.expires is not None and (now or datetime.now(UTC)) >= self.expires


def issued(name: str, scope: Scope, expires: datetime | None = None) -> tuple[str, str]:
    """A fresh token, and the line of the file that lets it in. InvalidRequest for a name that could not be a key."""
    if _NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"{name!r} cannot be the name of a token: give 1 to 64 letters, digits, - and _", parameter="name"
        )
    token = _PREFIX + secrets.token_urlsafe(32)
    members = [f'sha256 = "{_digest(token).hex()}"', f"kinds = {_array(kind for kind in Kind if kind in scope.kinds)}"]
    if scope.stores is not None:
        members.append(f"stores = {_array(sorted(scope.stores))}")
    if scope.names is not None:
        members.append(f"names = {_array(scope.names)}")
    if expires is not None:
        members.append(f"expires = {expires.astimezone(UTC).isoformat(timespec='seconds')}")
    return token, f"{name} = {{ {', '.join(members)} }}"


def parsed(text: str, path: str) -> tuple[Token, ...]:
    """The tokens of a file, in its order. InvalidRequest says which token is wrong, and how."""
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"cannot read tokens from {path}: {error}", parameter="tokens") from None
    return tuple(_token(name, entry, path) for name, entry in entries.items())


def recognised(tokens: Sequence[Token], given: str) -> Token | None:
    """The token that `given` is. Every entry is compared, each in the same time, so that how long it took says nothing
    of how near a guess came, nor of where in the file a token is."""
    digest, found = _digest(given), None
    for token in tokens:
        if hmac.compare_digest(digest, token.sha256):
            found = token
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _array(values: Iterable[str]) -> str:
    return f"[{', '.join(json.dumps(str(value)) for value in values)}]"


def _token(name: str, entry: object, path: str) -> Token:
    def wrong(why: str) -> InvalidRequest:
        return InvalidRequest(f"cannot read tokens from {path}: token {name!r} {why}", parameter="tokens")

    if _NAME.fullmatch(name) is None:
        raise wrong("has a name with other characters than letters, digits, - and _")
    if not isinstance(entry, Mapping):
        raise wrong("is not a table of sha256, kinds, stores, names and expires")
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise wrong(f"has an unknown member {unknown[0]!r}")  # misspelt, a limit would not hold
    sha256 = entry.get("sha256")
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        raise wrong("has no sha256 of 64 hexadecimal digits in lower case")
    kinds = _strings(entry, "kinds")
    if kinds is None:
        raise wrong(f'has no kinds, a list of {", ".join(Kind)} (or just "*")')
    for kind in kinds:
        if kind != "*" and kind not in list(Kind):
            raise wrong(f"has an unknown kind {kind!r}; there are {', '.join(Kind)}")
    stores, names = _strings(entry, "stores"), _strings(entry, "names")
    for key, value in (("stores", stores), ("names", names)):
        if key in entry and value is None:
            raise wrong(f"has {key} that are not a list of strings")
    scope = Scope(
        frozenset(Kind) if "*" in kinds else frozenset(map(Kind, kinds)),
        None if stores is None or "*" in stores else frozenset(stores),
        None if names is None or "*" in names else names,
    )
    expires = entry.get("expires")
    if isinstance(expires, date) and not isinstance(expires, datetime):
        expires = datetime(expires.year, expires.month, expires.day, tzinfo=UTC)
    if expires is not None and (not isinstance(expires, datetime) or expires.tzinfo is None):
        raise wrong("has an expires that is neither a date nor a time with its zone")
    return Token(name, bytes.fromhex(sha256), scope, expires)


def _strings(entry: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = entry.get(key)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    return None
