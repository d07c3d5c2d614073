"""A context made of texts: a Dockerfile and whatever files it needs, without anything on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamer.changeset.member import clean
from streamer.context.plan import DOCKERFILE, ROOT, Choices, Context
from streamer.errors import InvalidArchive, InvalidRequest, shown
from streamer.export.plan import ExportPlan, Kind, Session
from streamer.tar.entry import Entry, Member, Profile
from streamer.tar.writer import archive

_MODE = 0o644


def plan_files(files: Mapping[bytes, bytes], choices: Choices) -> Context:
    """The context of these files (name to content), in the order given: regular files of root, mode 0644, time 0, so
    that the same texts give the same bytes.

    InvalidRequest for a name that leads out of it, or for two that are one.
    """
    members = _members(files)
    return Context(
        ExportPlan(
            kind=Kind.CONTEXT,
            title=f"generated context of {len(members)} files",
            basename="context",
            chunks=lambda session: _chunks(members, session),
            compression=choices.compression,
        ),
        DOCKERFILE if choices.dockerfile is None else choices.dockerfile,
    )


def plan_dockerfile(text: bytes, choices: Choices) -> Context:
    """The context of a bare Dockerfile. InvalidRequest if it is empty."""
    if not text.strip():
        raise InvalidRequest("the Dockerfile is empty")
    return plan_files({DOCKERFILE if choices.dockerfile is None else choices.dockerfile: text}, choices)


def _members(files: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    found: dict[bytes, bytes] = {}
    for written, content in files.items():
        try:
            name = b"/".join(clean(written))
        except InvalidArchive as error:
            raise InvalidRequest(f"a context cannot have the file {shown(written)!r}: {error}") from None
        if not name or written.endswith(b"/") or name in found:
            raise InvalidRequest(f"a context cannot have the file {shown(written)!r}: it names no file, or one twice")
        found[name] = content
    for name in found:
        above = name.rpartition(b"/")[0]
        while above:
            if above in found:
                raise InvalidRequest(f"a context cannot have {shown(name)!r} below the file {shown(above)!r}")
            above = above.rpartition(b"/")[0]
    return tuple(found.items())


def _chunks(members: tuple[tuple[bytes, bytes], ...], session: Session) -> Iterator[bytes]:
    def made() -> Iterator[Member]:
        for name, content in members:
            session.check()
            session.report.entries += 1
            yield Entry(name, mode=_MODE, uid=ROOT[0], gid=ROOT[1], size=len(content)), content

    return archive(made(), Profile.DOCKER)
