"""Whatever lies in a directory and whatever its .dockerignore says: the context is the one that the docker command
sends, byte for byte.

60 directories are compared; STREAMER_TEST_CONTEXTS says otherwise (by hand: 300).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import docker_build, trees
from support.docker_build import Builder
from support.exports import body

from streamer.context.directory import plan_directory
from streamer.context.plan import Choices
from streamer.errors import InvalidRequest

COUNT = int(os.environ.get("STREAMER_TEST_CONTEXTS", "60"))
GROUP = 10

NAMES = (
    b"a", b"b", b"ab", b"a-b", b"a.b", b"a.txt", b"b.txt", b".hidden", b".git", b"src", b"docs", b"node_modules",
    b"x y", b"keep", "é.md".encode(), b"c[d]", b"star*", b"n" * 60, b"m" * 101, b"\xff.raw",
)  # fmt: skip
PARTS = (
    "*", "**", "a", "b", "ab", "a*", "*.txt", "?", "??", "[a-c]", "[^a]*", ".*", "src", "docs", "node_modules", "keep",
    "**/", "*.md", "\\a", "\\w", "\\.*", "a.b", "x y", "c\\[d\\]", "star\\*",
)  # fmt: skip


def made(root: Path, dice: random.Random) -> None:
    """A context: up to 40 files, links within it, out of it and to nowhere, a Dockerfile, mostly an ignore file."""
    directories, files = [os.fsencode(root)], []
    for _ in range(dice.randrange(4, 40)):
        path = dice.choice(directories) + b"/" + dice.choice(NAMES)
        if os.path.lexists(path):
            continue
        match dice.choices(("file", "directory", "symlink", "link", "fifo"), (8, 6, 3, 2, 1))[0]:
            case "directory":
                os.mkdir(path, dice.choice((0o755, 0o700, 0o1777)))
                directories.append(path)
            case "symlink":
                os.symlink(dice.choice((b"a", b"../b", b"/etc/passwd", b"nowhere", b"../../..", b".")), path)
                continue
            case "link" if files:
                os.link(dice.choice(files), path)
            case "fifo":
                os.mkfifo(path)
            case _:
                Path(os.fsdecode(path)).write_bytes(dice.randbytes(dice.choice((0, 1, 511, 512, 513, 2000, 140_000))))
                os.chmod(path, dice.choice((0o644, 0o755, 0o600, 0o4755)))
                if os.geteuid() == 0:
                    os.chown(path, dice.choice((0, 1000, 3_000_000)), dice.choice((0, 1000)))
                    os.chmod(path, dice.choice((0o644, 0o755, 0o4755)))
                files.append(path)
        os.utime(path, ns=(0, dice.randrange(0, 1 << 33) * 1_000_000_000 + dice.randrange(10**9)))
    (root / "Dockerfile").write_text("FROM scratch\n")
    if dice.random() < 0.9:
        (root / ".dockerignore").write_bytes(b"\n".join(line(dice) for _ in range(dice.randrange(1, 8))) + b"\n")


def line(dice: random.Random) -> bytes:
    """One line of an ignore file."""
    if dice.random() < 0.1:
        return dice.choice(
            (b"", b"# comment", b"  ", b" # none", b"./", b"a/../b", b"/", b"Dockerfile", b".dockerignore")
        )
    pattern = "/".join(dice.choice(PARTS) for _ in range(dice.choice((1, 1, 1, 2, 2, 3))))
    before = dice.choice(("", "", "", "!", "!", "/", "!/", "! ", " "))
    return (before + pattern + dice.choice(("", "", "", "/", " ", "\r", "/**", "/*"))).encode()


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    with Builder() as running:
        yield running


@docker_build.needed
@pytest.mark.parametrize("first", range(0, COUNT, GROUP))
async def test_a_context_is_what_docker_sends(first: int, builder: Builder, tmp_path: Path) -> None:
    for seed in range(first, min(first + GROUP, COUNT)):
        root = tmp_path / str(seed)
        root.mkdir()
        made(root, random.Random(seed))
        expected: bytes | None
        try:
            expected = builder.sent(str(root))
        except RuntimeError as error:
            expected, said = None, str(error)
        if expected is None:
            with pytest.raises(InvalidRequest):
                plan_directory(os.fsencode(root), Choices())
            assert "pattern" in said, said
        else:
            got = await body(plan_directory(os.fsencode(root), Choices()).plan)
            assert got == expected, f"context {seed} with {(root / '.dockerignore').read_bytes()!r}"
    trees.erase(tmp_path)
