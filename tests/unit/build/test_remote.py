"""ADD of URLs: fetched, hashed and named as Docker does; and what it does not: only what changed is fetched again."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web

from streamer.build.builder import Options
from streamer.build.building import build
from streamer.build.order import Order
from streamer.build.progress import Line
from streamer.build.remote import Fetching
from streamer.build.workshop import LocalWorkshop
from streamer.context import addresses
from streamer.context.fetch import Limits
from streamer.context.tree import Hashing
from streamer.errors import FetchFailed, InvalidRequest, LimitExceeded, NotPermitted
from streamer.mounts.table import MountTable
from streamer.stores.base import Image
from streamer.stores.local.store import LocalStore

MODIFIED = 1_445_412_480


class Files:
    """Files by path, with ETags; what was sent of them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.url = ""
        self.etags = True

    async def handle(self, request: web.Request) -> web.Response:
        data = self.files.get(request.path)
        if data is None:
            raise web.HTTPNotFound
        headers = {"Last-Modified": formatdate(MODIFIED, usegmt=True)}
        if self.etags:
            headers["ETag"] = f'"{hash(data)}"'
            if request.headers.get("If-None-Match") == headers["ETag"]:
                return web.Response(status=304, headers=headers)
        self.sent.append(request.path)
        return web.Response(body=data, headers=headers)


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    made = Files()
    app = web.Application()
    app.router.add_get("/{rest:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    async with LocalStore.open(tmp_path / "state") as opened:
        yield opened


class Building:
    def __init__(
        self, store: LocalStore, *, allowed: tuple[str, ...] = ("127.0.0.1",), limits: Limits | None = None
    ) -> None:
        self.store, self.lines = store, list[Line]()
        self.fetching: Fetching | None = Fetching(addresses.parsed(allowed), limits or Limits())

    async def __call__(self, *lines: str, cache: bool = True) -> Image:
        async def say(line: Line) -> None:
            self.lines.append(line)

        workshop = LocalWorkshop(self.store, MountTable(), None, Hashing.DOCKER_24, fetching=self.fetching)
        dockerfile = "\n".join(("FROM scratch", *lines)).encode()
        order = Order((), {}, {}, "", Options(cache=cache))
        return await build(
            order, dockerfile, "Dockerfile", workshop=workshop, look_up=self.store.image, naming=self.store, say=say
        )

    @property
    def cached(self) -> int:
        return sum("Using cache" in line.get("stream", "") for line in self.lines)


async def members(store: LocalStore, image: Image) -> dict[str, tarfile.TarInfo]:
    assemble = image.layers[-1].assemble
    assert assemble is not None
    data = b"".join(assemble())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def created_by(image: Image) -> str:
    text: str = image.config.value["history"][-1]["created_by"]
    return text


async def test_one_file(store: LocalStore, files: Files) -> None:
    files.files["/dir/name.txt"] = b"content"
    image = await Building(store)(f"ADD {files.url}/dir/name.txt /there/")
    found = await members(store, image)
    assert {name: (each.mode, each.uid, each.mtime, each.size) for name, each in found.items() if each.isfile()} == {
        "there/name.txt": (0o600, 0, MODIFIED, 7)
    }
    hash = created_by(image).split("ADD ")[1].split(" in ")[0]
    assert len(hash) == 64, "without a prefix, as Docker writes it"


@asynccontextmanager
async def unchanged_scratch(store: LocalStore) -> AsyncIterator[None]:
    staging = Path(store.location.removeprefix("local:")) / "staging"
    before = sorted(staging.iterdir())
    yield
    assert sorted(staging.iterdir()) == before


async def test_only_what_changed_is_fetched_again(store: LocalStore, files: Files) -> None:
    files.files["/a"] = b"one"
    add = f"ADD {files.url}/a /"
    first = await Building(store)(add)
    again = Building(store)
    assert (await again(add)).id == first.id
    assert (files.sent, again.cached) == (["/a"], 1)
    files.files["/a"] = b"two"
    changed = Building(store)
    assert (await changed(add)).id != first.id
    assert (files.sent, changed.cached) == (["/a", "/a"], 0)
    await Building(store)(add, cache=False)
    assert files.sent == ["/a"] * 3, "its content is kept nowhere but in the image"
    files.etags = False
    await Building(store)(add)
    assert files.sent == ["/a"] * 4


async def test_modification_time_does_not_count(
    store: LocalStore, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.files["/a"] = b"one"
    files.etags = False
    first = await Building(store)(f"ADD {files.url}/a /")
    monkeypatch.setitem(globals(), "MODIFIED", MODIFIED + 1000)
    again = Building(store)
    assert (await again(f"ADD {files.url}/a /")).id == first.id
    assert again.cached == 1


async def test_an_archive_stays_one(store: LocalStore, files: Files) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as out:
        out.addfile(tarfile.TarInfo("inside"))
    files.files |= {"/a.tar": made.getvalue(), "/a.tgz": gzip.compress(made.getvalue())}
    image = await Building(store)(f"ADD {files.url}/a.tar {files.url}/a.tgz /x/")
    assert {"x/a.tar", "x/a.tgz"} <= set(await members(store, image))
    assert "ADD multi:" in created_by(image)


async def test_names(store: LocalStore, files: Files) -> None:
    files.files["/"] = files.files["/d/"] = b"x"
    image = await Building(store)(f"ADD {files.url}/d/ /there")
    assert set(await members(store, image)) == {"there"}
    with pytest.raises(InvalidRequest, match="cannot determine a file name"):
        await Building(store)(f"ADD {files.url}/ /there/")
    files.files["/.wh.x"] = b"x"
    with pytest.raises(Exception, match="means a deletion"):
        await Building(store)(f"ADD {files.url}/.wh.x /there/")


async def test_what_fails_leaves_nothing(store: LocalStore, files: Files) -> None:
    files.files |= {"/big": bytes(2 << 20), "/a": b"x"}
    async with unchanged_scratch(store):
        with pytest.raises(FetchFailed, match="answers 404"):
            await Building(store)(f"ADD {files.url}/missing /")
        with pytest.raises(LimitExceeded):
            await Building(store, limits=Limits(size=1 << 20))(f"ADD {files.url}/big /")
        with pytest.raises(NotPermitted, match=r"127\.0\.0\.1 is not a public address"):
            await Building(store, allowed=())(f"ADD {files.url}/a /")
        with pytest.raises(InvalidRequest, match="COPY cannot take a URL"):
            await Building(store)(f"COPY {files.url}/a /")
        with pytest.raises(InvalidRequest, match="ends in a slash"):
            await Building(store)(f"ADD {files.url}/a {files.url}/big /x")
        refused = Building(store)
        refused.fetching = None
        with pytest.raises(NotPermitted, match="the setting fetch allows it"):
            await refused(f"ADD {files.url}/a /")
        await Building(store)(f"ADD {files.url}/a /")
    assert len(await store.images()) == 1


async def test_no_password_is_kept_or_told(store: LocalStore, files: Files, tmp_path: Path) -> None:
    files.files["/a"] = b"x"
    url = files.url.replace("://", "://user:secret@")
    building = Building(store)
    await building(f"ADD {url}/a /x")
    with pytest.raises(FetchFailed) as caught:
        await building(f"ADD {url}/missing /x")
    assert "secret" not in str(caught.value)
    for path in (tmp_path / "state").glob("streamer.db*"):
        assert b"secret" not in path.read_bytes()
