"""Contexts of every kind as a build sees them: which files, which Dockerfile, and nothing outside."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from support.gits import git, repository, served
from support.images import directory, file, layer, link, symlink

from streamer.build import contexts
from streamer.build.contexts import Given
from streamer.context.addresses import parsed
from streamer.context.opening import EVERY, Network
from streamer.context.tree import Hashing
from streamer.errors import InvalidArchive, InvalidRequest, LimitExceeded, NotFound, StreamerError
from streamer.tar.source import Limits

HERE = parsed(["127.0.0.1"])
TEXT = b"FROM scratch\n"


def names(given: Given) -> list[bytes]:
    assert given.tree is not None
    return [node.path for node in given.tree.nodes(b"") if node.path]


def made(place: Path, **files: str) -> Path:
    place.mkdir()
    for name, text in files.items():
        (place / name.replace("_", ".")).write_text(text)
    return place


def of_directory(path: Path, dockerfile: str | bytes | None = None) -> tuple[bytes, str, list[bytes]]:
    with contexts.of_directory(os.fsencode(path), dockerfile, Hashing.DOCKER_24) as given:
        return given.dockerfile, given.name, names(given)


def test_a_directory(tmp_path: Path) -> None:
    context = made(tmp_path / "c", Dockerfile="FROM a", one="1", two="2")
    (context / ".dockerignore").write_text("two\nDockerfile\n")
    assert of_directory(context) == (b"FROM a", "Dockerfile", [b".dockerignore", b"one"])


def test_another_dockerfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = made(tmp_path / "c", Dockerfile="FROM a", Other="FROM b")
    outside = tmp_path / "Outside"
    outside.write_text("FROM c")
    (tmp_path / "linked").symlink_to(context)
    assert of_directory(context, str(context / "Other"))[:2] == (b"FROM b", "Other")
    assert of_directory(tmp_path / "linked", str(context / "Other"))[:2] == (b"FROM b", "Other")
    assert of_directory(context, str(tmp_path / "linked/Other"))[:2] == (b"FROM b", "Other")
    assert of_directory(context, str(outside))[:2] == (b"FROM c", str(outside))
    assert of_directory(context, b"FROM d")[:2] == (b"FROM d", "Dockerfile")
    monkeypatch.chdir(context)
    assert of_directory(Path("."), "Other")[:2] == (b"FROM b", "Other")
    assert of_directory(Path("."), "../Outside")[:2] == (b"FROM c", "../Outside")


def test_a_small_dockerfile(tmp_path: Path) -> None:
    assert of_directory(made(tmp_path / "c", dockerfile="FROM a"))[0] == b"FROM a"


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    context = made(tmp_path / "c", inner="FROM inner")
    (context / "Dockerfile").symlink_to("/inner")
    assert of_directory(context)[0] == b"FROM inner"
    (context / "Dockerfile").unlink()
    (context / "Dockerfile").symlink_to("../secret")
    with pytest.raises(NotFound):
        of_directory(context)


REFUSED: dict[str, type[StreamerError]] = {"missing": NotFound, "fifo": InvalidRequest, "folder": InvalidRequest}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("outside", [False, True])
def test_what_is_no_dockerfile(tmp_path: Path, name: str, outside: bool) -> None:
    context = made(tmp_path / "c", one="1")
    place = tmp_path if outside else context
    os.mkfifo(place / "fifo")
    (place / "folder").mkdir()
    with pytest.raises(REFUSED[name]):
        of_directory(context, str(place / name))


def test_a_dockerfile_that_is_too_long(tmp_path: Path) -> None:
    context = made(tmp_path / "c")
    (context / "Dockerfile").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(LimitExceeded):
        of_directory(context)


class Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, /) -> bytes:
        part, self._data = self._data[: min(size, 100)], self._data[min(size, 100) :]
        return part


def of_source(data: bytes, place: Path, dockerfile: str | None = None) -> tuple[bytes, str, list[bytes] | None]:
    with contexts.of_source(Bytes(data), dockerfile, place, Limits(total=1 << 20)) as given:
        return given.dockerfile, given.name, None if given.tree is None else names(given)


def test_an_archive(tmp_path: Path) -> None:
    data = layer(directory("sub/"), file("sub/File", TEXT), file("one", b"1"), file(".dockerignore", b".dockerignore"))
    assert of_source(data, tmp_path, "sub/File") == (TEXT, "sub/File", [b"one", b"sub", b"sub/File"])
    assert os.listdir(tmp_path) == []


def test_a_bare_dockerfile(tmp_path: Path) -> None:
    for data in (TEXT, b"", b"FROM x\n" * 1000):
        assert of_source(data, tmp_path) == (data, "Dockerfile", None)


HOSTILE: dict[str, tuple[bytes, type[StreamerError]]] = {
    "a name that leads out": (layer(file("Dockerfile", TEXT), file("../x", b"x")), InvalidArchive),
    "a link that leads out": (layer(symlink("Dockerfile", "/etc/passwd")), NotFound),
    "a hard link that leads out": (layer(link("Dockerfile", "../../etc/passwd")), InvalidArchive),
    "a file through a link": (layer(symlink("x", "/etc"), file("x/Dockerfile", TEXT)), NotFound),
    "no dockerfile": (layer(file("one", b"1")), NotFound),
    "too large": (layer(file("Dockerfile", TEXT), file("x", bytes(2 << 20))), LimitExceeded),
    "an ignore file that is a link": (
        layer(file("Dockerfile", TEXT), symlink(".dockerignore", "/etc/passwd")),
        InvalidRequest,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(tmp_path: Path, name: str) -> None:
    data, kind = HOSTILE[name]
    with pytest.raises(kind):
        of_source(data, tmp_path)
    assert os.listdir(tmp_path) == []
    assert not (tmp_path.parent / "x").exists()


async def of_git(source: str, place: Path, dockerfile: str | None = None) -> tuple[bytes, list[bytes]]:
    place.mkdir(exist_ok=True)
    async with contexts.of_repository(
        source, dockerfile, place, Hashing.DOCKER_24, Network(HERE, EVERY, 1 << 30)
    ) as given:
        return given.dockerfile, [name for name in names(given) if not name.startswith(b".git")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = repository(
        tmp_path / "served/one.git",
        {"Dockerfile": "FROM a", "sub/Dockerfile": "FROM b", "sub/one": "1", "two": "2", ".dockerignore": "two"},
    )
    (place / "out").symlink_to("/etc")
    (place / "inside").symlink_to("/sub")
    (place / "up").symlink_to("../../..")
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "links")
    return tmp_path / "served"


async def test_a_repository(root: Path, tmp_path: Path) -> None:
    async with served(root) as url:
        whole = await of_git(f"{url}/one.git", tmp_path / "a")
        assert whole[0] == b"FROM a"
        assert b"two" not in whole[1] and b"sub/one" in whole[1]
        assert await of_git(f"{url}/one.git#:sub", tmp_path / "b") == (b"FROM b", [b"Dockerfile", b"one"])
        assert (await of_git(f"{url}/one.git#:inside", tmp_path / "c"))[0] == b"FROM b"
        assert (await of_git(f"{url}/one.git", tmp_path / "d", "sub/Dockerfile"))[0] == b"FROM b"


@pytest.mark.parametrize("place", ["out", "up/etc", "two", "missing"])
async def test_directories_that_lead_out_of_a_repository(root: Path, tmp_path: Path, place: str) -> None:
    async with served(root) as url:
        with pytest.raises(StreamerError) as caught:
            await of_git(f"{url}/one.git#:{place}", tmp_path / "a")
    assert caught.value.code in ("not_found", "invalid_request")
    with suppress(FileNotFoundError):
        assert "passwd" not in os.listdir(tmp_path / "a")
