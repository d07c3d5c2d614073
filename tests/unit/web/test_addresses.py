"""Nobody gets in: which addresses may be listened on with which protection, and who may use a unix socket."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from aiohttp import web
from support.leaks import held, settles
from support.serving import secured

from streamer.errors import InvalidRequest, NotPermitted
from streamer.web.addresses import OWNER_ONLY, Protection, parsed
from streamer.web.server import listening

TLS = secured()
OTHERS = ["0.0.0.0:8080", "192.168.1.1:1", "[::]:80", "[fe80::1]:80", "[::ffff:10.0.0.1]:80"]
LOOPBACK = ["127.0.0.1:0", "127.9.9.9:1", "localhost:80", "[::1]:80", ":8080", "unix:/run/s"]

NOT_PROTECTED = {
    "nothing": (OWNER_ONLY, "nobody has to say who asks"),
    "TLS only": (Protection(tls=TLS), "nobody has to say who asks"),
    "plain allowed": (Protection(plain=True), "nobody has to say who asks"),
    "tokens only": (Protection(authenticated=True), "without TLS"),
}
PROTECTED = [Protection(tls=TLS, authenticated=True), Protection(authenticated=True, plain=True)]


@pytest.mark.parametrize("name", NOT_PROTECTED)
@pytest.mark.parametrize("address", OTHERS)
def test_what_other_machines_reach_needs_protection(address: str, name: str) -> None:
    protection, said = NOT_PROTECTED[name]
    with pytest.raises(InvalidRequest, match=f"refusing to listen on .*{said}.*STREAMER_") as caught:
        parsed(address, protection)
    assert caught.value.details == {"parameter": "listen"}
    assert address in str(caught.value)


@pytest.mark.parametrize("address", OTHERS)
def test_and_with_it_is_listened_on(address: str) -> None:
    for protection in PROTECTED:
        assert str(parsed(address, protection)) == address


@pytest.mark.parametrize("address", LOOPBACK)
def test_what_only_this_machine_reaches_needs_none(address: str) -> None:
    for protection in (*(each for each, _ in NOT_PROTECTED.values()), *PROTECTED):
        assert parsed(address, protection).path in (None, "/run/s")


async def test_sockets_that_somebody_else_bound_are_judged_alike() -> None:
    before = held()
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InvalidRequest, match=rf"refusing to listen on 0\.0\.0\.0:{port}"):
            async with listening(web.Application(), [], inherited=[listener.dup()]):
                pass
    listener = socket.create_server(("0.0.0.0", 0))
    async with listening(web.Application(), [], inherited=[listener], protection=PROTECTED[1]) as running:
        assert running.addresses == [f"http://0.0.0.0:{listener.getsockname()[1]}"]
    assert await settles(before) == []


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o000])
async def test_a_unix_socket_with_a_mode(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    original = socket.socket.listen

    def listen(self: socket.socket, *arguments: int) -> None:
        path = self.getsockname()
        states.append(stat.S_IMODE(os.lstat(path).st_mode))
        original(self, *arguments)

    monkeypatch.setattr(socket.socket, "listen", listen)
    path = tmp_path / "s"
    async with listening(web.Application(), [f"unix:{path}"], protection=Protection(socket_mode=mode)):
        assert stat.S_IMODE(path.lstat().st_mode) == mode
    assert states[0] == mode, "before anybody can connect"
    assert not path.exists()


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "expected"), [((12345, -1), (12345, 0)), ((-1, 54321), (0, 54321)), ((7, 8), (7, 8))]
)
async def test_a_unix_socket_with_an_owner(owner: tuple[int, int], expected: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "s"
    protection = Protection(socket_mode=0o660, socket_owner=owner)
    async with listening(web.Application(), [f"unix:{path}"], protection=protection):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == expected
        assert stat.S_IMODE(status.st_mode) == 0o660


@pytest.mark.root
async def test_only_whom_the_mode_lets_can_connect(tmp_path: Path) -> None:
    """The kernel's check, by a process of another user."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent.stat().st_mode & 0o005 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    path = tmp_path / "s"

    def connects(group: int) -> bool:
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(group)
                os.setuid(23456)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
                os._exit(0)
            except PermissionError:
                os._exit(1)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 1)
        return code == 0

    for mode, group, allowed in ((0o600, 4242, False), (0o660, 4242, True), (0o660, 4243, False), (0o666, 4243, True)):
        protection = Protection(socket_mode=mode, socket_owner=(-1, 4242))
        async with listening(web.Application(), [f"unix:{path}"], protection=protection):
            assert connects(group) == allowed, (oct(mode), group)


async def test_an_owner_that_cannot_be_given_leaves_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    before = held()
    with pytest.raises(NotPermitted, match="cannot listen on"):
        async with listening(web.Application(), [f"unix:{tmp_path}/s"], protection=Protection(socket_owner=(1, 1))):
            pass
    assert os.listdir(tmp_path) == []
    assert await settles(before) == []
