"""A real store served on a real socket beside synchronous tests, with a little of everything in it."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from support import images
from support.asking import ask
from support.clients import Answer
from support.images import directory, file, layer, symlink, whiteout
from support.serving import Served, served

from streamer.stores.local.store import LocalStore

T = TypeVar("T")

BASE = layer(
    directory("etc/"),
    file("etc/a", b"a" * 2000, mtime=1_600_000_000),
    file("etc/b", b"b" * 300_000),
    symlink("link", "etc/a"),
    file("late", b"late", mtime=1_900_000_000),
)
ONE = images.image(BASE, layer(file("one", b"1"), whiteout("etc/a")), names=["team/app/one:1", "team/app/one:2.0"])
TWO = images.image(BASE, layer(file("two", b"2")), names=["two:latest"])
PORT = images.image(BASE, names=["localhost:5000/with/port:v1"])


def _like(made: images.MadeImage) -> images.MadeImage:
    """Another image without a name, whose ID and whose layer's digest begin like those of `made`."""
    for number in itertools.count():
        data = layer(file("x", str(number).encode()))
        if images.encoded(data)[:2] == images.encoded(made.layers[0])[:2]:
            break
    for number in itertools.count():
        other = images.image(data, author=str(number))
        if other.id[:9] == made.id[:9]:
            return other
    raise AssertionError


LIKE_TWO = _like(TWO)


async def filled(store: LocalStore) -> None:
    """The images above, the container `box` with changes of every kind, and seventeen others."""
    archive = images.pack(images.docker(ONE, TWO, PORT, LIKE_TWO))
    await store.import_archive(images.Bytes(archive))
    box = await store.create("two", name="box")
    assert box.snapshot.upper is not None
    upper = Path(os.fsdecode(box.snapshot.upper))
    (upper / "etc").mkdir()
    (upper / "etc" / "a").write_bytes(b"changed")
    (upper / "new").write_bytes(b"new")
    Path(os.fsdecode(bytes(upper) + b"/raw-\xff")).write_bytes(b"raw")
    if os.geteuid() == 0:
        os.mknod(upper / "link", stat.S_IFCHR | 0o600, 0)
    for number in range(17):  # two of them must have an ID with the same first digit
        await store.create("two", name=f"many-{number}")


@dataclass
class Site:
    """A served local store, and the loop in which it lives."""

    store: LocalStore
    running: Served
    portal: BlockingPortal

    @property
    def port(self) -> int:
        return self.running.port

    def ask(self, target: str, method: str = "GET", headers: str = "", body: bytes = b"") -> Answer:
        return ask(self.port, target, method, headers, body)

    def get(self, target: str) -> bytes:
        """The body of a success."""
        answer = self.ask(target)
        assert answer.status == 200, answer
        assert answer.complete
        return answer.body

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        return self.portal.call(function, *arguments)


@contextlib.contextmanager
def site(
    state: Path, prepare: Callable[[LocalStore], Coroutine[Any, Any, None]] = filled, **options: Any
) -> Iterator[Site]:
    """A store in `state`, filled by `prepare`, served in a thread while the block is open."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[LocalStore, Served]]:
        async with LocalStore.open(state) as store:
            await prepare(store)
            async with served(store, **options) as running:
                yield store, running

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened()) as (store, running):
        yield Site(store, running, portal)
