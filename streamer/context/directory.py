"""A local directory as a context: streamed as it lies there, byte for byte what the docker command would send.

Everything is read through descriptors below the directory: a link in it never leads outside, whoever renames meanwhile.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from streamer.changeset.descriptor import open_in_root
from streamer.changeset.failures import reading_failed
from streamer.changeset.patterns import Patterns, Selection
from streamer.changeset.walk import clean_start, walk
from streamer.context import ignore, paths
from streamer.context.plan import DOCKERFILE, IGNORE_FILE, Choices, Context
from streamer.context.source import masked
from streamer.errors import FILE_REFUSALS, InvalidRequest, NotFound, SourceFailed, StreamerError, shown
from streamer.export.closing import closing
from streamer.export.items import Cursor, Item, Pass, Resume
from streamer.export.naming import basename
from streamer.export.pack import Packer
from streamer.export.plan import ExportPlan, Kind, Options, Session
from streamer.export.walked import Walked

_SCHEME = re.compile(rb"[a-zA-Z][a-zA-Z0-9+.-]*://")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def plan_directory(path: bytes, choices: Choices) -> Context:
    """The context that lies in the directory `path`, without what its `.dockerignore` leaves out.

    Only the ignore file is read now. NotFound where there is no directory or no Dockerfile, InvalidRequest for a
    malformed pattern; blocks.
    """
    root = opened(path)
    try:
        dockerfile = located(root, choices.dockerfile)
        excluded = ignore.kept(ignored(root), dockerfile)
    finally:
        os.close(root)
    title = f"context {shown(path)}"
    # What is left out is part of what the archive's version depends on.
    options = Options(
        compression=choices.compression,
        owner=choices.owner.pair,
        exclude=tuple(excluded),
    )
    source = Walked(partial(_opened, path, options), options, title)
    plan = ExportPlan(
        kind=Kind.CONTEXT,
        title=title,
        basename=basename(os.fsdecode(os.path.basename(os.path.abspath(path)))),
        chunks=partial(source.chunks, None),
        compression=choices.compression,
        outline=lambda session, _: source.outline(None, session),
        steady=False,
    )
    return Context(plan, dockerfile)


def opened(path: bytes) -> int:
    """A descriptor of the directory that somebody named, links followed; the caller closes it."""
    try:
        return os.open(path, _OPEN)
    except OSError as error:
        if isinstance(error, NotADirectoryError):
            raise InvalidRequest(f"cannot read the context {shown(path)}: it is no directory") from None
        if isinstance(error, FileNotFoundError) and _SCHEME.match(path):
            named = shown(os.fsencode(masked(os.fsdecode(path))))
            raise InvalidRequest(
                f"cannot read the context {named}: its scheme is none of http, https, git and ssh"
            ) from None
        kind: type[StreamerError] = FILE_REFUSALS.get(error.errno or 0, SourceFailed)
        raise kind(f"cannot read the context {shown(path)}: {error.strerror}") from None


def located(root: int, name: bytes | None) -> bytes:
    """The Dockerfile's real path in the context: links are followed inside it. With None, `Dockerfile`, else
    `dockerfile`. NotFound if it is not there or leads nowhere."""
    if name is None:
        name = DOCKERFILE
        if not _there(root, name) and _there(root, DOCKERFILE.lower()):
            name = DOCKERFILE.lower()
    clean_start(name)  # InvalidRequest for `..` and NUL
    try:
        fd = open_in_root(root, name, os.O_PATH | os.O_CLOEXEC)
    except NotFound:
        called = "Dockerfile" if name == DOCKERFILE else f"Dockerfile {shown(name)}"
        raise NotFound(f"there is no {called} in the context") from None
    os.close(fd)
    return paths.followed(root, name)


def ignored(root: int) -> list[str]:
    """The patterns of the context's `.dockerignore`; none without one. InvalidRequest if it is no regular file."""
    try:
        fd = open_in_root(root, IGNORE_FILE, _READ)
    except NotFound:
        if _there(root, IGNORE_FILE):
            raise InvalidRequest("the .dockerignore is a link to something that is not in the context") from None
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidRequest("the .dockerignore is no regular file")
        parts = []
        left = ignore.LONGEST + 1
        while left and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise reading_failed(IGNORE_FILE, error) from error
    finally:
        os.close(fd)
    return ignore.parsed(b"".join(parts))


def _there(root: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=root, follow_symlinks=False)
    except OSError:
        return False
    return True


@contextmanager
def _opened(path: bytes, options: Options, session: Session) -> Iterator[Pass]:
    root = opened(path)
    try:
        yield partial(_items, root, options, session)
    finally:
        os.close(root)


def _items(root: int, options: Options, session: Session, cursor: Cursor, resume: Resume | None) -> Iterator[Item]:
    def vanished(_: bytes) -> None:
        session.report.vanished += 1

    packer = Packer(options, session, cursor, live=True, resume=resume)
    after = b"" if resume is None else resume.at
    select = Selection(None, Patterns(options.exclude))
    nodes = walk(root, select=select, on_vanished=vanished, after=after)
    with closing(packer.tree(paths.of_one(nodes, os.fstat(root).st_dev), start=b"")) as made:
        yield from made
