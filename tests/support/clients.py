"""HTTP clients that behave badly on purpose: raw sockets that stall, drip, drop and reset, and that tell a whole body
from a broken one by its framing alone."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass, field

from support.certificates import SecurePort


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    complete: bool = False
    """The body ended as HTTP says it must: final chunk, or exactly the announced length."""


@dataclass
class Client:
    """One connection to a server on loopback; blocking, for use in a thread or through `asyncio.to_thread`."""

    port: int
    receive_buffer: int | None = None
    timeout: float = 60
    socket: socket.socket = field(init=False)
    _buffer: bytearray = field(init=False, default_factory=bytearray)
    _length: int | None = field(init=False, default=None)
    """Bytes of the body that the last answer announced."""
    _came: int = field(init=False, default=0)
    """Bytes that came after the headers of the last answer."""

    def __post_init__(self) -> None:
        self.socket = socket.socket()
        if self.receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self.socket.settimeout(self.timeout)
        try:
            self.socket.connect(("127.0.0.1", self.port))
            if isinstance(self.port, SecurePort):
                self.socket = self.port.tls.wrap_socket(self.socket, server_hostname="localhost")
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, path: str, method: str = "GET", headers: str = "", version: str = "1.1") -> None:
        self.send(f"{method} {path} HTTP/{version}\r\nHost: localhost\r\n{headers}\r\n".encode())

    def close(self) -> None:
        """FIN."""
        self.socket.close()

    def reset(self) -> None:
        """RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes of what comes, fewer only at the end of the connection."""
        while len(self._buffer) < size and self._more():
            pass
        return self._taken(size)

    def head(self) -> Answer:
        """Status and headers."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                raise ConnectionError("the connection ended before the headers did")
        text = self._taken(self._buffer.index(b"\r\n\r\n") + 4)[:-4]
        first, *lines = text.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._length = int(headers["content-length"]) if "content-length" in headers else None
        self._came = len(self._buffer)
        return Answer(int(first.split()[1]), headers)

    def answer(self) -> Answer:
        """The whole answer, however it ends."""
        answer = self.head()
        if answer.headers.get("transfer-encoding", "").lower() == "chunked":
            answer.body, answer.complete = self._chunked()
        else:
            length = int(answer.headers.get("content-length", "-1"))
            answer.body = self.read(length)
            answer.complete = len(answer.body) == length
        return answer

    def drained(self) -> tuple[int, bool]:
        """Reads a whole answer and keeps nothing of it: bytes of the connection after the headers, and whether the
        body ended as it must. The request has asked for `Connection: close`."""
        answer = self.head()
        assert answer.status == 200, answer
        total, tail = 0, b""
        while self._buffer or self._more():
            total += len(self._buffer)
            tail = (tail + self._buffer[-5:])[-5:]
            self._buffer.clear()
        length = answer.headers.get("content-length")
        return total, tail.endswith(b"0\r\n\r\n") if length is None else total == int(length)

    def ends_cleanly(self) -> bool:
        """Reads to the end of the connection from anywhere inside a body: whether its final chunk came, or as many
        bytes as announced."""
        while (self._length is None or self._came < self._length) and self._more():
            del self._buffer[:-5]
        return self._buffer.endswith(b"0\r\n\r\n") if self._length is None else self._came >= self._length

    def _chunked(self) -> tuple[bytes, bool]:
        body = []
        while True:
            line = self._line()
            if line is None:
                return b"".join(body), False
            size = int(line, 16)
            data = self.read(size)
            body.append(data)
            if len(data) < size or self._line() != b"":
                return b"".join(body), False
            if size == 0:
                return b"".join(body), True

    def _line(self) -> bytes | None:
        while b"\r\n" not in self._buffer:
            if not self._more():
                return None
        return self._taken(self._buffer.index(b"\r\n") + 2)[:-2]

    def _taken(self, size: int) -> bytes:
        """The first bytes of what came, which are away then."""
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _more(self) -> bool:
        try:
            data = self.socket.recv(256 << 10)
        except (ConnectionError, TimeoutError, ssl.SSLError) as error:
            if isinstance(error, TimeoutError):
                raise
            return False
        self._buffer += data
        self._came += len(data)
        return bool(data)
