"""What containerd's content store holds, read over its socket or straight from its files."""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import new

from streamer.errors import NotFound, SourceChanged, StoreDamaged
from streamer.oci import digest as digests
from streamer.oci.descriptor import Descriptor
from streamer.stores.blobs import file_blob
from streamer.stores.containerd.api.content_pb2 import ReadContentRequest
from streamer.stores.containerd.client import Client
from streamer.stores.containerd.methods import READ_CONTENT

BLOCK = 1 << 20
CACHED = 32 << 20
"""Bytes of documents that are kept: they never change, and every question needs most of them."""


class Content:
    """The content of one namespace."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def document(self, digest: str, limit: int, what: str) -> bytes:
        """A whole document, compared with its digest.

        NotFound where it is not there; StoreDamaged, naming the blob, where it is larger than `limit` or another.
        """
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                return self._kept[digest]
        read: list[bytes] = []
        size = 0
        while block := self._block(digest, size, BLOCK):
            read.append(block)
            size += len(block)
            if size > limit:
                raise StoreDamaged(f"blob {digest} of {what} is larger than {limit} bytes")
            if len(block) < BLOCK:
                break
        data = b"".join(read)
        if new(digests.algorithm(digest), data).hexdigest() != digests.encoded(digest):
            raise StoreDamaged(f"blob {digest} of {what} does not have its digest")
        self._keep(digest, data)
        return data

    def blocks(
        self, descriptor: Descriptor, root: str | None, what: str, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """A layer's blob from byte `start` up to before `stop`, in chunks of at most 1 MiB; SourceChanged where it is
        gone or ends early.

        `root` is the content store's directory as containerd names it, None if unknown: what can be read there is,
        which is faster; the rest comes over the socket.
        """
        path = _file(descriptor, root)
        if path is not None:
            yield from file_blob(path, descriptor, what).read(start, stop)
            return
        at, end = start, descriptor.size if stop is None else min(stop, descriptor.size)
        while at < end:
            try:
                # One block a call: an answer is never left half read for as long as nobody takes it.
                block = self._block(descriptor.digest, at, min(BLOCK, end - at))
            except NotFound as error:
                raise SourceChanged(
                    f"the blob {descriptor.digest} of {what} is gone; its store may have removed it"
                ) from error
            if not block:
                raise SourceChanged(
                    f"the blob {descriptor.digest} of {what} ends after {at} of {descriptor.size} bytes"
                )
            at += len(block)
            yield block

    def _block(self, digest: str, offset: int, size: int) -> bytes:
        question = ReadContentRequest(digest=digest, offset=offset, size=size)
        return b"".join(answer.data for answer in self._client.stream(READ_CONTENT, question))

    def _keep(self, digest: str, data: bytes) -> None:
        with self._lock:
            if digest in self._kept:
                return
            self._kept[digest] = data
            self._size += len(data)
            while self._size > CACHED:
                _, gone = self._kept.popitem(last=False)
                self._size -= len(gone)


def _file(descriptor: Descriptor, root: str | None) -> bytes | None:
    """The blob's own file where this process sees it: containerd may live in another file system than we do."""
    if root is None:
        return None
    digest = digests.parse(descriptor.digest)
    path = os.path.join(os.fsencode(root), b"blobs", *digest.encode().split(b":"))
    try:
        status = os.lstat(path)
    except OSError:
        return None
    readable = stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK)
    return path if readable and status.st_size == descriptor.size else None
