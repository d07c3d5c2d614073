"""What the stores are filled with: archives that are made while an engine imports them, from the machine's own /usr."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from bench.errors import BenchError

MiB = 1 << 20
LARGEST = 12_000
"""Bytes: only files up to this are taken from /usr, so that they have about 3 KB on average."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One thing that an engine is filled with."""

    name: str
    """Changes whenever the content does: a store that has it already is not filled again."""
    about: str
    files: int
    write: Callable[[IO[bytes]], None]
    """Writes a root file system as tar or, for an image, what `docker load` reads."""
    image: bool = False

    @property
    def reference(self) -> str:
        return f"localhost/bench/{self.name}:1"


def small(count: int) -> Tree:
    return Tree(
        f"small-{count}",
        f"{count:,} files of up to {LARGEST:,} bytes as they are in /usr, with its directories",
        count,
        lambda out: _small(out, count),
    )


def big(count: int = 4, size: int = 1 << 30) -> Tree:
    return Tree(
        f"big-{count}x{size >> 20}",
        f"{count} files of {size >> 20:,} MiB, random bytes, not sparse",
        count,
        lambda out: _big(out, count, size),
    )


def wide(count: int) -> Tree:
    """The first directory that a walk comes to has very many names."""
    return Tree(
        f"wide-{count}",
        f"{count:,} empty files in the first directory",
        count,
        lambda out: _wide(out, "0-first", count),
    )


def flat(count: int) -> Tree:
    """The root itself has very many names, and is a directory that overlayfs has to merge."""
    return Tree(
        f"flat-{count}",
        f"{count:,} empty files in the root directory",
        count,
        lambda out: _wide(out, "", count),
    )


def layers(count: int = 20, files: int = 2_500, size: int = 8 * MiB) -> Tree:
    return Tree(
        f"layers-{count}x{files}",
        f"an image of {count} layers, each with {files:,} small files of /usr and one of {size // MiB} MiB",
        count * (files + 1),
        lambda out: _image(out, count, files, size),
        image=True,
    )


@functools.cache
def sources() -> tuple[str, ...]:
    """Regular files of /usr that are small, in the order of their names."""
    found = []
    for base, directories, names in os.walk("/usr"):
        directories.sort()
        for name in sorted(names):
            path = f"{base}/{name}"
            if not os.path.islink(path) and os.path.isfile(path) and os.path.getsize(path) <= LARGEST:
                found.append(path)
    if not found:
        raise BenchError("/usr has no small files to make trees of")
    return tuple(found)


def _tar(out: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, bufsize=MiB)  # for its callers


class _Packer:
    """A tar whose members come with their directories, each once."""

    def __init__(self, out: IO[bytes]) -> None:
        self._archive = _tar(out)
        self._made: set[str] = {""}

    def file(self, name: str, data: IO[bytes], size: int, mode: int = 0o644, mtime: float = 1.6e9) -> None:
        self._directory(name.rpartition("/")[0])
        self._add(name, tarfile.REGTYPE, mode, mtime, size, data)

    def close(self) -> None:
        self._archive.close()

    def _directory(self, name: str) -> None:
        if name not in self._made:
            self._directory(name.rpartition("/")[0])
            self._add(name, tarfile.DIRTYPE, 0o755, 1.6e9)
            self._made.add(name)

    def _add(
        self, name: str, kind: bytes, mode: int, mtime: float, size: int = 0, data: IO[bytes] | None = None
    ) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.mtime, member.size = kind, mode, int(mtime), size
        self._archive.addfile(member, data)
        self._archive.getmembers().clear()  # or a million of them would be kept


def _copies(count: int, skip: int = 0) -> Iterator[tuple[str, str]]:
    """Names in the tree and the files they are copies of: all of /usr below r0, then once more below r1, …"""
    paths = sources()
    for number in range(skip, skip + count):
        turn, at = divmod(number, len(paths))
        yield f"r{turn}{paths[at]}", paths[at]


def _pack_small(packer: _Packer, count: int, skip: int = 0) -> None:
    for name, path in _copies(count, skip):
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            data = file.read(LARGEST)
        packer.file(name, io.BytesIO(data), len(data), stat.st_mode & 0o777, stat.st_mtime)


def _small(out: IO[bytes], count: int) -> None:
    packer = _Packer(out)
    _pack_small(packer, count)
    packer.close()


class _Random(io.BytesIO):
    """Endless bytes that no file system and no compression makes smaller: a random block, turned further each time."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._block = random.Random(seed).randbytes(16 * MiB + 4099)
        self._at = 0

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None and 0 <= size <= 16 * MiB
        if self._at + size > len(self._block):
            self._at = (self._at + size) % 4099
        self._at += size
        return self._block[self._at - size : self._at]


def _big(out: IO[bytes], count: int, size: int) -> None:
    packer = _Packer(out)
    for number in range(count):
        packer.file(f"big-{number}", _Random(number), size)
    packer.close()


def _wide(out: IO[bytes], directory: str, count: int) -> None:
    packer = _Packer(out)
    for number in range(count):
        packer.file(f"{directory}/a-name-of-some-length-{number:07}".lstrip("/"), io.BytesIO(), 0)
    packer.file("last", io.BytesIO(b"last\n"), 5)
    packer.close()


def _image(out: IO[bytes], count: int, files: int, size: int) -> None:
    outer = _tar(out)
    paths, digests = [], []
    for number in range(count):
        with tempfile.TemporaryFile() as packed:
            packer = _Packer(packed)
            _pack_small(packer, files, number * files)
            packer.file(f"large/{number}", _Random(number), size)
            packer.close()
            length = packed.seek(0, os.SEEK_END)
            packed.seek(0)
            digests.append(f"sha256:{hashlib.file_digest(packed, 'sha256').hexdigest()}")
            packed.seek(0)
            paths.append(f"layer-{number}.tar")
            member = tarfile.TarInfo(paths[-1])
            member.size = length
            outer.addfile(member, packed)
    steps = [{"created": "2024-01-01T00:00:00Z", "created_by": f"step {number}"} for number in range(count)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/x"]},
        "created": "2024-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": steps,
    }
    manifest = [{"Config": "config.json", "RepoTags": [layers(count, files, size).reference], "Layers": paths}]
    for name, document in (("config.json", config), ("manifest.json", manifest)):
        data = json.dumps(document).encode()
        member = tarfile.TarInfo(name)
        member.size = len(data)
        outer.addfile(member, io.BytesIO(data))
    outer.close()
