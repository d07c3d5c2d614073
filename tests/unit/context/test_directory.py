"""A local directory as a context: what is found, what is refused, and that nothing outside is ever read."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from support.exports import body

from streamer.context.directory import plan_directory
from streamer.context.plan import Choices, Owner
from streamer.errors import InvalidRequest, NotFound, StreamerError
from streamer.export.exporter import exporter
from streamer.export.plan import Choice, Outline, Span


def opened(archive: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(archive))  # memory only


def context(root: Path, **files: str) -> bytes:
    for name, text in {"Dockerfile": "FROM scratch\n", **files}.items():
        (root / name).write_text(text)
    return os.fsencode(root)


@pytest.mark.root
async def test_owners_are_kept_or_roots(tmp_path: Path) -> None:
    path = context(tmp_path, a="")
    os.chown(tmp_path / "a", 1000, 1001)
    for owner, expected in ((Owner.KEEP, (1000, 1001)), (Owner.ROOT, (0, 0))):
        archive = await body(plan_directory(path, Choices(owner=owner)).plan)
        member = opened(archive).getmember("a")
        assert (member.uid, member.gid) == expected


async def test_an_outline_tells_length_and_version(tmp_path: Path) -> None:
    path = context(tmp_path, a="x" * 3000, left="out", **{".dockerignore": "left\n"})

    async def looked(first: int) -> tuple[Outline, bytes]:
        seen: list[Outline] = []

        def span(outline: Outline) -> Span:
            seen.append(outline)
            return first, outline.size

        plan = plan_directory(path, Choices()).plan
        async with exporter() as exports, exports.open(plan, Choice(span, first)) as stream:
            data = b"".join([chunk async for chunk in stream])
        return seen[0], data

    outline, whole = await looked(0)
    assert len(whole) == outline.size
    assert (await looked(1700))[1] == whole[1700:]
    (tmp_path / "left").write_text("changed, but not sent")
    assert (await looked(0))[0].etag == outline.etag
    (tmp_path / ".dockerignore").write_text("a\n")
    assert (await looked(0))[0].etag != outline.etag


@pytest.mark.parametrize(
    ("name", "found"),
    [(None, b"dockerfile"), (b"sub/File", b"sub/File"), (b"link", b"sub/File"), (b"abs", b"sub/File")],
)
def test_the_dockerfile_is_found_as_in_a_chroot(name: bytes | None, found: bytes, tmp_path: Path) -> None:
    (tmp_path / "dockerfile").write_text("FROM scratch\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/File").write_text("FROM scratch\n")
    (tmp_path / "link").symlink_to("sub/../sub/File")
    (tmp_path / "abs").symlink_to("/sub/File")
    assert plan_directory(os.fsencode(tmp_path), Choices(dockerfile=name)).dockerfile == found


@pytest.mark.parametrize(
    ("name", "error"), [(None, NotFound), (b"none", NotFound), (b"../x", InvalidRequest), (b"out", NotFound)]
)
def test_a_dockerfile_outside_is_not_found(name: bytes | None, error: type[StreamerError], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("FROM scratch\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/out").symlink_to(tmp_path / "x")
    with pytest.raises(error):
        plan_directory(os.fsencode(tmp_path / "c"), Choices(dockerfile=name))


def test_an_ignore_file_is_never_read_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("!")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/.dockerignore").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidRequest, match="link to something that is not in the context"):
        plan_directory(context(tmp_path / "c"), Choices())


def test_an_ignore_file_that_is_a_fifo_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".dockerignore")
    with pytest.raises(InvalidRequest, match="no regular file"):
        plan_directory(context(tmp_path), Choices())


def test_no_directory(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(NotFound):
        plan_directory(os.fsencode(tmp_path / "none"), Choices())
    with pytest.raises(InvalidRequest, match="no directory"):
        plan_directory(os.fsencode(tmp_path / "f"), Choices())


async def test_a_link_is_sent_as_itself(tmp_path: Path) -> None:
    path = context(tmp_path)
    (tmp_path / "etc").symlink_to("/etc")
    assert opened(await body(plan_directory(path, Choices()).plan)).getnames() == ["Dockerfile", "etc"]
