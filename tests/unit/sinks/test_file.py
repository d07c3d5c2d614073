"""Files: what replaces one is no more open to others than it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.planned import Planned

from streamer.export.exporter import exporter
from streamer.export.plan import Options
from streamer.sinks.address import parse
from streamer.sinks.delivery import Manner, deliver
from streamer.sinks.file import Files
from streamer.sinks.metadata import target


@pytest.mark.parametrize(
    ("before", "after"), [(None, 0o644), (0o600, 0o600), (0o640, 0o640), (0o666, 0o644), (0o4755, 0o644)]
)
async def test_a_private_file_stays_private(tmp_path: Path, before: int | None, after: int) -> None:
    path = tmp_path / "a.tar"
    if before is not None:
        path.write_bytes(b"old")
        path.chmod(before)
    address, plan = parse(str(path)), Planned(b"new" * 1000).plan(None, Options())
    umask = os.umask(0o022)
    try:
        async with exporter() as exports:
            await deliver(
                exports,
                plan,
                Files(),
                lambda size, digest: target(
                    address, plan, token="t", engine="memory", size=size, digest=digest, replace=True
                ),
                manner=Manner(5 << 20, 1),
            )
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"new" * 1000
    assert path.stat().st_mode & 0o7777 == after
