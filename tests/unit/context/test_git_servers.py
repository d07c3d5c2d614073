"""What servers of git repositories can do: lead to other addresses, by names, redirects and submodules; make trees that
never end. Every submodule is held to what its repository is held to."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.gits import HERE, daemon, files, git, redirecting, repository, served

from streamer.context.addresses import Policy
from streamer.context.git import Limits
from streamer.context.source import masked
from streamer.errors import FetchFailed, LimitExceeded, NotPermitted


def with_submodule(root: Path, url: str) -> Path:
    """A repository outer.git whose submodule `in` is said to be at that URL; its commit is that of inner.git."""
    inner = repository(root / "inner.git", {"deep": "3"})
    outer = repository(root / "outer.git", {"o": "1"})
    git(outer, "submodule", "add", "-q", inner, "in")
    git(outer, "config", "-f", ".gitmodules", "submodule.in.url", url)
    git(outer, "commit", "-qam", "sub")
    git(outer, "update-server-info")
    return outer


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A name that this process finds here, once; whoever looks it up again finds nothing."""

    def known(host: str) -> None:
        answers = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]]
        real = socket.getaddrinfo

        def look_up(asked: Any, *rest: Any, **others: Any) -> Any:
            return answers.pop(0) if asked in (host, host.encode()) else real(asked, *rest, **others)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return known


@pytest.mark.parametrize("host", ["sub.rebound.example", "sub.rebound.example.", "SUB.Rebound.example"])
async def test_the_name_of_a_submodule_is_looked_up_once(
    tmp_path: Path, name: Callable[[str], None], host: str
) -> None:
    asked: list[web.Request] = []
    async with served(tmp_path / "served", asked) as url:
        name(host.lower())
        port = url.rpartition(":")[2]
        with_submodule(tmp_path / "served", f"http://{host}:{port}/inner.git")
        found = await files(f"{url}/outer.git", tmp_path / "work", HERE)
    assert found["in/deep"] == "3"
    assert any(request.host.lower().startswith("sub.rebound") for request in asked)


@pytest.mark.parametrize("host", ["rebound.example.", "REBOUND.example"])
async def test_other_spellings_of_a_name(tmp_path: Path, name: Callable[[str], None], host: str) -> None:
    repository(tmp_path / "served/one.git", {"a": "1"})
    async with served(tmp_path / "served") as url:
        name(host.lower())
        port = url.rpartition(":")[2]
        assert await files(f"http://{host}:{port}/one.git", tmp_path / "work", HERE) == {"a": "1"}


async def test_a_submodule_that_redirects(tmp_path: Path) -> None:
    reached: list[web.Request] = []
    async with served(tmp_path / "served", reached) as url, redirecting(f"{url}/inner.git") as other:
        with_submodule(tmp_path / "served", f"{other}/x.git")
        with pytest.raises(FetchFailed):
            await files(f"{url}/outer.git", tmp_path / "work", HERE)
    assert not [request for request in reached if "inner" in request.path]


@pytest.mark.parametrize(
    "module",
    [
        "http://h:99999/x.git",
        "http://[::1/x.git",
        "http://127.0.0.1:80:80/x",
        "http::http://127.0.0.1/x",
        "\thttp://127.0.0.1/x.git",
        "http://127.0.0.1/x.git ",
        "http://169.254.169.254\\@127.0.0.1/x.git",
        "http://0x7f.0.0.2/x.git",
        "http://2852039166/x.git",
        "http://[::ffff:169.254.169.254]/x.git",
        "http://[64:ff9b::a9fe:a9fe]/x.git",
    ],
)
async def test_urls_of_submodules_that_are_none(tmp_path: Path, module: str) -> None:
    with_submodule(tmp_path / "served", module)
    async with served(tmp_path / "served") as url:
        with pytest.raises(NotPermitted):
            await files(f"{url}/outer.git", tmp_path / "work", HERE)


async def test_a_submodule_on_a_server_of_plain_files(tmp_path: Path) -> None:
    async with served(tmp_path / "served", dumb=True) as url:
        with_submodule(tmp_path / "served", f"{url}/inner.git/.git")
        found = await files(f"{url}/outer.git/.git", tmp_path / "work", HERE)
    assert found["in/deep"] == "3"


async def test_a_password_is_not_for_submodules_of_other_servers(tmp_path: Path) -> None:
    asked: list[web.Request] = []
    async with served(tmp_path / "served", asked) as other, served(tmp_path / "served") as url:
        with_submodule(tmp_path / "served", f"{other}/inner.git")
        found = await files(url.replace("://", "://u:secret@") + "/outer.git", tmp_path / "work", HERE)
    assert found["in/deep"] == "3"
    assert asked
    assert not [request for request in asked if "Authorization" in request.headers]


async def test_gits_own_server(tmp_path: Path, name: Callable[[str], None]) -> None:
    repository(tmp_path / "served/one.git", {"a": "1"})
    with daemon(tmp_path / "served") as url:
        assert await files(f"{url}/one.git", tmp_path / "work", HERE) == {"a": "1"}
        name("rebound.example")
        there = url.replace("127.0.0.1", "rebound.example")
        assert await files(f"{there}/one.git#main", tmp_path / "other", HERE) == {"a": "1"}
        with pytest.raises(NotPermitted):
            await files(f"{url}/one.git", tmp_path / "third", Policy())


async def test_a_tree_that_never_ends(tmp_path: Path) -> None:
    """Ten directories in each of ten directories, and so on: a few kilobytes are ten thousand million files."""
    place = repository(tmp_path / "served/one.git", {"a": "1"})
    blob = git(place, "rev-parse", "HEAD:a").strip()
    tree = git(place, "mktree", given="".join(f"100644 blob {blob}\tf{number}\n" for number in range(10))).strip()
    for _ in range(9):
        tree = git(place, "mktree", given="".join(f"040000 tree {tree}\td{number}\n" for number in range(10))).strip()
    commit = git(place, "commit-tree", tree, "-m", "x").strip()
    git(place, "update-ref", "refs/heads/main", commit)
    async with served(tmp_path / "served") as url:
        with pytest.raises(LimitExceeded, match="needs more than 134217728 bytes of memory"):
            await files(f"{url}/one.git", tmp_path / "work", limits=Limits(memory=128 << 20))


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("https://u:secret@h/x", "https://***@h/x"),
        ("https://u:sec#ret@h/x", "https://***@h/x"),
        ("https://u:sec?ret@h/x", "https://***@h/x"),
        ("https://u:sec/ret@h/x", "https://***@h/x"),
        ("https://u:sec@ret@h/x", "https://***@h/x"),
        ("//u:secret@h/x", "//***@h/x"),
        ("https://h/x@y", "https://h/x@y"),
        ("https://h:80/x@y", "https://h:80/x@y"),
        ("https://h:80", "https://h:80"),
        ("git@h:x", "git@h:x"),
        ("https://u:" + "s" * 600 + "@h/x", "https://***@"),
    ],
)
def test_what_is_shown(source: str, shown: str) -> None:
    assert masked(source) == shown
