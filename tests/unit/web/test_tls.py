"""TLS and mutual TLS: who gets through the handshake, and that new files count without a restart."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from support import certificates

from streamer.access.watch import Watched
from streamer.errors import InvalidRequest, NotFound, NotPermitted
from streamer.web.addresses import Protection
from streamer.web.server import Server, listening
from streamer.web.tls import certificates as tls_of

OTHER = "somebody else"


@asynccontextmanager
async def serving(tls: Watched[ssl.SSLContext], unix: Path | None = None) -> AsyncIterator[Server]:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=request.scheme)

    app = web.Application()
    app.router.add_get("/", hello)
    addresses = ["127.0.0.1:0", *([f"unix:{unix}"] if unix else [])]
    async with listening(app, addresses, protection=Protection(tls=tls)) as server:
        yield server


def port(server: Server) -> int:
    return int(server.addresses[0].rpartition(":")[2])


async def greeting(server: Server, context: ssl.SSLContext | None) -> bytes:
    """What is answered; b"" if the connection ends without an answer."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port(server), ssl=context, server_hostname="localhost" if context else None
    )
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return (await reader.read()).rpartition(b"\r\n\r\n")[2]
    finally:
        writer.transport.abort()


async def refused(server: Server, context: ssl.SSLContext | None) -> bool:
    try:
        return await greeting(server, context) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def plain(directory: Path) -> Watched[ssl.SSLContext]:
    return tls_of(*certificates.write(directory, certificates.leaf("localhost")))


def mutual(directory: Path) -> Watched[ssl.SSLContext]:
    names = certificates.write(directory, certificates.leaf("localhost"))
    return tls_of(*names, certificates.write_authority(directory / "ca.pem"))


def context(*, most: ssl.TLSVersion | None = None, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    made = certificates.client(certificate=certificate)
    if most is not None:
        made.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        made.maximum_version = most
        made.set_ciphers("ALL:@SECLEVEL=0")
    return made


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_versions(tmp_path: Path) -> None:
    async with serving(plain(tmp_path)) as server:
        assert server.addresses[0].startswith("https://127.0.0.1:")
        for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
            assert await greeting(server, context(most=version)) == b"https"
        for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1):
            assert await refused(server, context(most=version))


async def test_who_is_not_let_through(tmp_path: Path) -> None:
    async with serving(plain(tmp_path)) as server:
        assert await refused(server, None), "plain HTTP"
        with pytest.raises(ssl.SSLCertVerificationError):
            await greeting(server, certificates.client(OTHER))
        assert await greeting(server, context()) == b"https"


async def test_unix_sockets_stay_plain(tmp_path: Path) -> None:
    async with serving(plain(tmp_path), tmp_path / "s") as server:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"http")
        writer.close()
        assert server.addresses[1] == f"unix:{tmp_path}/s"


async def test_only_clients_with_a_certificate_of_the_authority(tmp_path: Path) -> None:
    async with serving(mutual(tmp_path)) as server:
        assert await greeting(server, context(certificate=certificates.leaf("client.test"))) == b"https"
        assert await refused(server, context()), "no certificate"
        assert await refused(server, context(certificate=certificates.leaf("client.test", of=OTHER)))
        assert await refused(server, None)


async def test_a_new_certificate_counts(tmp_path: Path) -> None:
    tls = plain(tmp_path)
    async with serving(tls) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port(server), ssl=context(), server_hostname="localhost"
        )
        certificates.write(tmp_path, certificates.leaf("localhost", of=OTHER))
        assert tls.refresh()
        await server.renew(tls.value)
        with pytest.raises(ssl.SSLCertVerificationError):
            await greeting(server, context())
        assert await greeting(server, certificates.client(OTHER)) == b"https"
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"https"), "what was open goes on"
        writer.close()
        await server.close_listeners()
        with pytest.raises(OSError):
            await greeting(server, certificates.client(OTHER))


@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_authority_taken_away_lets_nobody_in(tmp_path: Path, most: ssl.TLSVersion) -> None:
    """Not even those who go on with a session from before."""
    tls = mutual(tmp_path)
    ours = context(most=most, certificate=certificates.leaf("client.test"))

    def session(earlier: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
        connection = socket.create_connection(("127.0.0.1", port(server)), timeout=60)
        with connection, ours.wrap_socket(connection, server_hostname="localhost", session=earlier) as secured:
            secured.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := secured.recv(1 << 16):
                answer += data
            return answer, secured.session, secured.session_reused

    async with serving(tls) as server:
        answer, earlier, _ = await asyncio.to_thread(session, None)
        assert answer.endswith(b"https")
        assert (await asyncio.to_thread(session, earlier))[2], "sessions can be resumed"
        certificates.write_authority(tmp_path / "ca.pem", OTHER)
        assert tls.refresh()
        await server.renew(tls.value)
        try:
            answer, _, _ = await asyncio.to_thread(session, earlier)
        except (ssl.SSLError, ConnectionError):
            answer = b""
        assert answer == b""
        assert await greeting(server, context(certificate=certificates.leaf("client.test", of=OTHER))) == b"https"


async def test_connections_that_come_during_a_renewal_are_not_lost(tmp_path: Path) -> None:
    tls = plain(tmp_path)
    async with serving(tls) as server:
        ended = asyncio.Event()

        async def ask() -> int:
            count = 0
            while not ended.is_set():
                assert await greeting(server, context()) == b"https"
                count += 1
            return count

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        for _ in range(30):
            await server.renew(tls.value)
        ended.set()
        assert sum([await each for each in asking]) > 0


@pytest.mark.parametrize("broken", ["chain", "key", "swapped", "missing"])
async def test_broken_files_keep_what_there_was(tmp_path: Path, broken: str) -> None:
    tls = plain(tmp_path)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    if broken == "swapped":
        key.write_bytes(certificates.leaf("localhost", of=OTHER).private_key_pem.bytes())
    elif broken == "missing":
        key.unlink()
    else:
        (chain if broken == "chain" else key).write_text("nonsense")
    before = tls.value
    assert not tls.refresh()
    assert tls.value is before


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    chain, key = certificates.write(tmp_path, certificates.leaf("localhost"))
    with pytest.raises(NotFound, match=r"missing\.pem"):
        tls_of(str(tmp_path / "missing.pem"), key)
    with pytest.raises(NotFound, match=r"missing\.key"):
        tls_of(chain, str(tmp_path / "missing.key"))
    with pytest.raises(InvalidRequest, match=r"as TLS certificate"):
        tls_of(key, key)
    with pytest.raises(InvalidRequest, match="authorities of clients"):
        tls_of(chain, key, key)
    with pytest.raises(NotFound, match="authorities of clients"):
        tls_of(chain, key, str(tmp_path / "missing"))
    os.chmod(key, 0o644)
    with pytest.raises(NotPermitted, match=r"key\.pem.*every user of this machine may read"):
        tls_of(chain, key)


def test_one_file_with_both(tmp_path: Path) -> None:
    chain, key = certificates.write(tmp_path, certificates.leaf("localhost"))
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_bytes(Path(chain).read_bytes() + Path(key).read_bytes())
    assert tls_of(str(both)).value
    both.chmod(0o644)
    with pytest.raises(NotPermitted, match="every user"):
        tls_of(str(both))


async def test_a_handshake_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamer.web import server as servers

    monkeypatch.setattr(servers, "_HANDSHAKE", 2)
    async with serving(plain(tmp_path)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(bytes.fromhex("1603010200"))
        try:
            assert await asyncio.wait_for(reader.read(), 60) == b""
        except ConnectionError:
            pass
        writer.close()
        assert await greeting(server, context()) == b"https"
