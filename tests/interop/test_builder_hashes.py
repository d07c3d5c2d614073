"""Hashes of what COPY takes, compared with those that Docker's classic builder writes into an image's history."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import contexts
from support.dockerd import dockerd
from support.engines import Command, Engines

from streamer.changeset.patterns import Patterns
from streamer.context.pick import pick
from streamer.context.tree import DirectoryTree
from streamer.errors import StreamerError

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

CONTEXTS = int(os.environ.get("STREAMER_TEST_CONTEXTS", "12"))
_HISTORY = re.compile(r"#\(nop\) COPY (?:(file|dir|multi):)?(\S+) in /d")


@pytest.fixture(scope="module")
def builder(engines: Engines, containerd: Path) -> Iterator[Command]:
    with dockerd(engines, containerd, "hashes") as client:
        yield client


def ours(root: Path, patterns: list[str], sources: list[str]) -> str | None:
    """The hash, None where the builder would refuse."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tree = DirectoryTree(descriptor, Patterns(patterns))
        return pick(tree, [os.fsencode(source) for source in sources]).hash
    except StreamerError:
        return None
    finally:
        os.close(descriptor)


def theirs(builder: Command, root: Path) -> list[str]:
    """The hashes of one build, in the order of its instructions."""
    image = builder("build", "-q", "--no-cache", root, limit=300).decode().strip()
    history = builder("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).decode().splitlines()
    builder("rmi", "-f", image)
    found = [match for line in reversed(history) if (match := _HISTORY.search(line))]
    return [f"{match[1]}:{match[2]}" if match[1] else match[2] for match in found]


def copy(sources: list[str]) -> str:
    return f"COPY {json.dumps([*sources, '/d/'], ensure_ascii=False)}"


@pytest.mark.parametrize("seed", range(CONTEXTS))
def test_hashes_are_those_of_the_classic_builder(builder: Command, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    root = tmp_path / "context"
    root.mkdir()
    patterns = contexts.make(root, chance)
    dockerfile = root / "Dockerfile"
    dockerfile.touch()
    sources = contexts.sources(root, chance)
    taken = [each for each in sources if ours(root, patterns, each) is not None]
    assert taken
    dockerfile.write_text("\n".join(["FROM scratch", *map(copy, taken)]) + "\n")
    expected = [(each, ours(root, patterns, each)) for each in taken]
    assert list(zip(taken, theirs(builder, root), strict=True)) == expected
    for each in sources:
        if each not in taken:
            dockerfile.write_text(f"FROM scratch\n{copy(each)}\n")
            builder("build", "-q", "--no-cache", root, limit=300, fails=True)
