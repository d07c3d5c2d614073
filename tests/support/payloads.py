"""File systems that tell by themselves whether an archive of them is whole, for engines to keep and streamer to export.

Every directory of a payload holds files named by the SHA-256 of their content and an index that lists them: an archive
proves by itself that nothing of the directory is missing, torn or of another generation.
"""

from __future__ import annotations

import functools
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from support import images
from support.images import directory, encoded, file, layer, symlink

INDEX = "0-index"
MiB = 1 << 20


# What there is


def payload(name: str, blocks: int) -> list[images.Member]:
    """The directory `name` with many small files and `blocks` of 1 MiB, its index written last."""
    seed = random.Random(name)
    contents = [seed.randbytes(seed.randrange(1, 5000)) for _ in range(50)]
    contents += [seed.randbytes(MiB) for _ in range(blocks)]
    index = "".join(encoded(content) + "\n" for content in contents).encode()
    files = [file(f"{name}/{encoded(content)}", content) for content in contents]
    return [directory(f"{name}/"), *files, file(f"{name}/{INDEX}", index)]


def _busybox() -> list[images.Member]:
    program = file("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    return [directory("bin/"), program, symlink("bin/sleep", "busybox")]


@functools.cache
def tool() -> images.MadeImage:
    """What containers are made from: stays."""
    return images.image(layer(*_busybox()), layer(*payload("lower", 1)), names=["churn/tool:1"])


@functools.cache
def data() -> images.MadeImage:
    """What is removed and comes back with the same IDs, again and again. Each layer is more than all buffers between a
    file and a client that does not read."""
    return images.image(layer(*payload("first", 9)), layer(*payload("second", 9)), names=["churn/data:1"])


@functools.cache
def changed(generation: int) -> bytes:
    """A tar of what a container changes."""
    return layer(*payload(f"changed-{generation % 3}", 12))


# What a whole archive of it is

Faults = Callable[[bytes, bool], list[str]]
"""What is wrong with a body that ended cleanly; unless `settled`, the container was being filled when it began."""


def tree(*expected: str, changes: bool = False) -> Faults:
    """Archives that hold the payloads `expected` and, with `changes`, that of one generation."""

    def faults(body: bytes, settled: bool) -> list[str]:
        return _tree_faults(body, list(expected), changes, settled)

    return faults


def _tree_faults(body: bytes, expected: list[str], changes: bool, settled: bool) -> list[str]:
    found: dict[str, set[str]] = {}
    indexes: dict[str, set[str]] = {}
    wrong = [] if body.endswith(bytes(1024)) else ["no trailer"]
    for path, content in members(body):
        head, _, tail = path.rpartition("/")
        if tail == INDEX:
            indexes[head] = set(content.decode().split())
        elif len(tail) == 64:
            found.setdefault(head, set()).add(tail)
            if encoded(content) != tail and (settled or not head.startswith("changed")):
                wrong.append(f"{path} is torn")
    wanted = [*expected, *(["changed"] if changes and settled else [])]
    heads = {head.partition("-")[0] for head in indexes}
    wrong += [f"{name} is missing" for name in wanted if name not in heads]
    if sum(head.startswith("changed") for head in {*found, *indexes}) > 1:
        wrong.append(f"several generations: {sorted(indexes)}")
    for head in {*found, *indexes}:
        if settled or not head.startswith("changed"):
            missing = indexes.get(head, set()) ^ found.get(head, set())
            wrong += [f"{head}: {len(missing)} files differ from the index"] if missing else []
    return wrong


def tar_of(diff_id: str) -> Faults:
    return lambda body, _: [] if images.sha256(body) == diff_id else [f"not {diff_id}, but {images.sha256(body)}"]


def saved(made: images.MadeImage) -> Faults:
    """An OCI layout with `manifest.json`, every blob there and with its digest."""

    def faults(body: bytes, _: bool) -> list[str]:
        files = dict(members(body))
        (entry,) = json.loads(files["manifest.json"])
        wrong = [name for name, data in files.items() if name.startswith("blobs/") and not name.endswith(encoded(data))]
        wrong += [] if images.sha256(files[entry["Config"]]) == made.id else ["another image"]
        wrong += [] if [images.sha256(files[path]) for path in entry["Layers"]] == made.diff_ids else ["other layers"]
        (manifest,) = json.loads(files["index.json"])["manifests"]
        return wrong if f"blobs/sha256/{manifest['digest'][7:]}" in files else [*wrong, "no manifest"]

    return faults


def members(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a tar. tarfile.TarError if it is cut short."""
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as archive:
        for each in archive:
            if each.isfile():
                opened = archive.extractfile(each)
                assert opened is not None
                content = opened.read()
                assert len(content) == each.size, f"{each.name} is cut"
                yield each.name.lstrip("./"), content
