"""What the real classic builder makes of one COPY or ADD, and what streamer makes of it: the same layer, member by
member, the same text in history, and the same refusals."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import re
import socket
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from backports import zstd
from support import commandline, images
from support.dockerd import dockerd
from support.engines import Command, Engines
from support.overlays import parameters

from streamer.build import contexts
from streamer.build.copying import Copied, Order, copied, instruction
from streamer.build.workshop import LocalWorkshop
from streamer.context.tree import Hashing
from streamer.errors import StreamerError
from streamer.export.exporter import exporter
from streamer.stores.local.store import LocalStore

pytestmark = [pytest.mark.engine, pytest.mark.root]

PASSWD = b"root:x:0:0::/:\nweb:x:33:44::/:\n"
GROUPS = b"root:x:0:\nweb:x:34:\nstaff:x:50:\n"
BASE = images.layer(
    images.directory("dir", mode=0o2750, uid=7, gid=8),
    images.directory("dir/sub", mode=0o700, uid=9),
    images.directory("dir/held", mode=0o711),
    images.file("dir/held/inner", b"inner", mode=0o600),
    images.symlink("dir/src", "/file"),
    images.directory("etc"),
    images.file("etc/passwd", PASSWD),
    images.file("etc/group", GROUPS),
    images.file("file", b"old", mode=0o640, uid=5),
    images.symlink("to-dir", "dir"),
    images.symlink("to-file", "/file"),
    images.symlink("to-nothing", "gone/there"),
    images.symlink("up", "../../../dir"),
    images.symlink("loop", "loop"),
)
INNER = images.layer(
    images.directory("below", mode=0o711, uid=3),
    images.file("below/one", b"1", mode=0o640, uid=3, gid=4),
    images.symlink("below/link", "one"),
    images.link("below/hard", "below/one"),
    images.file("two", b"22", mode=0o4755),
    images.file("implied/deep", b"deep", mode=0o600),
)


@dataclass(frozen=True)
class Member:
    """One member of a layer, as far as both builders should agree on it."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    target: str
    content: bytes


@dataclass(frozen=True)
class Both:
    """The two builders, with the same base `base:1` and the same context."""

    docker: Command
    state: Path
    context: Path

    async def check(self, line: str, *, working_directory: str = "/") -> None:
        """Both make the same of the line, or both refuse it."""
        base = f"base:{working_directory.strip('/') or 'root'}"
        file = self.state.parent / "Dockerfile"
        file.write_text(f"FROM {base}\n{line}\n")
        build = ("build", "-q", "--no-cache", "-f", file, self.context)
        try:
            made = await self.copied(line, base)
        except StreamerError:
            self.docker(*build, fails=True)
            return
        layers = made.image.layers
        assert layers[-1].assemble is not None
        ours = members(b"".join(layers[-1].assemble())) if len(layers) > 1 else {}
        with parameters(change=False):
            theirs, created_by = self.described(self.docker.text(*build))
        assert ours == theirs
        assert _told(made.created_by) == created_by

    def described(self, image: str) -> tuple[dict[str, Member], str]:
        """The members of the last layer of an image of the real builder, and the text of its history."""
        with tarfile.open(fileobj=io.BytesIO(self.docker("save", image))) as saved:
            (manifest,) = json.loads(_content(saved, "manifest.json"))
            config = json.loads(_content(saved, manifest["Config"]))
            layers = manifest["Layers"]
            found = members(_content(saved, layers[-1])) if len(layers) > 1 else {}
        self.docker("rmi", "-f", image)
        return found, _told(config["history"][-1]["created_by"])

    async def copied(self, line: str, base: str) -> Copied:
        words = line.split(maxsplit=1)[1].split()
        if "[" in line:
            words = json.loads(line[line.index("[") :])
        given = dict(word[2:].split("=") for word in words if word.startswith("--"))
        *sources, destination = [word for word in words if not word.startswith("--")]
        order = Order(base, instruction(line.startswith("ADD"), sources, destination, **given), cache=False)
        async with (
            LocalStore.open(self.state) as store,
            exporter() as exports,
            contexts.entered(lambda: contexts.of_directory(os.fsencode(self.context), b"", Hashing.DOCKER_24)) as found,
        ):
            workshop = LocalWorkshop(store, exports.mounts, found.tree, Hashing.DOCKER_24)
            return await copied(order, workshop=workshop, look_up=store.image, naming=store)


def _told(created_by: str) -> str:
    """Whether there is a blank behind `--chown` depends on the version of Docker."""
    return re.sub(r"(--chown=\S+?) ?((?:file|dir|multi):)", r"\1 \2", created_by)


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None, name
    return member.read()


def members(layer: bytes) -> dict[str, Member]:
    """By name, without overlay's marks on directories that took the place of a file, which hide nothing; hard links of
    a file as files of its content, as which of its names comes first is nobody's matter."""
    found: dict[str, Member] = {}
    marked = {f"{name}/.wh..wh..opq" for name in ("file", "dir/src")}  # no directories of the base: nothing to hide
    with tarfile.open(fileobj=io.BytesIO(layer), errors="surrogateescape") as archive:
        for each in archive:
            if each.name in marked:
                continue
            if each.islnk():
                found[each.name] = found[each.linkname.rstrip("/")]
                continue
            data = archive.extractfile(each) if each.isfile() else None
            found[each.name] = Member(
                each.type, each.mode & 0o7777, (each.uid, each.gid), each.linkname, b"" if data is None else data.read()
            )
    return found


def fill(root: Path) -> Path:
    (root / "tree/below").mkdir(parents=True)
    (root / "tree/below/one").write_text("1")
    (root / "tree/two").write_text("2")
    (root / "tree/empty").mkdir()
    (root / "tree/empty").chmod(0o1777)
    os.link(root / "tree/two", root / "tree/also")
    (root / "tree/below/up").symlink_to("../two")
    (root / "tree/below").chmod(0o2750)
    os.mkfifo(root / "tree/pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(root / "tree")  # names of sockets are short
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
    for name, mode in {"src": 0o644, "other": 0o600, "held": 0o755, "set": 0o6755, "shared": 0o2745}.items():
        (root / name).write_text(name)
        (root / name).chmod(mode)
    os.chown(root / "other", 12, 13)
    for name in (b"od\xffd", "snö".encode(), b"new\nline", b"bl ank", b"back\\slash"):
        with open(os.path.join(os.fsencode(root), b"tree", b"below", name), "wb") as file:
            file.write(name)
    (root / "dir-held/held").mkdir(parents=True)
    (root / "dir-held/held/new").write_text("new")
    (root / "file-dir/file").mkdir(parents=True)
    (root / "dir-file").mkdir()
    (root / "dir-file/held").write_text("a file")
    (root / "links").mkdir()
    (root / "links/sub").symlink_to("/etc")
    (root / "links/file").symlink_to("nowhere")
    (root / "link").symlink_to("src")
    (root / "a.tar").write_bytes(INNER)
    (root / "a.tgz").write_bytes(gzip.compress(INNER))
    (root / "a.xz").write_bytes(lzma.compress(INNER))
    (root / "a.zst").write_bytes(zstd.compress(INNER))
    with tarfile.open(root / "a.bz2", "w:bz2") as archive:
        archive.add(root / "tree/below/one", "below/one")
    (root / "no.tar").write_text("no archive")
    (root / "cut.tgz").write_bytes(gzip.compress(b"text"))
    (root / "empty.tar").write_bytes(bytes(10240))
    (root / "over.tar").write_bytes(
        images.layer(images.file("held", b"a file"), images.symlink("sub", "/etc"), images.directory("src"))
    )
    return root


@pytest.fixture(scope="module")
def both(engines: Engines, containerd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    place = tmp_path_factory.mktemp("copying")
    with dockerd(engines, containerd, "copying") as docker:
        for name, at in {"root": "/", "dir": "/dir"}.items():
            docker("import", "--change", f"WORKDIR {at}", "-", f"base:{name}", stdin=BASE)
        docker("save", "-o", place / "bases.tar", "base:root", "base:dir")
        imported = commandline.run("import", place / "bases.tar", "--state", place / "state")
        assert imported.returncode == 0, imported.stderr
        (place / "context").mkdir()
        yield Both(docker, place / "state", fill(place / "context"))


FILES = [
    *(("src", each) for each in ("/", "/new", "/new/", "/file", "/dir", "/dir/", "/to-dir", "/to-dir/x", "/up")),
    *(("src", each) for each in ("/to-file", "/to-nothing", "/to-nothing/", ".", "./", "new", "../a", "sub/")),
    *(("src", each) for each in ("/file/", "/file/x", "/to-file/x", "/loop", "/loop/x")),
    *(("link", each) for each in ("/dir", "/new", "/new/")),
    *(("tree", each) for each in ("/", "/new", "/new/", "/dir/", "/to-dir", "/file", "/to-file", "sub", ".")),
    ("held", "/dir/"),
]


@pytest.mark.parametrize("working_directory", ["/", "/dir"])
@pytest.mark.parametrize(("source", "target"), FILES)
async def test_places(both: Both, source: str, target: str, working_directory: str) -> None:
    await both.check(f"COPY {source} {target}", working_directory=working_directory)


@pytest.mark.parametrize("target", ["/new", "/", "/dir", "/to-dir/", "/file", "/file/x", "."])
@pytest.mark.parametrize("source", ["a.tar", "a.tgz", "a.bz2", "a.xz"])
async def test_archives(both: Both, source: str, target: str) -> None:
    if source == "a.tgz" or target == "/new":
        await both.check(f"ADD {source} {target}")


OTHERS = [
    "COPY set shared other /modes/",
    "COPY set /file",
    "COPY other /dir/held/inner",
    "COPY src other /dir",
    "COPY src other /dir/",
    "COPY src other /none",
    "COPY src missing /dir/",
    "COPY missing /dir/",
    "COPY ../src /dir/",
    "COPY s* /some/",
    "COPY none* /some/",
    "COPY dir-held /dir",
    "COPY dir-held/held /dir/held",
    "COPY file-dir /",
    "COPY dir-file /dir",
    "COPY links /dir",
    "COPY links /",
    "COPY tree/socket /s",
    "COPY tree/below/up /x/",
    "COPY tree /dir/sub/deeper",
    "COPY tree/below src /both/",
    "COPY tree/empty /dir/held",
    'COPY ["tree/below/bl ank", "/bl ank"]',
    'COPY ["tree/below/snö", "/snö/"]',
    "COPY a.tgz /as-is",
    "COPY . /all/",
    "ADD src /new",
    "ADD tree /new",
    "ADD no.tar /new/",
    "ADD cut.tgz /new/",
    "ADD empty.tar /new/",
    "ADD over.tar /dir",
    "ADD a.tgz src /several/",
    "ADD a.tgz a.tar /several",
    "ADD a.tgz a.tar /several/",
    "ADD a.t* /several/",
]


@pytest.mark.parametrize("line", OTHERS)
async def test_others(both: Both, line: str) -> None:
    await both.check(line)


@pytest.mark.parametrize(
    "chown",
    ["12", "12:13", "web", "web:staff", "web:9", "9:web", "nobody", "web:none", "9:", ":9", "0", "root", "1:2:3"],
)
async def test_owners(both: Both, chown: str) -> None:
    await both.check(f"COPY --chown={chown} src /new")


@pytest.mark.parametrize("line", ["tree /new", "tree /dir", "set /new/deep/x", "src other /dir/x/"])
@pytest.mark.parametrize("name", ["COPY", "ADD"])
async def test_owners_of_more(both: Both, name: str, line: str) -> None:
    await both.check(f"{name} --chown=web:staff {line}")


async def test_an_owner_leaves_archives_as_they_are(both: Both) -> None:
    await both.check("ADD --chown=web a.tgz /new/x")
