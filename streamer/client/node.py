"""A running service: connections to it, its answers, and their bodies."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType

import aiohttp
import anyio
from aiohttp.connector import AddrInfoType
from yarl import URL

from streamer import __version__
from streamer.client.address import Address, parse
from streamer.client.answer import Headers, Offer
from streamer.client.credentials import Credentials
from streamer.client.division import Span
from streamer.client.failure import LONGEST_PROBLEM, Changed, Transient, Unreachable, refusal
from streamer.client.patience import Limits
from streamer.client.request import Request
from streamer.errors import InvalidRequest, SourceFailed, StreamerError

_BUFFER = 1 << 20
"""Bytes that a connection reads ahead while a disk takes what came before."""
_CLOSING = 5.0


class Answer:
    """An archive that is being answered, or a part of it. Use it in `async with`, which lets go of its connection."""

    def __init__(self, service: str, response: aiohttp.ClientResponse, offer: Offer, span: Span, stall: float) -> None:
        self.offer = offer
        self.start, self._stop = span
        """Where in the archive the body begins."""
        self._service = service
        self._response = response
        self._stall = stall
        self._position = self.start

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closed, not released: what is left of a body is not worth waiting for, nor is the connection.
        self._response.close()

    async def read(self) -> bytes:
        """What has come, b"" at the end of a whole body and of no other. Transient if it breaks or stalls."""
        try:
            with anyio.fail_after(self._stall):
                data = await self._response.content.readany()
        except TimeoutError:
            raise Transient(Unreachable(f"{self._service} sent nothing for {self._stall:g} seconds")) from None
        except (aiohttp.ClientError, OSError):
            # Before it gives what has come, aiohttp raises what ended the connection; only this does not.
            data = self._response.content._read_nowait(-1)
            if not data:
                raise self._broken() from None
        self._position += len(data)
        if self.offer.size is not None and self._position > self._stop:
            raise SourceFailed(f"{self._service} sent more than the {self._stop - self.start} bytes it promised")
        if not data and self.offer.size is not None and self._position != self._stop:
            raise self._broken()
        return data

    def _broken(self) -> Transient:
        of = "" if self.offer.size is None else f" of {self.offer.size}"
        return Transient(SourceFailed(f"{self._service} broke off after {self._position} bytes{of}"))


class Node:
    """Made by `connect`. Every method raises a StreamerError, Transient for what may pass, Changed for 412 and 416."""

    def __init__(self, address: Address, session: aiohttp.ClientSession, limits: Limits) -> None:
        self.limits = limits
        self._address = address
        self._session = session
        self._answered = False

    def __str__(self) -> str:
        return self._address.shown

    async def open(self, request: Request, span: Span | None = None, etag: str | None = None) -> Answer:
        """The archive, or of the version `etag` of it only `span`; all of it if there is another version by now."""
        headers = {}
        if span is not None and etag is not None:
            headers = {"Range": f"bytes={span[0]}-{span[1] - 1}", "If-Range": etag}
        response = await self._ask("GET", request, headers, self.limits.answer)
        try:
            told = Headers(str(self), response.headers)
            told.check_archive(request.media_type)
            if response.status == 206:
                if span is None:
                    raise told.refused("206 to a request without a range")
                offer, span = told.part(span)
            else:
                size = told.length()
                offer, span = told.offer(size), (0, size or 0)
            return Answer(str(self), response, offer, span, self.limits.stall)
        except BaseException:
            response.close()
            raise

    async def look(self, request: Request, etag: str, size: int, *, digest: bool) -> Offer:
        """What is known of the version `etag`; with `digest`, after the service has read all of its `size` bytes if it
        must. Changed if there is another version by now."""
        headers = {"If-Match": etag}
        limit = self.limits.answer
        if digest:
            headers["Want-Repr-Digest"] = "sha-256=1"
            limit += size / self.limits.digest_rate
        response = await self._ask("HEAD", request, headers, limit)
        try:
            offer = Headers(str(self), response.headers).offer(size)
            if offer.etag != etag:
                raise Changed
            return offer
        finally:
            response.close()

    async def _ask(
        self, method: str, request: Request, headers: dict[str, str], limit: float
    ) -> aiohttp.ClientResponse:
        url = URL(self._address.url + request.target, encoded=True)
        try:
            with anyio.fail_after(limit):
                response = await self._session.request(method, url, headers=headers, allow_redirects=False)
                self._answered = True
                if response.status in (200, 206):
                    return response
                try:
                    body = await self._problem(response)
                finally:
                    response.close()
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a TimeoutError is an OSError
            raise self._unreachable(error, limit) from None
        raise refusal(str(self), response.status, response.headers, body, conditional=bool(headers))

    @staticmethod
    async def _problem(response: aiohttp.ClientResponse) -> bytes:
        body = b""
        with suppress(aiohttp.ClientError, OSError):
            while len(body) < LONGEST_PROBLEM and (data := await response.content.readany()):
                body += data
        return body[:LONGEST_PROBLEM]

    def _unreachable(self, error: Exception, limit: float) -> Exception:
        """Before the first answer nothing passes: a service that is not there, or not trusted, is said at once."""
        untrusted = isinstance(error, (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError))
        failure: StreamerError = Unreachable(f"cannot reach {self}: {_said(error, limit, self.limits.connect)}")
        return Transient(failure) if self._answered and not untrusted else failure


def _said(error: Exception, limit: float, connect: float) -> str:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return f"no connection in {connect:g} seconds"
        case TimeoutError():
            return f"no answer in {limit:.0f} seconds"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case aiohttp.ClientConnectorCertificateError(certificate_error=refused):
            return f"its certificate is not trusted: {getattr(refused, 'verify_message', refused)}"
        case aiohttp.ClientConnectorSSLError(os_error=refused):  # whose numbers are OpenSSL's own
            reason = getattr(refused, "reason", None) or str(refused)
            said = f"no TLS with it ({reason.lower().replace('_', ' ')}): does it speak plain http?"
        case aiohttp.ClientConnectorError(os_error=refused):
            number = refused.errno or 0  # a resolver's own are negative
            said = os.strerror(number) if number > 0 else refused.strerror or str(refused)
        case aiohttp.ClientResponseError(message=said):
            return f"its answer is not HTTP/1.1: {' '.join(said.split())[:300]}"
        case _:
            said = str(error) or type(error).__name__
    return " ".join(said.split())[:300]


@asynccontextmanager
async def connect(
    url: str, limits: Limits | None = None, credentials: Credentials | None = None
) -> AsyncIterator[Node]:
    """The service at `url` (http://HOST:PORT[/prefix], https://…, unix:PATH). Nothing is sent yet.

    InvalidRequest if it is none of these, or names a user besides the token of `credentials`. Leaving the block closes
    every connection.
    """
    address = parse(url)
    limits = limits or Limits()
    credentials = credentials or Credentials()
    headers = {"User-Agent": f"streamer/{__version__}", "Accept-Encoding": "identity"}
    if credentials.token is not None:
        if address.login is not None:
            raise InvalidRequest(f"{address.shown} cannot be shown a user and a token: give one", parameter="from")
        headers["Authorization"] = f"Bearer {credentials.token}"
    connector: aiohttp.BaseConnector
    if address.path is not None:
        connector = aiohttp.UnixConnector(address.path, limit=0)
    else:
        connector = aiohttp.TCPConnector(limit=0, socket_factory=_kept_alive, ssl=credentials.tls or True)
    # Limits on reading are anyio's: aiohttp's own would cancel the task behind the back of its scopes.
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=limits.connect, sock_read=None),
        auth=aiohttp.BasicAuth(*address.login, encoding="utf-8") if address.login else None,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_BUFFER,
    )
    try:
        yield Node(address, session, limits)
    finally:
        with anyio.move_on_after(_CLOSING, shield=True):
            await session.close()


def _kept_alive(info: AddrInfoType) -> socket.socket:
    """A socket that notices in two minutes when the other machine is gone, also while an answer takes its time."""
    family, kind, protocol, _, _ = info
    opened = socket.socket(family, kind, protocol)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6)):
        opened.setsockopt(socket.IPPROTO_TCP, option, value)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return opened
