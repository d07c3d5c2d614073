"""Random directories to build from: files, directories, links of every kind, modes, names, an ignore file."""

from __future__ import annotations

import os
import random
from pathlib import Path

_NAMES = ("a", "b.txt", "c d", "é", "sub", "x*y", "[z]", ".hidden", "n-1", "Q")
_IGNORED = ("sub", "**/b.txt", "*/a", "!sub/a", "c d/*", "Q", "a/**", ".hidden", "!**/n-1")


def make(root: Path, chance: random.Random, *, ignore: bool = True) -> list[str]:
    """Fills the directory; the patterns of its `.dockerignore`."""
    directories, files = [root], [root / "plain"]
    (root / "plain").write_bytes(chance.randbytes(chance.randrange(1, 3000)))
    for _ in range(chance.randrange(3, 14)):
        path = chance.choice(directories) / chance.choice(_NAMES)
        if path.exists() or path.is_symlink():
            continue
        match chance.randrange(6):
            case 0 | 1:
                path.mkdir()
                directories.append(path)
            case 2:
                target = chance.choice([*files, *directories, root / "nowhere"])
                text = os.path.relpath(target, path.parent) if chance.random() < 0.8 else f"/{target.relative_to(root)}"
                path.symlink_to(text)
            case 3:
                os.link(chance.choice(files), path)
            case _:
                path.write_bytes(chance.randbytes(chance.choice((0, 1, 700, 200_000))))
                files.append(path)
        if not path.is_symlink():
            path.chmod(chance.choice((0o644, 0o755, 0o600, 0o4755, 0o1777)))
    patterns = chance.sample(_IGNORED, chance.randrange(4)) if ignore else []
    if patterns:
        (root / ".dockerignore").write_text("\n".join(patterns))
    return patterns


def sources(root: Path, chance: random.Random) -> list[list[str]]:
    """What COPY could be told to take: single names, several, wildcards, the whole."""
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    usual = [path for path in paths if path.isprintable() and path != ".dockerignore"]
    found = [["."], ["*"], ["plain"], ["./plain", "/plain"], ["*/*"], ["[a-c]*", "p?ain"]]
    found += [[chance.choice(usual)] for _ in range(3)]
    found.append(chance.sample(usual, min(3, len(usual))))
    return found
