"""What COPY and ADD make: members of a layer, told from the context, the image below and the destination."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support import images, trees
from support.archives import Record, entries
from support.images import directory, file, layer, link, symlink
from support.trees import Dir, File, Link, Socket, Symlink

from streamer.build import packed, placing
from streamer.build.placing import Manner
from streamer.changeset.patterns import Patterns
from streamer.context.pick import pick
from streamer.context.tree import DirectoryTree
from streamer.errors import (
    InvalidArchive,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SourceChanged,
    StreamerError,
    Unsupported,
)
from streamer.mounts.table import MountTable
from streamer.stores.base import Image
from streamer.stores.local.store import LocalStore
from streamer.tar.source import Limits

BELOW = layer(
    directory("etc/"),
    file("etc/passwd", b"root:x:0:0::/:\nweb:x:1001:1002::/:\nbad:x:no:1::\n"),
    file("etc/group", b"root:x:0:\nstaff:x:50:web\nweb:x:1002:\n"),
    directory("srv/", mode=0o750, uid=7, gid=8),
    file("srv/old", b"old"),
    directory("srv/one/"),
    file("srv/one/inner", b"x"),
    directory("sticky/", mode=0o2755, gid=9),
    symlink("link", "srv"),
    symlink("up", "../../etc"),
    symlink("dangling", "srv/none"),
    symlink("loop", "loop"),
    symlink("to-passwd", "/etc/passwd"),
)
INNER = layer(
    directory("in/", mode=0o711, uid=3),
    file("in/file", b"inside", mode=0o640, uid=3, gid=4),
    symlink("in/link", "file"),
    link("in/hard", "in/file"),
    file("implied/deep/file", b"deep", mode=0o600),
    file("in/file2", b"later", mode=0o600),
)
CONTEXT = (
    File("one", "1", mode=0o644),
    File("two", "22", mode=0o4755),
    File("shared", "s", mode=0o2755),
    Symlink("to-one", "one"),
    Dir(
        "dir",
        File("a", "a", mode=0o600),
        Link("z", "dir/a"),
        Dir("sub", File("b", "b", mode=0o644), Symlink("c", "/out"), mode=0o700),
        Dir("one", mode=0o711),
        mode=0o751,
    ),
    Dir("excluded", File("kept", "k", mode=0o644), File("gone", "g"), mode=0o700),
    File("inner.tar", INNER, mode=0o644),
    File("inner.tgz", gzip.compress(INNER), mode=0o644),
    File("no.tar", b"no archive", mode=0o644),
)
SRV = Record(b"srv/", "d", 0o750, (7, 8))


def d(name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> Record:
    return Record(name.encode(), "d", mode, owner)


def f(name: str, mode: int = 0o644, size: int = 1, owner: tuple[int, int] = (0, 0)) -> Record:
    return Record(name.encode(), "-", mode, owner, size)


@asynccontextmanager
async def below(place: Path) -> AsyncIterator[Image]:
    made = images.image(BELOW, names=["a:1"])
    async with LocalStore.open(place / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(made))))
        yield await store.image("a:1")


@contextmanager
def context(place: Path) -> Iterator[DirectoryTree]:
    root = os.open(trees.make(place / "context", *CONTEXT), os.O_RDONLY)
    try:
        yield DirectoryTree(root, Patterns(["excluded", "!excluded/kept"]))
    finally:
        os.close(root)


def copied(
    tree: DirectoryTree, image: Image | None, sources: Sequence[str], destination: str, **manner: object
) -> bytes:
    table = MountTable()
    wanted = replace(Manner(destination.encode()), **manner)  # type: ignore[arg-type]
    items = pick(tree, [source.encode() for source in sources]).items
    try:
        return b"".join(placing.layer(table, image, items, wanted))
    finally:
        assert table.statistics().leases == 0


DIR = (
    f("x/a", 0o600),
    d("x/one/", 0o711),
    d("x/sub/", 0o700),
    f("x/sub/b"),
    Record(b"x/sub/c", "l", 0o777, (0, 0), 0, b"/out"),
    Record(b"x/z", "h", 0o600, (0, 0), 0, b"x/a"),
)


def below_srv() -> list[Record]:
    return [
        record._replace(name=b"srv" + record.name[1:], target=record.target.replace(b"x/", b"srv/")) for record in DIR
    ]


UNPACKED = (
    d("new/"),
    d("new/implied/"),
    d("new/implied/deep/"),
    d("new/in/", 0o711, (3, 0)),
    Record(b"new/in/link", "l", 0o777, (0, 0), 0, b"file"),
    f("new/in/file", 0o644, 6),
    f("new/implied/deep/file", 0o600, 4),
    f("new/in/file2", 0o600, 5),
    Record(b"new/in/hard", "h", 0o644, (0, 0), 0, b"new/in/file"),
)

CASES: dict[str, tuple[list[str], str, dict[str, object], list[Record]]] = {
    "a file": (["one"], "/x", {}, [f("x")]),
    "into the root": (["one"], "/", {}, [f("one")]),
    "into a new directory": (["one"], "/x/", {}, [d("x/"), f("x/one")]),
    "into a directory": (["one"], "/etc", {}, [d("etc/"), f("etc/one")]),
    "over a file": (["one"], "/srv/old", {}, [SRV, f("srv/old")]),
    "in place of a directory": (["one"], "/srv/", {}, [SRV, f("srv/one")]),
    "new parents": (["one"], "/x/y/z", {}, [d("x/"), d("x/y/"), f("x/y/z")]),
    "several": (["one", "two"], "/x/", {}, [d("x/"), f("x/one"), f("x/two", 0o755, 2)]),
    "through a link": (["one"], "/link/", {}, [SRV, f("srv/one")]),
    "through a link that leads up": (["one"], "/up/x", {}, [d("etc/"), f("etc/x")]),
    "to a link without target": (["one"], "/dangling", {}, [SRV, f("srv/none")]),
    "above the root": (["one"], "/../../x", {}, [f("x")]),
    "what is a link": (["to-one"], "/x/", {}, [d("x/"), f("x/to-one")]),
    "set-group-ID above": (
        ["one"], "/sticky/x/y", {}, [d("sticky/", 0o2755, (0, 9)), d("sticky/x/", 0o2755), f("sticky/x/y")]
    ),
    "set-user-ID": (["two"], "/x", {}, [f("x", 0o755, 2)]),
    "set-group-ID": (["shared"], "/x", {}, [f("x", 0o755)]),
    "owners kept": (["two"], "/x", {"keep": True}, [f("x", 0o4755, 2)]),
    "a directory": (["dir"], "/x", {}, [d("x/"), *DIR]),
    "a directory into one": (["dir"], "/srv", {}, [SRV, *below_srv()]),
    "an empty directory into one": (["dir/one"], "/srv", {}, [SRV]),
    "an empty directory into the root": (["dir/one"], "/", {}, []),
    "an owner": (["dir/sub/b"], "/x/y", {"chown": "web"}, [d("x/", owner=(1001, 1002)), f("x/y", owner=(1001, 1002))]),
    "an owner of a directory": (["dir/one"], "/x/y", {"chown": "5:staff"}, [d("x/"), d("x/y/", owner=(5, 50))]),
    "an owner, kept otherwise": (["one"], "/x", {"chown": "7", "keep": True}, [f("x", owner=(7, 7))]),
    "a mode": (["one", "dir/one"], "/x/", {"mode": 0o600}, [d("x/"), f("x/one", 0o600)]),
    "what is left of a directory": (["excluded/kept"], "/x", {}, [f("x")]),
    "a directory of which something is left": (["excluded"], "/x", {}, [d("x/"), f("x/kept")]),
    "the same in another one": (["exclu*", "excluded"], "/x/", {}, [d("x/"), f("x/kept")]),
    "over what it brought itself": (["one", "dir", "one"], "/x/", {}, [d("x/"), DIR[0], f("x/one"), *DIR[2:]]),
    "an archive": (["inner.tar"], "/new", {"unpack": True}, list(UNPACKED)),
    "a compressed archive": (["inner.tgz"], "/new/", {"unpack": True}, list(UNPACKED)),
    "an archive as it is": (["inner.tar"], "/new", {}, [f("new", 0o644, len(INNER))]),
    "no archive": (["no.tar"], "/new", {"unpack": True}, [f("new", 0o644, 10)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_what_is_made(tmp_path: Path, name: str) -> None:
    sources, destination, manner, expected = CASES[name]
    async with below(tmp_path) as image:
        with context(tmp_path) as tree:
            assert entries(copied(tree, image, sources, destination, **manner)) == expected


async def test_a_directory_that_a_file_replaced_comes_back_empty(tmp_path: Path) -> None:
    """The mark hides what the image had there."""
    async with below(tmp_path) as image:
        with context(tmp_path) as tree:
            made = entries(copied(tree, image, ["one", "dir"], "/srv/"))
    assert [record.name for record in made][:4] == [b"srv/", b"srv/a", b"srv/one/", b"srv/one/.wh..wh..opq"]


def test_on_nothing(tmp_path: Path) -> None:
    with context(tmp_path) as tree:
        assert entries(copied(tree, None, ["dir"], "/x")) == [d("x/"), *DIR]
        with pytest.raises(InvalidRequest, match="no user 'web'"):
            copied(tree, None, ["one"], "/x", chown="web")


REFUSED: dict[str, tuple[list[str], str, dict[str, object], type[StreamerError], str]] = {
    "below a file": (["one"], "/srv/old/x", {}, InvalidRequest, "srv/old: it is no directory"),
    "a directory onto a file": (["dir"], "/srv/old", {}, InvalidRequest, "srv/old: it is no directory"),
    "a file with a slash": (["one"], "/srv/old/", {}, InvalidRequest, "srv/old: it is no directory"),
    "links in circles": (["one"], "/loop/x", {}, InvalidRequest, "symbolic links"),
    "an unknown user": (["one"], "/x", {"chown": "nobody"}, InvalidRequest, "no user 'nobody' in /etc/passwd"),
    "an unknown group": (["one"], "/x", {"chown": "web:wheel"}, InvalidRequest, "no group 'wheel' in /etc/group"),
    "a user without number": (["one"], "/x", {"chown": "bad"}, InvalidRequest, "no user 'bad'"),
    "no user": (["one"], "/x", {"chown": ":web"}, InvalidRequest, "not of the form"),
    "a large number": (["one"], "/x", {"chown": "4294967295"}, InvalidRequest, "number 4294967295"),
}


def test_sockets_are_no_part_of_a_context(tmp_path: Path) -> None:
    with context(tmp_path) as tree:
        before = pick(tree, [b"dir"]).hash
        trees.make(tmp_path / "context", Dir("dir", Socket("socket"), mode=0o751))
        again = DirectoryTree(tree.root, Patterns([]))
        assert pick(again, [b"dir"]).hash == before
        assert entries(copied(again, None, ["dir"], "/x")) == [d("x/"), *DIR]
        with pytest.raises(NotFound, match="dir/socket: file not found"):
            pick(again, [b"dir/socket"])


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(tmp_path: Path, name: str) -> None:
    sources, destination, manner, kind, message = REFUSED[name]
    async with below(tmp_path) as image:
        with context(tmp_path) as tree, pytest.raises(kind, match=message):
            copied(tree, image, sources, destination, **manner)


HOSTILE: dict[str, tuple[bytes, type[StreamerError]]] = {
    "up": (layer(file("../x", b"x")), InvalidArchive),
    "up in the middle": (layer(file("a/../../x", b"x")), InvalidArchive),
    "a hard link to elsewhere": (layer(link("x", "/etc/passwd")), Unsupported),
    "a hard link that leads up": (layer(link("x", "../../etc/passwd")), InvalidArchive),
    "a whiteout": (layer(file("a/.wh.b", b"")), Unsupported),
    "cut": (layer(file("a", bytes(2000)))[:1500], InvalidArchive),
    "a bomb": (gzip.compress(layer(file("a", bytes(3 << 20)))), LimitExceeded),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(tmp_path: Path, name: str) -> None:
    data, kind = HOSTILE[name]
    with context(tmp_path) as tree:
        (tmp_path / "context/x.tar").write_bytes(data)
        with pytest.raises(kind):
            copied(tree, None, ["x.tar"], "/new", unpack=True, limits=Limits(total=1 << 20))


def test_links_of_an_archive_lead_nowhere_else(tmp_path: Path) -> None:
    data = layer(symlink("out", "/etc"), file("out/passwd", b"mine"), symlink("up", "../.."), file("up/x", b"x"))
    with context(tmp_path) as tree:
        (tmp_path / "context/x.tar").write_bytes(data)
        made = entries(copied(tree, None, ["x.tar"], "/new", unpack=True))
    assert {record.name for record in made} == {
        b"new/", b"new/etc/", b"new/etc/passwd", b"new/out", b"new/up", b"new/x"
    }  # fmt: skip


def test_absolute_names_of_an_archive(tmp_path: Path) -> None:
    with context(tmp_path) as tree:
        (tmp_path / "context/x.tar").write_bytes(layer(directory("./"), file("/abs", b"x"), file("./rel", b"y")))
        made = entries(copied(tree, None, ["x.tar"], "/new", unpack=True))
    assert [record.name for record in made] == [b"new/", b"new/abs", b"new/rel"]


def test_a_name_that_comes_twice_comes_once(tmp_path: Path) -> None:
    """Docker cannot store a layer with a name in it twice."""
    data = layer(
        file("a", b"first"), file("b", b"b"), directory("a/"), file("a/x", b"x"), directory("a/"), file("b", b"B")
    )
    with context(tmp_path) as tree:
        (tmp_path / "context/x.tar").write_bytes(data)
        made = copied(tree, None, ["x.tar"], "/", unpack=True)
    names = [record.name for record in entries(made)]
    assert sorted(names) == [b"a/", b"a/.wh..wh..opq", b"a/x", b"b"]
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        content = archive.extractfile("b")
        assert content is not None and content.read() == b"B"


@pytest.mark.parametrize("target", [file("x/z", b""), symlink("x/z", "nowhere")], ids=["an empty file", "a link"])
async def test_hard_links_come_behind_what_they_are_links_to(tmp_path: Path, target: tuple[object, bytes]) -> None:
    """Also where an archive has them in another order than that of their names."""
    data = layer(target, link("x/a", "x/z"))
    with context(tmp_path) as tree:
        (tmp_path / "context/x.tar").write_bytes(data)
        made = copied(tree, None, ["x.tar"], "/", unpack=True)
    assert [record.name for record in entries(made)] == [b"x/", b"x/z", b"x/a"]


async def test_a_directory_of_an_archive_in_place_of_a_link(tmp_path: Path) -> None:
    """What the link led to is neither written to nor in the way."""
    data = layer(directory("link/"), file("link/old/x", b"x"), directory("up/"), file("up/passwd", b"mine"))
    async with below(tmp_path) as image:
        with context(tmp_path) as tree:
            (tmp_path / "context/x.tar").write_bytes(data)
            made = entries(copied(tree, image, ["x.tar"], "/", unpack=True))
    assert sorted(record.name for record in made) == [
        b"link/", b"link/.wh..wh..opq", b"link/old/", b"link/old/x", b"up/", b"up/.wh..wh..opq", b"up/passwd"
    ]  # fmt: skip


@pytest.mark.parametrize("moment", ["is_archive", "unpack", "members"])
def test_an_archive_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """What is unpacked is what was hashed, between whichever two looks it is replaced."""
    with context(tmp_path) as tree:
        archive = tmp_path / "context/x.tar"
        archive.write_bytes(layer(file("a", b"AAAA")))
        where = packed.Packed if moment == "is_archive" else placing
        original = getattr(where, moment)

        def replaced(*arguments: object) -> object:
            archive.write_bytes(layer(file("a", b"ZZZZ")))
            return original(*arguments)

        items = pick(tree, [b"x.tar"]).items
        monkeypatch.setattr(where, moment, replaced)
        with pytest.raises(SourceChanged, match=r"x\.tar: it changed meanwhile"):
            list(placing.layer(MountTable(), None, items, Manner(b"/", unpack=True)))


@pytest.mark.root
@pytest.mark.parametrize("sources", [["dir"], ["."], ["*"], ["dir/there/file"], ["dir/there"]])
def test_what_is_mounted_in_a_context_is_not_passed_by(tmp_path: Path, sources: list[str]) -> None:
    with context(tmp_path) as tree:
        there = tmp_path / "context/dir/there"
        there.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", there], check=True)
        try:
            (there / "file").touch()
            with pytest.raises(Unsupported, match=r"dir/there.* another file system is mounted there"):
                copied(tree, None, sources, "/x/")
        finally:
            subprocess.run(["umount", there], check=True)


VOLUMES = {
    "a file": ("/etc/passwd", "/etc/passwd"),
    "below a file": ("/srv/old/x", "/srv/old"),
    "a link to a file": ("/to-passwd", "/etc/passwd"),
    "a directory": ("/etc", ""),
    "a link to a directory": ("/link", ""),
    "nothing": ("/new/one", ""),
    "the root": ("/", ""),
    "relative": ("srv", ""),
}


@pytest.mark.parametrize("name", VOLUMES)
async def test_where_a_volume_may_be(tmp_path: Path, name: str) -> None:
    path, there = VOLUMES[name]
    async with below(tmp_path) as image:
        if there:
            with pytest.raises(InvalidRequest, match=f"the image has a file {there}"):
                placing.directories(MountTable(), image, [path])
        else:
            placing.directories(MountTable(), image, [path])


def test_names_of_deletions_are_refused(tmp_path: Path) -> None:
    with context(tmp_path) as tree:
        (tmp_path / "context/dir/.wh.a").write_text("")
        with pytest.raises(Unsupported, match="deletion"):
            copied(tree, None, ["dir"], "/x")


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    table = MountTable()
    with context(tmp_path) as tree:
        (tmp_path / "context/dir/big").write_bytes(bytes(2 << 20))
        chunks = placing.layer(table, None, pick(tree, [b"dir"]).items, Manner(b"/x"))
        next(chunks)
        (tmp_path / "context/dir/sub/b").write_text("other")
        with pytest.raises(SourceChanged, match="sub/b: it changed meanwhile"):
            list(chunks)
