"""`docker export` and `podman export` against streamer's archive of the same container: where they differ, and why."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from io import BytesIO

import pytest
from support import boxes, exports, trees
from support.boxes import LIMITS, STAY, Box, Engine
from support.everything import LIMITS as LIMITS_OF_FORMATS
from support.trees import Socket

from streamer.export.container import plan_container
from streamer.export.plan import Options

pytestmark = [pytest.mark.engine, pytest.mark.root]


@dataclass(frozen=True)
class Entry:
    """All that an archive tells of one entry."""

    type: bytes
    mode: int
    owner: tuple[int, int]
    names: tuple[str, str]
    size: int
    mtime: float
    target: str
    device: tuple[int, int]
    xattrs: Mapping[str, str]
    content: str


@dataclass(frozen=True)
class Difference:
    """One that may be. `between(theirs, ours)` is whether a field's two values are explained by it."""

    engines: tuple[str, ...]
    field: str
    between: Callable[[Entry, Entry], bool]
    reason: str


TYPE_BITS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}

PODMAN_ALONE = ("SCHILY.xattr.user.", "SCHILY.xattr.security.ima")

DIFFERENCES = (
    Difference(
        ("docker", "podman"),
        "mode",
        lambda theirs, ours: theirs.mode & 0o7777 == ours.mode and _is_of(theirs.mode & ~0o7777, theirs.type),
        "Docker up to 23 and Podman 4 put the file's type into the mode as well; later ones do not, as streamer.",
    ),
    Difference(
        ("docker", "podman"),
        "names",
        lambda theirs, ours: ours.names == ("", ""),
        "Docker up to 23 and Podman 4 look up owners' names (in the container's /etc/passwd); later ones and "
        "streamer give the numbers alone, which are what unpacking should go by.",
    ),
    Difference(
        ("podman",),
        "xattrs",
        lambda theirs, ours: {k: v for k, v in theirs.xattrs.items() if not k.startswith(PODMAN_ALONE)} == ours.xattrs,
        "Podman gives the attributes user.* and security.ima as well; streamer does so with profile=full, otherwise "
        "it gives capabilities alone, as Docker does.",
    ),
)
"""Everything in which the archives differ. What is not in here fails the test."""


def _is_of(bits: int, type: bytes) -> bool:
    """Whether they are the bits of that type; a hard link has those of what it is another name of."""
    return bits in TYPE_BITS.values() if type == tarfile.LNKTYPE else bits == TYPE_BITS[type]


async def _same(engine: Engine, name: str) -> set[Difference]:
    """Asserts that they are alike, entry by entry and in the same order; what differs of what may."""
    exported = _entries(engine.command("export", name))
    async with engine.store() as store:
        ours = _entries(await exports.body(plan_container(await store.container(name), Options())))
    assert list(ours) == list(exported)
    seen: set[Difference] = set()
    wrong = []
    for path, theirs in exported.items():
        for field in (field.name for field in fields(Entry)):
            if getattr(theirs, field) != getattr(ours[path], field):
                known = [each for each in DIFFERENCES if engine.name in each.engines and each.field == field]
                explained = [each for each in known if each.between(theirs, ours[path])]
                seen.update(explained)
                if not explained:
                    wrong.append(f"{path}: {field} is {getattr(ours[path], field)}, there {getattr(theirs, field)}")
    assert not wrong, "\n".join(wrong)
    return seen


def _entries(data: bytes) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        for info in archive:
            assert info.name not in found
            file = archive.extractfile(info) if info.isreg() else None
            found[info.name] = Entry(
                info.type,
                info.mode,
                (info.uid, info.gid),
                (info.uname, info.gname),
                info.size,
                info.mtime,
                info.linkname,
                (info.devmajor, info.devminor),
                {key: value for key, value in info.pax_headers.items() if key.startswith("SCHILY.")},
                sha256(file.read()).hexdigest() if file is not None else "",
            )
    return found


@pytest.fixture(scope="module", params=["docker", "podman"])
def changed(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Box]]:
    engine = boxes.engine(request.param, request)
    with engine.box(engine.built) as box:
        box.change()
        for name in ("user.note", "security.ima"):
            os.setxattr(box.inside("attributes/mode"), name, b"noted")
        trees.make(box.inside("limits"), *LIMITS_OF_FORMATS, Socket("socket"))
        yield engine, box


@pytest.mark.parametrize("name", ["docker", "podman"])
async def test_created(name: str, request: pytest.FixtureRequest) -> None:
    """Never started, and so without what a runtime leaves in it; a volume is part of neither."""
    engine = boxes.engine(name, request)
    engine.command("create", "--name", "created", "--volume", "/everything", *LIMITS, engine.built, *STAY)
    try:
        await _same(engine, "created")
    finally:
        engine.command("rm", "-f", "-v", "created")


async def test_running(changed: tuple[Engine, Box]) -> None:
    engine, box = changed
    assert await _same(engine, box.name)


async def test_paused(changed: tuple[Engine, Box]) -> None:
    engine, box = changed
    engine.command("pause", box.name)
    try:
        assert await _same(engine, box.name)
    finally:
        engine.command("unpause", box.name)


async def test_stopped(changed: tuple[Engine, Box]) -> None:
    engine, box = changed
    engine.command("stop", "-t", "0", box.name)
    assert await _same(engine, box.name)
