"""What comes in, told apart and taken in: image archives, layouts, root file systems. Runs in the import's thread."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from streamer.errors import InvalidArchive, InvalidRequest, LimitExceeded, NotFound
from streamer.oci import config as configs
from streamer.oci.reference import Reference
from streamer.stores.base import ArchiveKind
from streamer.stores.local.archives import docker_archive, oci_layout
from streamer.stores.local.intake import Intake, TakenImage
from streamer.stores.local.members import Layout, Members, cleaned
from streamer.stores.local.source import File, Replay, Source, Watch
from streamer.stores.local.spool import Spool
from streamer.tar import entry as entries
from streamer.tar.compression import decompressed
from streamer.tar.reader import Reader
from streamer.tar.source import Limits

_LOOK_AHEAD = Limits(entries=20_000, total=16 << 20)
_IMAGE_MEMBER = re.compile(
    r"manifest\.json|repositories|oci-layout|index\.json|blobs/(?:sha256|sha512)/[0-9a-f]+"
    r"|[0-9a-f]{64}\.(?:json|tar(?:\.gz)?)|[0-9a-f]{64}/(?:layer\.tar|VERSION|json)"
)


def take(
    source: Source | Path, kind: ArchiveKind, name: Reference | None, comment: str, intake: Intake, watch: Watch
) -> list[TakenImage]:
    """Everything in the source, verified and unpacked; `name`, if given, replaces the names that the archive gives."""
    if isinstance(source, Path):
        with _opened(source) as (fd, is_directory):
            if is_directory:
                return _layout(Layout(fd, watch.wrap), kind, name, intake)
            return _stream(File(fd, str(source)), kind, name, comment, intake, watch)
    return _stream(source, kind, name, comment, intake, watch)


def _stream(
    source: Source, kind: ArchiveKind, name: Reference | None, comment: str, intake: Intake, watch: Watch
) -> list[TakenImage]:
    _, plain = decompressed(watch.wrap(source), limits=intake.limits)
    if kind is ArchiveKind.AUTO:
        replay = Replay(plain)
        if not _holds_image(replay):
            kind = ArchiveKind.ROOTFS
        replay.rewind()
        plain = replay
    if kind is ArchiveKind.ROOTFS:
        return [_rootfs(plain, name, comment, intake)]
    with contextlib.closing(Spool(intake.staging)) as spool:
        spool.fill(plain, intake.limits)
        return _members(spool, kind, name, intake)


def _rootfs(plain: Source, name: Reference | None, comment: str, intake: Intake) -> TakenImage:
    row = intake.layer(plain, (), what="the root file system")
    config = configs.for_rootfs(row.diff, now(), comment)
    return TakenImage(config, (name,) if name else (), (row,))


def _layout(layout: Layout, kind: ArchiveKind, name: Reference | None, intake: Intake) -> list[TakenImage]:
    if kind is ArchiveKind.ROOTFS:
        raise InvalidRequest("a root file system is imported from a tar, not from a directory")
    if layout.find("oci-layout") is None and layout.find("manifest.json") is None:
        raise InvalidArchive("the directory is not an OCI layout: it has no oci-layout file", member="oci-layout")
    if kind is ArchiveKind.AUTO and layout.find("oci-layout") is not None:
        kind = ArchiveKind.OCI
    return _members(layout, kind, name, intake)


def _members(members: Members, kind: ArchiveKind, name: Reference | None, intake: Intake) -> list[TakenImage]:
    # An archive of a current Docker is both; its manifest.json is what `docker load` goes by.
    if kind is ArchiveKind.OCI or (
        kind is ArchiveKind.AUTO and members.find("manifest.json") is None and _is_layout(members)
    ):
        found = oci_layout(members)
    else:
        found = docker_archive(members)
    count = len({image.config.id for image in found})
    if name is not None and count > 1:
        raise InvalidRequest(f"the archive holds {count} images: import them under their own names", parameter="name")
    taken: dict[str, TakenImage] = {}
    for each in found:
        image = intake.image(each)
        before = taken[image.config.id].names if image.config.id in taken else ()
        names = (name,) if name is not None else tuple(dict.fromkeys((*before, *image.names)))
        taken[image.config.id] = TakenImage(image.config, names, image.layers)
    return list(taken.values())


def _is_layout(members: Members) -> bool:
    return members.find("index.json") is not None


def _holds_image(replay: Replay) -> bool:
    """Whether the first member that is not a directory belongs to an image archive; reads no further than that."""
    reader = Reader(replay, limits=_LOOK_AHEAD)
    empty = True
    try:
        for entry in reader:
            empty = False
            if entry.type != entries.DIRECTORY:
                name = cleaned(entry.name.decode("utf-8", "replace"))
                return name is not None and _IMAGE_MEMBER.fullmatch(name) is not None
    except LimitExceeded:
        return False  # so many directories and no file yet: no image archive looks like that
    if empty:
        raise InvalidArchive("the archive is empty")
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, bool]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"{path} cannot be opened: {os.strerror(error.errno or 0)}") from error
    try:
        yield fd, stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def now() -> str:
    """The time in the form of configurations (RFC 3339, UTC)."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
