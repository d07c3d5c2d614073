"""What names a service: `http://HOST:PORT[/prefix]`, `https://…` or `unix:PATH`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from yarl import URL

from streamer.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    """What a request's target is appended to; without credentials, without a slash at its end."""
    shown: str
    """For messages: as it was given, without credentials."""
    path: str | None = None
    """Of the unix socket, where it is one."""
    login: tuple[str, str] | None = field(default=None, repr=False)
    """User and password for HTTP's Basic authentication, which a proxy in front may ask for."""


def parse(text: str) -> Address:
    """The address that the text names. InvalidRequest if it is none."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise _wrong(text)
        return Address("http://localhost", text, path)
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or "?" in text:
            raise _wrong(text)
        if port == 0 or not text.isprintable() or " " in text or "\\" in text:
            raise _wrong(text)
        name = f"[{host}]" if ":" in host else host
        plain = f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
        login = None
        if parts.username is not None:
            login = unquote(parts.username), unquote(parts.password or "")
            if ":" in login[0]:
                raise _wrong(text)
        return Address(str(URL(plain)).rstrip("/"), plain, None, login)
    except ValueError:
        raise _wrong(text) from None


def _wrong(text: str) -> InvalidRequest:
    shown = re.sub(r"//[^/]*@", "//", text)  # nobody's password belongs into a log
    return InvalidRequest(f"{shown!r} is not http://HOST:PORT, https://HOST:PORT or unix:PATH", parameter="from")
