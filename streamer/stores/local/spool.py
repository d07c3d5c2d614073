"""The members of a streamed image archive, kept in the staging directory until the documents that explain them came.

A docker-archive may carry its manifest last, so nothing can be decided before the stream ended. Each regular file is
hashed while it is written; a blob whose name is a digest is compared with it at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from streamer.changeset.making import write_all
from streamer.errors import DigestMismatch, InvalidArchive, LimitExceeded, shown
from streamer.stores.local.members import Member, cleaned
from streamer.stores.local.source import File, Source
from streamer.stores.local.staging import Staging
from streamer.tar import entry as entries
from streamer.tar.entry import Entry
from streamer.tar.reader import Reader
from streamer.tar.source import Limits

MAX_MEMBERS = 50_000
MAX_NAME = 4096
MAX_NAMES = 8 << 20
"""Bytes of all names and link targets, which are held in memory."""
MAX_LINKS = 10

_BLOB = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)")
_LENGTHS = {"sha256": 64, "sha512": 128}


@dataclass(frozen=True, slots=True)
class _Stored:
    number: int
    size: int
    digest: str


class Spool:
    """`Members` from a stream. The files lie in the staging directory and go with it."""

    def __init__(self, staging: Staging) -> None:
        self._fd = staging.folder("spool")
        self._files: dict[str, _Stored] = {}
        self._links: dict[str, str] = {}
        self._count = self._names = 0

    def close(self) -> None:
        os.close(self._fd)

    def fill(self, source: Source, limits: Limits) -> None:
        """Takes in the whole archive. InvalidArchive, DigestMismatch or LimitExceeded, naming the member."""
        reader = Reader(source, limits=replace(limits, name=min(limits.name, MAX_NAME)))
        for entry in reader:
            text = shown(entry.name)
            if self._count + len(self._links) >= MAX_MEMBERS:
                raise LimitExceeded(f"the image archive has more than {MAX_MEMBERS} members", limit=MAX_MEMBERS)
            self._names += len(entry.name) + len(entry.linkname)
            if self._names > MAX_NAMES:
                raise LimitExceeded(f"the names in the image archive exceed {MAX_NAMES} bytes", limit=MAX_NAMES)
            try:
                name = cleaned(entry.name.decode())
            except UnicodeDecodeError:
                raise InvalidArchive(f"the member {text} of the image archive is not UTF-8", member=text) from None
            if entry.type == entries.DIRECTORY:
                continue
            if name is None:
                raise InvalidArchive(f"the member {text} leads outside of the image archive", member=text)
            if entry.type == entries.REGULAR and entry.sparse is None:
                self._add(name, self._store(reader, name))
            elif entry.type in (entries.SYMLINK, entries.LINK):
                self._link(entry, name, text)
            else:
                raise InvalidArchive(f"the member {text} does not belong into an image archive", member=text)

    def _store(self, reader: Reader, name: str) -> _Stored:
        blob = _BLOB.fullmatch(name)
        algorithm = blob[1] if blob and len(blob[2]) == _LENGTHS[blob[1]] else "sha256"
        number, size, hashed = self._count, 0, hashlib.new(algorithm)
        self._count += 1
        fd = os.open(str(number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        with os.fdopen(fd, "wb", buffering=0) as file:
            for block in reader.content():
                hashed.update(block)
                size += len(block)
                write_all(file.fileno(), block)
        digest = f"{algorithm}:{hashed.hexdigest()}"
        if blob and len(blob[2]) == _LENGTHS[algorithm] and digest != f"{algorithm}:{blob[2]}":
            raise DigestMismatch(f"{name} has the digest {digest}", member=name, digest=digest)
        return _Stored(number, size, digest)

    def _add(self, name: str, stored: _Stored) -> None:
        before = self._files.get(name)
        # Readers disagree on which of two members with one name counts, so two different ones are refused.
        if name in self._links or (before is not None and before.digest != stored.digest):
            raise InvalidArchive(f"{name} is in the image archive twice with different content", member=name)
        self._files[name] = stored

    def _link(self, entry: Entry, name: str, text: str) -> None:
        target = entry.linkname.decode("utf-8", "replace")
        if entry.type == entries.SYMLINK:
            target = posixpath.join(posixpath.dirname(name), target)
        clean = cleaned(target)
        if clean is None or name in self._files:
            raise InvalidArchive(f"the link {text} leads outside of the image archive or replaces a file", member=text)
        if self._links.setdefault(name, clean) != clean:
            raise InvalidArchive(f"{name} is in the image archive twice with different targets", member=name)

    def find(self, name: str) -> Member | None:
        current = cleaned(name)
        for _ in range(MAX_LINKS):
            if current is None or current not in self._links:
                break
            current = self._links[current]
        stored = self._files.get(current) if current is not None else None
        if stored is None or current is None:
            return None
        number, label = str(stored.number), current
        return Member(label, stored.size, stored.digest, lambda: self._opened(number, label))

    @contextlib.contextmanager
    def _opened(self, number: str, label: str) -> Iterator[Source]:
        fd = os.open(number, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            yield File(fd, label)
        finally:
            os.close(fd)
