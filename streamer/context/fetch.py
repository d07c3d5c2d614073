"""Files from http(s) URLs, for ADD and for contexts: what an outsider may name, and so what nobody should trust.

Only addresses that the policy permits are connected to, at every redirect; no proxy, no cookie, no credentials of this
machine; nothing is decompressed. The only module besides `web` and `client` that knows aiohttp.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from email.message import Message
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_to_bytes, urlsplit

import aiohttp
import anyio
from aiohttp import hdrs
from yarl import URL

from streamer import __version__
from streamer.context.addresses import Gate, Policy
from streamer.context.source import masked
from streamer.errors import FetchFailed, InvalidRequest, LimitExceeded, NotPermitted, Stalled
from streamer.pace import Pace

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST = 10
"""Redirects that are followed, as Go's client does."""
_TOLD = 200
"""Characters of an error page that are told."""
_LONGEST = 8192
"""Characters of a URL."""
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of one file; seconds for a connection, for the answer to begin, and for each 64 KiB of it (see `pace`)."""

    size: int = 8 << 30
    connect: float = 10.0
    answer: float = 30.0
    silence: float = 30.0


class Fetched:
    """An answer whose body is still to come; valid while the block is open that gave it.

    `url` is that of the last redirect, without a password. `name` is the file's: of the URL that was asked for, else of
    Content-Disposition; empty if neither has one. `modified` is Last-Modified in seconds since the epoch, None without;
    `size` Content-Length, None without.
    """

    def __init__(self, answer: aiohttp.ClientResponse, place: URL, limits: Limits) -> None:
        headers = answer.headers
        self.url = masked(str(answer.url))
        self.media_type = answer.content_type if hdrs.CONTENT_TYPE in headers else ""
        self.name = file_name(str(place), headers.get(hdrs.CONTENT_DISPOSITION, ""))
        self.modified = _time(headers.get(hdrs.LAST_MODIFIED, ""))
        self.etag = headers.get(hdrs.ETAG, "")
        self.size = answer.content_length
        self._content, self._limits = answer.content, limits
        self._pace = Pace(limits.silence, f"cannot fetch {self.url}")
        self._came = 0

    async def read(self) -> bytes:
        """The next bytes, none at the end. FetchFailed, LimitExceeded, Stalled."""
        limits = self._limits
        try:
            data = await self._pace.wait(self._content.readany)
        except (aiohttp.ClientError, OSError) as error:
            raise FetchFailed(f"cannot fetch {self.url}: it broke off after {self._came} bytes") from error
        self._came += len(data)
        if self._came > limits.size:
            raise LimitExceeded(f"cannot fetch {self.url}: it has more than {limits.size} bytes", limit="size")
        return data


class Unchanged(Exception):
    """The server says that the version that is known is still the current one."""


@asynccontextmanager
async def fetch(url: str, policy: Policy, limits: Limits, *, etag: str = "") -> AsyncIterator[Fetched]:
    """The file at an http(s) URL, redirects followed. With `etag`, Unchanged if that is still its version.

    InvalidRequest for what is no such URL; NotPermitted for an address that may not be connected to; FetchFailed for
    whatever goes wrong on the way, and for an answer that is not 200.
    """
    place, gate = checked(url), Gate(policy)
    connector = aiohttp.TCPConnector(
        socket_factory=lambda found: gate.opened(found[0], found[1], found[2], str(found[4][0])),
        use_dns_cache=False,
        force_close=True,
    )
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect)
    headers = {hdrs.ACCEPT_ENCODING: "identity", hdrs.USER_AGENT: f"streamer/{__version__}"}
    if etag:
        headers[hdrs.IF_NONE_MATCH] = etag
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    ) as session:
        answer = await _followed(_Way(session, gate, limits), place, conditional=bool(etag))
        try:
            yield await _checked(answer, place, limits)
        finally:
            answer.close()


def checked(url: str) -> URL:
    """The URL, if it may be asked for at all. InvalidRequest."""
    try:
        made = URL(url) if len(url) <= _LONGEST and url.isprintable() else None
    except ValueError:
        made = None
    if made is None or made.scheme not in ("http", "https") or not _HOST.fullmatch(made.raw_host or ""):
        raise InvalidRequest(f"{masked(url)} is no URL that can be fetched: write http://HOST/… or https://HOST/…")
    return made


def file_name(url: str, disposition: str = "") -> bytes:
    """The name of a fetched file: the last component of the URL's path, else the one that Content-Disposition gives
    (its last component); empty if there is none, or none that can be a file's."""
    name = unquote_to_bytes(urlsplit(url).path).rpartition(b"/")[2]
    if not name and disposition:
        message = Message()
        message[hdrs.CONTENT_DISPOSITION] = disposition
        given = message.get_filename() or ""
        name = given.encode("utf-8", "surrogateescape").replace(b"\\", b"/").rpartition(b"/")[2]
    return name if name not in (b".", b"..") and b"/" not in name and b"\0" not in name else b""


@dataclass(frozen=True, slots=True)
class _Way:
    session: aiohttp.ClientSession
    gate: Gate
    limits: Limits


async def _followed(way: _Way, place: URL, *, conditional: bool) -> aiohttp.ClientResponse:
    """The first answer that is no redirect."""
    here = place
    for _ in range(_MOST + 1):
        answer = await _asked(way, here)
        if answer.status not in _REDIRECTS:
            if conditional and answer.status == 304:
                answer.close()
                raise Unchanged
            return answer
        target = answer.headers.get(hdrs.LOCATION, "")
        answer.close()
        try:
            following = here.join(URL(target))
        except ValueError:
            raise FetchFailed(f"cannot fetch {masked(str(here))}: it redirects to {masked(target)!r}, no URL") from None
        if not target or following.scheme not in ("http", "https") or not _HOST.fullmatch(following.raw_host or ""):
            raise NotPermitted(
                f"cannot fetch {masked(str(here))}: it redirects to {masked(target)}, which is not http(s)"
            )
        if here.scheme == "https" and following.scheme == "http":
            raise NotPermitted(f"cannot fetch {masked(str(here))}: it redirects to {masked(target)}, without TLS")
        # A password is for the server that it was written for.
        here = following if following.origin() == here.origin() else following.with_user(None)
    raise FetchFailed(f"cannot fetch {masked(str(place))}: it redirects more than {_MOST} times")


async def _asked(way: _Way, place: URL) -> aiohttp.ClientResponse:
    shown, limit = masked(str(place)), way.limits.connect + way.limits.answer
    way.gate.refused.clear()
    try:
        with anyio.fail_after(limit):
            return await way.session.get(place, allow_redirects=False)
    except TimeoutError:
        raise Stalled(f"cannot fetch {shown}: no answer came in {limit:g} seconds") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if way.gate.refused:
            raise NotPermitted(
                f"cannot fetch {shown}: {way.gate.refused[0]} is not a public address; the setting fetch_allow names "
                "others that may be connected to"
            ) from error
        raise FetchFailed(f"cannot fetch {shown}: {_reason(error)}") from error


async def _checked(answer: aiohttp.ClientResponse, place: URL, limits: Limits) -> Fetched:
    shown = masked(str(answer.url))
    if answer.status != 200:
        with anyio.move_on_after(limits.silence):
            page = " ".join((await answer.content.read(_TOLD * 4)).decode("utf-8", "replace").split())
            said = "".join(each for each in page if each.isprintable())[:_TOLD]
            raise FetchFailed(f"cannot fetch {shown}: it answers {answer.status}{f' ({said})' if said else ''}")
        raise FetchFailed(f"cannot fetch {shown}: it answers {answer.status}")
    coding = answer.headers.get(hdrs.CONTENT_ENCODING, "identity").lower()
    if coding != "identity":
        raise FetchFailed(f"cannot fetch {shown}: it is sent as {coding[:50]!r}, which was not asked for")
    size = answer.content_length
    if size is not None and size > limits.size:
        raise LimitExceeded(f"cannot fetch {shown}: it has {size} bytes, more than {limits.size}", limit="size")
    return Fetched(answer, place, limits)


def _time(text: str) -> int | None:
    try:
        found = parsedate_to_datetime(text)
        return int((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, TypeError):
        return None


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"its answer is not HTTP: {error.message.partition(':')[0]}"
    inner = getattr(error, "os_error", None) or error
    if isinstance(inner, ssl.SSLError):
        return str(inner.reason or inner)
    return str(getattr(inner, "strerror", None) or inner) or type(inner).__name__
