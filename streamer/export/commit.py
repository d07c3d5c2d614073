"""A container's changes become a layer, and the layer an image: the one writing operation made of an export."""

from __future__ import annotations

from collections.abc import Iterator

from streamer.export.closing import closing
from streamer.export.diff import plan_diff
from streamer.export.exporter import Exporter
from streamer.export.plan import Options, Report, Session
from streamer.stores.base import Image, WritableStore
from streamer.tar.region import Chunk


class ChunkSource:
    """Chunks as the synchronous source that an import reads. Closing it closes the chunks."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = memoryview(bytes(chunk))
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data


async def commit(
    local: WritableStore, exporter: Exporter, container: str, name: str, *, comment: str = "", author: str = ""
) -> Image:
    """The container's changes as a new layer on its image, under `name`.

    The layer is the very archive that exporting the diff gives, read in the store's own thread and never stored in
    between. NotFound, Conflict, … as the store raises them; on any failure nothing is left.
    """
    found = await local.container(container)
    plan = plan_diff(found, Options())
    session = Session(exporter.mounts, Report(), lambda: None)
    # Cancelled by an anyio scope, the store stops at its next read and its thread is waited for; until then the
    # generator is its.
    with closing(plan.chunks(session)) as chunks:
        image = await local.commit(container, ChunkSource(chunks), name, comment=comment, author=author)
    return image  # noqa: RET504  # mypy cannot tell that `closing` does not swallow exceptions
