"""Settings as what stands at the entrance; and how late the event loop is."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from support import certificates
from support.keys import Keys

from streamer.access.scope import EVERYTHING
from streamer.entrance import entrance
from streamer.errors import InvalidRequest, NotFound, NotPermitted, TooManyRequests
from streamer.lag import sample
from streamer.settings import load


def test_without_anything_nobody_has_to_say_who_asks() -> None:
    made = entrance(load())
    assert made.keys is None
    assert (made.protection.authenticated, made.protection.tls, made.protection.plain) == (False, None, False)
    assert (made.protection.socket_mode, made.protection.socket_owner) == (0o600, None)


def test_what_is_set_is_in_force(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.add("a", EVERYTHING)
    chain, key = certificates.write(tmp_path, certificates.leaf("localhost"))
    made = entrance(
        load(
            tokens=keys.path,
            tls_certificate=chain,
            tls_key=key,
            socket_mode="0660",
            socket_owner="root:0",
            header_timeout=3,
            idle_timeout=4,
            stall_timeout=10,
            max_connections=2,
            request_rate=0.5,
            max_exports_per_client=1,
        )
    )
    assert made.keys is not None and made.keys.value[0].name == "a"
    assert made.protection.authenticated and made.protection.tls is not None
    assert (made.protection.socket_mode, made.protection.socket_owner) == (0o660, (0, 0))
    assert (made.patience.headers, made.patience.idle) == (3, 4)
    assert made.patience.unacknowledged > 10, "a client that stalls is told from one that is gone"
    assert [made.connections.enter("a") for _ in range(3)] == [True, True, False]
    made.shares.request("a")
    with pytest.raises(TooManyRequests):
        made.shares.request("a")
    with made.shares.export("a"), pytest.raises(TooManyRequests), made.shares.export("a"):
        pass


def test_certificates_of_clients_say_who_asks(tmp_path: Path) -> None:
    chain, key = certificates.write(tmp_path, certificates.leaf("localhost"))
    assert not entrance(load(tls_certificate=chain, tls_key=key)).protection.authenticated
    ca = certificates.write_authority(tmp_path / "ca.pem")
    assert entrance(load(tls_certificate=chain, tls_key=key, tls_client_ca=ca)).protection.authenticated


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("root", (0, -1)),
        ("root:root", (0, 0)),
        (":root", (-1, 0)),
        ("12:34", (12, 34)),
        (":7", (-1, 7)),
        ("7", (7, -1)),
    ],
)
def test_owners(owner: str, expected: tuple[int, int]) -> None:
    assert entrance(load(socket_owner=owner)).protection.socket_owner == expected


def test_what_cannot_be_used(tmp_path: Path) -> None:
    for owner in ("nobody-like-this", "root:no-such-group"):
        with pytest.raises(InvalidRequest, match="STREAMER_SOCKET_OWNER="):
            entrance(load(socket_owner=owner))
    with pytest.raises(NotFound, match="tokens"):
        entrance(load(tokens=tmp_path / "missing"))
    (tmp_path / "open").touch(0o666)
    (tmp_path / "open").chmod(0o666)
    with pytest.raises(NotPermitted, match="every user"):
        entrance(load(tokens=tmp_path / "open"))


async def test_the_loop_is_late_by_as_much_as_it_was_kept() -> None:
    late: list[float] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sample, late.append, 0.01)
        while len(late) < 10:
            await anyio.sleep(0.01)
        kept = time.monotonic()
        time.sleep(0.5)
        kept = time.monotonic() - kept
        count = len(late)
        while len(late) == count:
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert 0.45 < late[count] < kept + 60
    assert min(late) < 0.3
