"""The items of a whole file system: packed by the compiled walk where there is one and nothing asks for more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from streamer import native
from streamer.changeset.failures import reading_failed
from streamer.drivers.base import Place, Start, Tree
from streamer.export import subtree
from streamer.export.closing import closing
from streamer.export.items import Cursor, Item, Resume
from streamer.export.pack import Packer
from streamer.export.plan import Options, Session
from streamer.mounts.mount import Ids
from streamer.tar.entry import Profile

_FIRST = 16 << 10
"""Bytes of the first run, so that they leave early."""


def items(
    tree: Tree,
    options: Options,
    session: Session,
    cursor: Cursor,
    resume: Resume | None,
    *,
    ids: Ids | None,
    live: bool,
) -> Iterator[Item]:
    """The items of the tree, or of its subtree `options.path`, in the walk's order."""
    packer = Packer(options, session, cursor, ids=ids, live=live, resume=resume)
    vanished = subtree.vanishing(session, live=live)
    subtree.check(tree, options)
    with contextlib.ExitStack() as stack:
        start = stack.enter_context(tree.start(options.path, on_vanished=vanished)) if plain(options, ids) else None
        if start is not None and start.roots:
            yield from _packed(start, packer, options, session, cursor, resume, live)
            return
    after = b"" if resume is None else resume.at
    select = subtree.selection(options)
    nodes = tree.nodes(options.path, select=select, on_vanished=vanished, after=after)
    with closing(packer.tree(nodes, start=subtree.base(options.path))) as made:
        yield from made


def plain(options: Options, ids: Ids | None) -> bool:
    """Whether the compiled walk knows all that is asked for."""
    selected = options.include or options.exclude or options.owner is not None
    return native.available() and options.profile is Profile.DOCKER and ids is None and not selected


def _packed(
    start: Start,
    packer: Packer,
    options: Options,
    session: Session,
    cursor: Cursor,
    resume: Resume | None,
    live: bool,
) -> Iterator[Item]:
    node = start.node
    if node.path and resume is None:
        first = packer.item(node)
        if first is not None:
            yield first
    prefix = node.path + b"/" if node.path else b""
    latest = None if options.mtime is None else options.mtime * 1_000_000_000
    after = b"" if resume is None else resume.at.removeprefix(prefix)
    try:
        walk = native.Walk(start.roots, prefix, marks=start.marks, after=after, latest=latest, strict=cursor.strict)
    except OSError as error:
        raise reading_failed(node.path, error) from None
    with contextlib.closing(walk):
        start.settled()
        yield from _steps(walk, packer, session, cursor, start, resume, live)


def _steps(
    walk: native.Walk,
    packer: Packer,
    session: Session,
    cursor: Cursor,
    start: Start,
    resume: Resume | None,
    live: bool,
) -> Iterator[Item]:
    at = None if resume is None else resume.at
    enough = _FIRST
    while True:
        session.check()
        try:
            step = walk.step(read=cursor.read, facts=cursor.note, enough=enough, limit=cursor.limit - cursor.offset)
        except OSError as error:
            raise reading_failed(error.filename, error) from None
        enough = native.ENOUGH
        handed = step.handed
        if step.size or (handed is None and not step.done):
            session.report.entries += step.entries
            yield Item(step.size, step.data, step.facts, step.newest, at)
        if handed is not None:
            place = Place(handed.path, handed.name, handed.parent, handed.layer)
            with closing(start.nodes(place)) as nodes:
                # Of a container only its own layer is written to, the topmost one.
                fixed = not live or handed.layer > 0
                for node in nodes:
                    session.check()
                    itself = node.path == handed.path
                    item = packer.item(node, fixed=fixed and itself)
                    if item is not None:
                        if itself:
                            item.at = handed.path
                        yield item
        if step.done:
            return
        at = step.next
