"""A service that serves bytes with version and ranges as it should, except where it is told to do wrong.

It writes its own HTTP, so that what no server library would send can be sent as well.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache

_PIECE = 64 << 10


@lru_cache(8)
def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer; of its headers, None takes one away."""

    status: int | None = None
    """In place of an answer: this status, with `body`."""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    """In place of an answer: these bytes and the end of the connection."""
    drop: int | None = None
    """The connection ends after so many bytes of the body; at once, before any header, if negative."""
    reset: bool = False
    hang: int | None = None
    """Nothing more comes after so many bytes of the body, and the connection stays; negative: not even headers."""
    change: int | None = None
    """After so many bytes of the body the source changes: the body breaks off, and the next version is served."""
    whole: bool = False
    """The range that was asked for is ignored."""
    damage: int | None = None
    """This byte of the archive is another one, and nothing says so."""


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: dict[str, str]

    @property
    def range(self) -> tuple[int, int] | None:
        """First byte and the one behind the last."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) + 1) if found else None


@dataclass
class Faulty:
    versions: Sequence[bytes] = field(repr=False)
    """What is served: the first, until it changes into the next."""
    port: int = 0
    ranges: bool = True
    length: bool = True
    digest: str | None = "asked"
    """When the digest is told: `always`, `asked` (to a HEAD that wants it), a `lie` to it, or None: never."""
    media_type: str = "application/x-tar"
    rate: int | None = None
    """Bytes a second and connection."""
    at_once: int | None = None
    """Bodies that one client may have under way; 429 for more."""
    faults: list[Fault | None] = field(default_factory=list)
    """For one GET after the other; None lets it go well, as does the end of the list."""
    looks: list[Fault | None] = field(default_factory=list)
    """The same for each HEAD."""
    asked: list[Asked] = field(default_factory=list)
    current: int = 0
    sent: int = 0
    """Bytes of bodies."""
    open: int = 0
    most: int = 0
    """Bodies that were under way at a time."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def content(self) -> bytes:
        return self.versions[self.current]

    @property
    def etag(self) -> str:
        return f'"{_sha256(self.content).hex()[:32]}"'

    @property
    def gets(self) -> list[Asked]:
        return [one for one in self.asked if one.method == "GET"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A cancellation ends here: asyncio's own callback of this task would complain of it.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = lines[0].split(" ")
                headers = {
                    name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines[1:-2])
                }
                asked = Asked(method, target, headers)
                self.asked.append(asked)
                faults = self.looks if method == "HEAD" else self.faults
                fault = (faults.pop(0) if faults else None) or Fault()
                if method == "GET" and self.at_once is not None and self.open >= self.at_once:
                    fault = Fault(status=429)
                if not await self._answer(asked, fault, writer):
                    break
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, asked: Asked, fault: Fault, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        if fault.hang is not None and fault.hang < 0:
            await asyncio.sleep(3600)
        if fault.raw is not None or (fault.drop is not None and fault.drop < 0):
            writer.write(fault.raw or b"")
            await self._end(writer, fault)
            return False
        content, etag = self.content, self.etag
        if fault.damage is not None:
            content = content[: fault.damage] + bytes([content[fault.damage] ^ 1]) + content[fault.damage + 1 :]
        start, stop = asked.range or (0, len(content))
        status = fault.status or 200
        headers: dict[str, str | None] = {"Content-Type": self.media_type, "Accept-Ranges": "none"}
        if self.length:
            headers |= {"ETag": etag, "Accept-Ranges": "bytes" if self.ranges else "none"}
        if fault.status is not None:
            body, headers = (
                fault.body,
                {"Content-Type": "application/problem+json", "Content-Length": str(len(fault.body))},
            )
        elif asked.headers.get("if-match", etag) != etag:
            status, body, headers = 412, b"", {"Content-Length": "0"}
        elif asked.range and self.ranges and not fault.whole and asked.headers.get("if-range", etag) == etag:
            if start >= len(content):
                status, body, headers = 416, b"", {"Content-Length": "0", "Content-Range": f"bytes */{len(content)}"}
            else:
                status, body = 206, content[start:stop]
                headers["Content-Range"] = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
        else:
            body = content
        if status in (200, 206) and fault.status is None:
            headers |= {"Content-Length": str(len(body))} if self.length else {"Transfer-Encoding": "chunked"}
            headers |= self._digest(asked, content)
        headers |= fault.headers
        head = [f"HTTP/1.1 {status} Whatever"] + [
            f"{name}: {text}" for name, text in headers.items() if text is not None
        ]
        writer.write("\r\n".join([*head, "", ""]).encode())
        if asked.method == "HEAD":
            await writer.drain()
            return True
        return await self._body(body, headers.get("Transfer-Encoding") == "chunked", fault, writer)

    def _digest(self, asked: Asked, content: bytes) -> dict[str, str | None]:
        wanted = asked.method == "HEAD" and "sha-256" in asked.headers.get("want-repr-digest", "")
        if self.digest is None or (self.digest != "always" and not wanted):
            return {}
        value = _sha256(b"lie" if self.digest == "lie" else content)
        return {"Repr-Digest": f"sha-512=:AAAA:, sha-256=:{base64.b64encode(value).decode()}:"}

    async def _body(self, body: bytes, chunked: bool, fault: Fault, writer: asyncio.StreamWriter) -> bool:
        self.open += 1
        self.most = max(self.most, self.open)
        stops = [place for place in (fault.drop, fault.hang, fault.change) if place is not None]
        end = min([*stops, len(body)])
        try:
            for start in range(0, end, _PIECE):
                piece = body[start : min(start + _PIECE, end)]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await writer.drain()
                self.sent += len(piece)
                if self.rate:
                    await asyncio.sleep(len(piece) / self.rate)
            if fault.hang is not None:
                await asyncio.sleep(3600)
            if fault.change is not None:
                self.current += 1
            if stops:
                await self._end(writer, fault)
                return False
            if chunked:
                writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        finally:
            self.open -= 1

    @staticmethod
    async def _end(writer: asyncio.StreamWriter, fault: Fault) -> None:
        if fault.reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        else:
            with suppress(ConnectionError):
                writer.write_eof()
                await writer.drain()
                await asyncio.sleep(0.05)  # so that what was written arrives before the connection is gone


@asynccontextmanager
async def faulty(*versions: bytes, port: int = 0, path: str | None = None) -> AsyncIterator[Faulty]:
    """A service of the `versions` on loopback, or on the unix socket `path`."""
    made = Faulty(versions)
    if path is None:
        server = await asyncio.start_server(made.serve, "127.0.0.1", port, limit=1 << 20)
        made.port = server.sockets[0].getsockname()[1]
    else:
        server = await asyncio.start_unix_server(made.serve, path)
    running: set[asyncio.Task[object]] = set()
    try:
        yield made
    finally:
        server.close()
        for task in asyncio.all_tasks():
            if task.get_coro().__qualname__ == "Faulty.serve":  # type: ignore[union-attr]
                task.cancel()
                running.add(task)
        await asyncio.gather(*running, return_exceptions=True)
