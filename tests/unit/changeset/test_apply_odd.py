"""Layers that real tools write although they say nothing new, or say it twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer.changeset.apply import Applier, Whiteouts
from streamer.tar.entry import Entry


@pytest.mark.parametrize("whiteouts", [Whiteouts.OVERLAY, Whiteouts.DELETE])
@pytest.mark.parametrize("name", [b"tmp/.wh.inside", b"tmp/.wh..wh..opq"])
def test_a_deletion_below_what_became_a_file_means_nothing(tmp_path: Path, whiteouts: Whiteouts, name: bytes) -> None:
    """umoci 0.4.7 writes these when a directory was replaced by a file."""
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Applier(root, whiteouts=whiteouts, owner=os.geteuid() == 0) as applier:
            applier.apply(Entry(b"tmp", mode=0o644, size=4), b"file")
            assert applier.apply(Entry(name)) is None
            applier.finish()
            assert applier.skipped == {"deletion below a file": 1}
    finally:
        os.close(root)
    assert (tmp_path / "tmp").read_bytes() == b"file"
    assert os.listdir(tmp_path) == ["tmp"]
