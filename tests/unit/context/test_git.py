"""Contexts from git: a real server, and everything hostile that a source or a repository can be."""

from __future__ import annotations

import asyncio
import shutil
import socket
import stat
from pathlib import Path

import pytest
from aiohttp import web
from support.gits import files, git, repository, served

from streamer.context import git as gits
from streamer.context.addresses import Policy
from streamer.context.git import Limits, Repository
from streamer.context.source import Kind, kind, masked
from streamer.errors import (
    FetchFailed,
    InvalidRequest,
    LimitExceeded,
    NotPermitted,
    Stalled,
    StreamerError,
    Unsupported,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = repository(
        tmp_path / "served/one.git", {"Dockerfile": "FROM scratch\n", "sub/a": "1", "run.sh": "#!/bin/sh"}
    )
    (place / "run.sh").chmod(0o755)
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "mode")
    git(place, "branch", "other")
    git(place, "tag", "v1")
    repository(place, {"sub/a": "2", "new": "x"})
    return tmp_path / "served"


NEW = {"Dockerfile": "FROM scratch\n", "new": "x", "run.sh": "#!/bin/sh", "sub/a": "2"}
OLD = {"Dockerfile": "FROM scratch\n", "run.sh": "#!/bin/sh", "sub/a": "1"}


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [("", NEW), ("#", NEW), ("#main", NEW), ("#other", OLD), ("#v1", OLD), ("#refs/tags/v1", OLD), ("#:sub", NEW)],
)
async def test_refs(root: Path, tmp_path: Path, fragment: str, expected: dict[str, str]) -> None:
    async with served(root) as url:
        assert await files(f"{url}/one.git{fragment}", tmp_path / "work") == expected
    assert stat.S_IMODE((tmp_path / "work/repository/run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "work/repository/Dockerfile").stat().st_mode) == 0o644


async def test_a_commit(root: Path, tmp_path: Path) -> None:
    commit = git(root / "one.git", "rev-parse", "other").strip()
    async with served(root) as url:
        assert await files(f"{url}/one.git#{commit}", tmp_path / "work") == OLD


async def test_a_server_of_plain_files(root: Path, tmp_path: Path) -> None:
    git(root / "one.git", "update-server-info")
    async with served(root, dumb=True) as url:
        assert await files(f"{url}/one.git/.git#main", tmp_path / "work") == NEW


async def test_submodules(root: Path, tmp_path: Path) -> None:
    asked: list[web.Request] = []
    async with served(root, asked) as url:
        repository(root / "inner.git", {"deep": "3"})
        middle = repository(root / "middle.git", {"m": "2"})
        git(middle, "submodule", "add", "-q", root / "inner.git", "in")
        git(middle, "config", "-f", ".gitmodules", "submodule.in.url", "../inner.git")
        git(middle, "commit", "-qam", "sub")
        outer = repository(root / "outer.git", {"o": "1"})
        git(outer, "submodule", "add", "-q", root / "middle.git", "mid")
        git(outer, "config", "-f", ".gitmodules", "submodule.mid.url", f"{url}/middle.git")
        git(outer, "commit", "-qam", "sub")
        assert await files(f"{url}/outer.git", tmp_path / "work") == {
            ".gitmodules": (outer / ".gitmodules").read_text(), "mid/.gitmodules": (middle / ".gitmodules").read_text(),
            "mid/in/deep": "3", "mid/m": "2", "o": "1",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("http://169.254.169.254/x.git", NotPermitted),
        ("http://10.0.0.1/x.git", NotPermitted),
        ("file:///etc", NotPermitted),
        ("/etc", NotPermitted),
        ("ext::sh -c touch% /tmp/streamer-owned", NotPermitted),
        ("ssh://-oProxyCommand=touch%20x/x", NotPermitted),
        ("-u./payload", StreamerError),
    ],
)
async def test_hostile_submodules(root: Path, tmp_path: Path, module: str, error: type[StreamerError]) -> None:
    outer = repository(root / "outer.git", {"o": "1"})
    git(outer, "submodule", "add", "-q", root / "one.git", "mid")
    git(outer, "config", "-f", ".gitmodules", "submodule.mid.url", module)
    git(outer, "commit", "-qam", "sub")
    async with served(root) as url:
        with pytest.raises(error):
            await files(f"{url}/outer.git", tmp_path / "work")
    assert not Path("/tmp/streamer-owned").exists()


async def test_hooks_and_configuration_of_a_repository_do_nothing(root: Path, tmp_path: Path) -> None:
    outer = repository(root / "outer.git", {".gitattributes": "* filter=evil", "a": "x", ".gitconfig": "[core]\n"})
    (outer / ".git/hooks/post-checkout").write_text("#!/bin/sh\ntouch /tmp/streamer-owned\n")
    (outer / ".git/hooks/post-checkout").chmod(0o755)
    async with served(root) as url:
        await files(f"{url}/outer.git", tmp_path / "work")
    assert not Path("/tmp/streamer-owned").exists()


HOSTILE = [
    "--upload-pack=touch x", "-x", "ext::sh -c x", "file:///etc", "/etc", "ssh://-oProxyCommand=x/y", "http://",
    "http://h/-x.git", "ssh://-u@h/x", "http://h/x.git#-x", "http://h/x.git#--upload-pack=x", "http://h/x.git#a..b",
    "http://h/x.git#a b", "http://h/x.git#a\nb", "http://h/x.git#@{0}", "http://h/x.git#a:../x", "http://h/x.git#:a/../../x",
    "http://h/x.git#a:b\0c", "git@-x:y", "http://h:99999/x.git", "http://h\n/x.git", "http://h/x.git#a~1", "http://h/x.git#x.lock",
]  # fmt: skip


@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_sources(source: str) -> None:
    with pytest.raises(InvalidRequest):
        gits.parsed(source)


def test_parsed() -> None:
    assert gits.parsed("https://h/x.git") == Repository("https://h/x.git")
    assert gits.parsed("https://u:p%40@h:8/x.git#r:d/e") == Repository("https://h:8/x.git", "r", "d/e", "u:p@")
    assert gits.parsed("github.com/a/b#v1") == Repository("https://github.com/a/b", "v1")
    assert gits.parsed("git@h.example:a/b.git#:d") == Repository("ssh://git@h.example/a/b.git", "", "d")
    assert gits.parsed("git://h/x") == Repository("git://h/x")
    assert "secret" not in repr(gits.parsed("https://u:secret@h/x.git"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("git://x", Kind.GIT), ("git@x:y", Kind.GIT), ("https://h/x.git", Kind.GIT), ("https://h/x.git#b", Kind.GIT),
        ("https://h/x.git#:dir", Kind.GIT), ("github.com/a/b", Kind.GIT), ("http://h/x.git:#branch", Kind.URL),
        ("https://github.com/docker/dgit", Kind.URL), ("-", Kind.INPUT), ("somewhere", Kind.DIRECTORY),
        ("http://h/x.tar", Kind.URL), ("ftp://h/x", Kind.DIRECTORY), ("ssh://git@h/x", Kind.GIT),
    ],
)  # fmt: skip
def test_kinds(source: str, expected: Kind) -> None:
    assert kind(source, is_directory=False) is expected
    assert kind(source, is_directory=True) is (Kind.INPUT if source == "-" else Kind.DIRECTORY)


async def test_what_git_is_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither options nor passwords in its arguments, nothing of this machine in its environment."""
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    log = tmp_path / "log"
    fake.write_text(f'#!/bin/sh\n(printf "%s\\0" "$@"; env) >> {log}\nexit 3\n')
    fake.chmod(0o755)
    monkeypatch.setattr(gits, "_PATH", str(fake.parent) + ":/bin:/usr/bin")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-this-machine")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    with pytest.raises(FetchFailed) as caught:
        await files("http://user:secret@127.0.0.1:1/x.git#ref", tmp_path / "work")
    said = log.read_text()
    assert "secret" not in str(caught.value)
    assert "secret" not in said
    assert "of-this-machine" not in said
    assert "proxy" not in said.replace("http.proxy", "")
    assert "GIT_TERMINAL_PROMPT=0" in said
    assert "Authorization: Basic" in said
    assert "127.0.0.1:1:127.0.0.1" in said


async def test_a_password_reaches_its_server_and_nothing_else(root: Path, tmp_path: Path) -> None:
    asked: list[web.Request] = []
    async with served(root, asked) as url:
        source = url.replace("://", "://user:secret@") + "/one.git"
        await files(source, tmp_path / "work")
        with pytest.raises(FetchFailed) as caught:
            await files(source.replace("one.git", "none.git"), tmp_path / "other")
    assert all(request.headers["Authorization"].startswith("Basic ") for request in asked)
    assert "secret" not in str(caught.value)
    for path in (tmp_path / "work").rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes()
    assert masked(source).startswith("http://***@127.0.0.1")


async def test_addresses(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(root) as url:
        for source in (f"{url}/one.git", url.replace("127.0.0.1", "localhost") + "/one.git"):
            with pytest.raises(NotPermitted, match="is not a public address"):
                await files(source, tmp_path / "work", Policy())
        # A name that answers differently later: git is told the address that was looked at.
        port = url.rpartition(":")[2]
        answers = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]]
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *a, **k: answers.pop(0) if "rebound" in str(host) else real(host, *a, **k),
        )
        assert await files(f"http://rebound.example:{port}/one.git", tmp_path / "work") == NEW


async def test_redirects_are_not_followed(tmp_path: Path) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://169.254.169.254/")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        with pytest.raises(FetchFailed):
            await files(f"http://127.0.0.1:{runner.addresses[0][1]}/x.git", tmp_path / "work")
    finally:
        await runner.cleanup()


async def test_limits_and_cancellation_end_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\necho $$ >> {tmp_path}/pids\n[ "$1" = init ] && mkdir "$4"; [ "$1" = init ] || '
        f"{{ head -c 3000000 /dev/zero > big; sleep 100 & echo $! >> {tmp_path}/pids; wait; }}\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(gits, "_PATH", str(fake.parent) + ":/bin:/usr/bin")
    monkeypatch.setattr(gits, "_LOOK", 0.05)
    with pytest.raises(LimitExceeded):
        await files("http://127.0.0.1:1/x.git", tmp_path / "one", limits=Limits(size=1_000_000))
    with pytest.raises(Stalled):
        await files("http://127.0.0.1:1/x.git", tmp_path / "two", limits=Limits(seconds=0.3))
    started = len((tmp_path / "pids").read_text().split())
    task = asyncio.create_task(files("http://127.0.0.1:1/x.git", tmp_path / "three"))
    while len((tmp_path / "pids").read_text().split()) < started + 3:  # init, clone, and what that starts
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for pid in (tmp_path / "pids").read_text().split():
        for _ in range(3000):
            try:
                if "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
                    break
            except (FileNotFoundError, ProcessLookupError):
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail(f"process {pid} is still there")


async def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gits, "_PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="git is not installed"):
        await files("http://127.0.0.1:1/x.git", tmp_path / "work")


async def test_without_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = tmp_path / "bin"
    only.mkdir()
    program = shutil.which("git")
    assert program is not None
    (only / "git").symlink_to(program)
    monkeypatch.setattr(gits, "_PATH", str(only))
    with pytest.raises(Unsupported, match="ssh is not installed"):
        await files("ssh://git@127.0.0.1:1/x.git", tmp_path / "work")
