"""Where each member lies on disk: for putting a layer's tar together again, and for telling whose a file is.

Nearly always under the member's own name. Two things differ: a member whose parent is a symlink landed elsewhere
(`places.json`: JSON lines `[index, base64 of the path]`, ascending; of a hard link whose target's name leads elsewhere
a second one with the target's path), and bytes that are in the archive but not in the
tree, because a later member replaced them or because they were a whiteout's (`kept/<index>`). The index counts the
members of the archive from 0, as tar-split's file records do.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from streamer.changeset import descriptor
from streamer.errors import InvalidArchive, LimitExceeded, StoreDamaged
from streamer.stores.assembly import own_place
from streamer.stores.local import state as states
from streamer.tar.records import File, records

MAX_REPLACED = 100_000
"""Members of one layer that a later member of the same layer replaces: they are held in memory until it is unpacked."""

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Keeper:
    """Remembers places while a layer is unpacked into `folder`/diff; `settle` writes what reading needs."""

    def __init__(self, folder: int, diff: int) -> None:
        self._folder, self._diff = folder, diff
        self._kept: int | None = None
        self._places: BinaryIO | None = None
        self._events: dict[bytes, list[tuple[int, int]]] = {}
        self._count = 0
        self.index = 0
        """Of the member that is being applied."""
        self._landed = b""
        self._written = -1
        """The member that `places.json` told of last."""

    def close(self) -> None:
        if self._kept is not None:
            os.close(self._kept)
        if self._places is not None:
            self._places.close()

    def landed(self, name: bytes, path: bytes) -> None:
        """The current member has its place at `path`."""
        self._landed = path
        if path != own_place(name):
            self._write(path)

    def linked(self, target: bytes, path: bytes) -> None:
        """The current member, which has landed, is a further name of the file at `path`, that it calls `target`."""
        if path != own_place(target):
            # Two lines: where it is itself, and what it is.
            if self._written != self.index:
                self._write(self._landed)
            self._write(path)

    def _write(self, path: bytes) -> None:
        self._written = self.index
        if self._places is None:
            self._places = os.fdopen(os.open("places.json", _WRITE, 0o600, dir_fd=self._folder), "wb")
        self._places.write(json.dumps([self.index, base64.b64encode(path).decode()]).encode() + b"\n")

    def keep(self, blocks: Iterator[bytes]) -> None:
        """Stores content of the current member that goes nowhere in the tree."""
        with os.fdopen(os.open(str(self.index), _WRITE, 0o600, dir_fd=self._kept_folder()), "wb") as file:
            for block in blocks:
                file.write(block)

    def replaced(self, path: bytes) -> None:
        """The regular file at `path`, stored by an earlier member, is about to be removed: a second link keeps it."""
        *parents, name = path.split(b"/")
        parent = descriptor.open_below(self._diff, b"/".join(parents), states.DIRECTORY)
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or not status.st_size:
                return
            if self._count == MAX_REPLACED:
                raise LimitExceeded(
                    f"more than {MAX_REPLACED} members of one layer are replaced by later ones", limit=MAX_REPLACED
                )
            os.link(
                name, f"was-{self._count}", src_dir_fd=parent, dst_dir_fd=self._kept_folder(), follow_symlinks=False
            )
        finally:
            os.close(parent)
        self._events.setdefault(path, []).append((self.index, self._count))
        self._count += 1

    def _kept_folder(self) -> int:
        if self._kept is None:
            os.mkdir("kept", 0o700, dir_fd=self._folder)
            self._kept = os.open("kept", states.DIRECTORY, dir_fd=self._folder)
        return self._kept

    def settle(self, split_file: BinaryIO) -> None:
        """Gives every replaced file the index of the member that stored it: the last one before the replacement whose
        content landed at that path. Files that no member's content belongs to (further hard links) are dropped."""
        if self._places is not None:
            self._places.flush()
        if not self._count:
            return
        owners: dict[int, int] = {}
        with contextlib.closing(records(split_file)) as found, contextlib.closing(Places(self._folder)) as at:
            for _, record in found:
                if isinstance(record, bytes) or not record.size:
                    continue
                for when, number in self._events.get(at.place(record), ()):
                    if record.number < when:
                        owners[number] = record.number
                        break
        kept = self._kept_folder()
        for number in range(self._count):
            if number in owners:
                os.rename(f"was-{number}", str(owners[number]), src_dir_fd=kept, dst_dir_fd=kept)
            else:
                os.unlink(f"was-{number}", dir_fd=kept)


class Places:
    """Reads `places.json` beside the records, both in ascending order."""

    def __init__(self, folder: int) -> None:
        self._file: BinaryIO | None = None
        self._next: tuple[int, bytes] | None = None
        with contextlib.suppress(FileNotFoundError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open("places.json", flags, dir_fd=folder), "rb")
        self._advance()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def place(self, record: File) -> bytes:
        """The path, below the layer's root, of a record's member; to be asked in the order of the records."""
        elsewhere = self.elsewhere(record)
        return own_place(record.name) if elsewhere is None else elsewhere

    def elsewhere(self, record: File) -> bytes | None:
        """`place`, where that is not the member's own name. Records may be left out."""
        while self._next is not None and self._next[0] < record.number:
            self._advance()
        return self._next[1] if self._next is not None and self._next[0] == record.number else None

    def target(self, record: File) -> bytes | None:
        """What a hard link is a further name of, where its header says otherwise; asked behind its own place."""
        if self.elsewhere(record) is None:
            return None
        self._advance()
        return self._next[1] if self._next is not None and self._next[0] == record.number else None

    def _advance(self) -> None:
        line = self._file.readline(8 << 20) if self._file is not None else b""
        self._next = None
        if not line:
            return
        try:
            index, place = json.loads(line)
            self._next = int(index), base64.b64decode(place, validate=True)
        except (ValueError, TypeError) as error:
            raise StoreDamaged(f"places.json of a layer cannot be read: {error}") from error


def refuse_unstored(name: str) -> InvalidArchive:
    """For content that neither landed in the tree nor can be kept: its layer could not be given back."""
    return InvalidArchive(f"the content of {name} has no place in a layer", member=name)
