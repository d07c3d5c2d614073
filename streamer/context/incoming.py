"""What comes in as a context from somewhere else: an archive in any compression, or a bare Dockerfile, by its content.

It passes through as it comes, or is taken in: extracted below a directory of its own that is gone on every way out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamer.changeset.apply import Applier, Whiteouts
from streamer.changeset.apply import Limits as Bounds
from streamer.changeset.descriptor import DIRECTORY as OPEN_DIRECTORY
from streamer.changeset.member import clean
from streamer.context.generate import plan_dockerfile
from streamer.context.plan import DOCKERFILE, Choices, Context, Owner
from streamer.context.scratch import scratch
from streamer.context.tree import RecordedTree
from streamer.errors import InvalidArchive, InvalidRequest, LimitExceeded
from streamer.export.closing import closing
from streamer.export.plan import ExportPlan, Kind, Session
from streamer.tar.compression import Compression, decompressed, detect
from streamer.tar.entry import DIRECTORY, LINK, REGULAR, Entry, Member, Profile
from streamer.tar.fields import parsed
from streamer.tar.reader import Reader
from streamer.tar.source import Headed, Limits, Source
from streamer.tar.sum import Sums, Version
from streamer.tar.writer import archive

_HEAD = 512
_PIECE = 256 << 10
_BEHIND = 64 << 20
"""Bytes that may follow an archive's end: they are kept until all has been checked."""
_LONGEST = 1 << 20
"""Bytes of a bare Dockerfile."""


def plan_incoming(source: Source, choices: Choices, *, name: str, limits: Limits) -> Context:
    """The context that `source` gives; its first block is read now, the rest while the archive is made.

    With `Owner.KEEP` an archive's uncompressed bytes pass untouched, with `Owner.ROOT` each member is written anew with
    its name as it was. Either way it is checked while it passes: InvalidArchive or LimitExceeded in place of its end.
    Blocks; the source stays its owner's and can be read only once, so there is no outline. InvalidRequest
    if it is empty.
    """
    head = _exactly(source, _HEAD)
    if not head:
        raise InvalidRequest(f"{name} is empty: give an archive or a Dockerfile")
    if not is_archive(head):
        return plan_dockerfile(text(source, head), choices)
    whole = Headed(head, source)
    plan = ExportPlan(
        kind=Kind.CONTEXT,
        title=f"context from {name}",
        basename="context",
        chunks=lambda session: _passing(whole, choices.owner, limits, session),
        compression=choices.compression,
        steady=False,
    )
    return Context(plan, DOCKERFILE if choices.dockerfile is None else choices.dockerfile)


def is_archive(head: bytes) -> bool:
    """Whether what begins with these bytes (512, fewer if there are no more) is an archive and no Dockerfile."""
    if detect(head[:10]) is not Compression.NONE:
        return True
    if len(head) < _HEAD:
        return False
    if not any(head):
        return True
    try:
        parsed(head)
    except InvalidArchive:
        return False
    return True


@contextmanager
def taken_in(source: Source, directory: Path, *, limits: Limits) -> Iterator[RecordedTree]:
    """The archive extracted below `directory`, in a new directory that goes when the block is left; with the sums of
    its members as they came. Blocks. InvalidArchive, LimitExceeded, StorageFull, NotPermitted: nothing is left then.
    """
    with scratch(directory) as place:
        root = os.open(place, OPEN_DIRECTORY)
        try:
            yield RecordedTree(root, *_extracted(source, root, limits))
        finally:
            os.close(root)


def _extracted(source: Source, root: int, limits: Limits) -> tuple[Sums, dict[bytes, int]]:
    """The sums of the members, and the modes of those that have others on the disk."""
    _, plain = decompressed(source, limits=limits)
    reader = Reader(plain, limits=limits)
    sums = Sums(Version.V1)
    # Only root can give files to others; whoever else takes a context in builds with his own.
    owner = os.geteuid() == 0
    modes: dict[bytes, int] = {}
    bounds = Bounds(entries=limits.entries, size=limits.total)
    with Applier(root, whiteouts=Whiteouts.PLAIN, limits=bounds, owner=owner) as applier:
        for entry in reader:
            with closing(sums.passing(entry, reader.written, reader.content())) as passing:
                path = applier.apply(entry, (block for block in passing))
                if path is not None and not owner:
                    _note_mode(modes, path, entry)
                for _ in passing:  # of what has no content nothing was taken, and a member counts when all was
                    pass
        applier.finish()
    return sums, modes


def _note_mode(modes: dict[bytes, int], path: bytes, entry: Entry) -> None:
    """Notes the mode of what the member made at the path, if its owner could not read it, or not look into it."""
    modes.pop(path, None)
    needed = {REGULAR: stat.S_IRUSR, DIRECTORY: stat.S_IRWXU}.get(entry.type, 0)
    if entry.type == LINK:
        target = modes.get(b"/".join(clean(entry.linkname)))
        if target is not None:
            modes[path] = target
    elif entry.mode & needed != needed:
        modes[path] = entry.mode


def _passing(source: Source, owner: Owner, limits: Limits, session: Session) -> Iterator[bytes]:
    _, plain = decompressed(source, limits=limits)
    if owner is Owner.KEEP:
        return _untouched(plain, limits, session)
    return archive(_given_to_root(Reader(plain, limits=limits), session), Profile.DOCKER)


def _untouched(source: Source, limits: Limits, session: Session) -> Iterator[bytes]:
    """The bytes of the archive, as far as they have been checked; those of its end only when all has."""
    tee = _Tee(source)
    reader = Reader(tee, limits=limits)
    for entry in reader:
        session.check()
        _check(entry.name, entry.linkname if entry.type == LINK else b"")
        session.report.entries += 1
        if tee.held > _PIECE:
            yield tee.taken()
        for _ in reader.content():
            if tee.held > _PIECE:
                yield tee.taken()
    yield tee.taken()


def _given_to_root(reader: Reader, session: Session) -> Iterator[Member]:
    for entry in reader:
        session.check()
        _check(entry.name, entry.linkname if entry.type == LINK else b"")
        session.report.entries += 1
        entry.uid = entry.gid = 0
        yield entry, reader.content()


def _check(name: bytes, target: bytes) -> None:
    """InvalidArchive if a member, or what it links to, lies outside of the context."""
    clean(name)
    clean(target)


def text(source: Source, head: bytes = b"") -> bytes:
    """All that the source gives, behind `head`, as a Dockerfile. LimitExceeded if that is too long for one."""
    rest = _exactly(source, _LONGEST + 1 - len(head))
    if len(head) + len(rest) > _LONGEST:
        raise LimitExceeded(
            f"this is no archive, and for a Dockerfile it is too long: more than {_LONGEST} bytes",
            limit="dockerfile",
            value=_LONGEST,
        )
    return head + rest


def _exactly(source: Source, size: int) -> bytes:
    """`size` bytes, fewer only at the end."""
    parts = []
    while size and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Tee:
    """Keeps what it gives until it is taken."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: list[bytes] = []
        self.held = 0

    def read(self, size: int, /) -> bytes:
        part = self._source.read(size)
        self._kept.append(part)
        self.held += len(part)
        if self.held > _BEHIND:
            raise LimitExceeded(
                f"more than the allowed {_BEHIND} bytes follow the archive's end", limit="behind", value=_BEHIND
            )
        return part

    def taken(self) -> bytes:
        taken = b"".join(self._kept)
        self._kept, self.held = [], 0
        return taken
