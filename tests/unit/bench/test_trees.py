"""What stores are filled with."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import pytest

from bench import trees
from bench.trees import Tree


def packed(tree: Tree) -> tarfile.TarFile:
    out = io.BytesIO()
    tree.write(out)
    out.seek(0)
    return tarfile.open(fileobj=out)


@pytest.mark.parametrize("tree", [trees.small(300), trees.big(2, 1 << 20), trees.wide(50), trees.flat(50)])
def test_as_many_files_as_announced_each_after_its_directory_and_once(tree: Tree) -> None:
    seen: set[str] = set()
    with packed(tree) as archive:
        members = archive.getmembers()
    for member in members:
        parent = member.name.rpartition("/")[0]
        assert not parent or parent in seen
        assert member.name not in seen
        seen.add(member.name)
    extra = 1 if tree.name.startswith(("wide", "flat")) else 0
    assert sum(member.isfile() for member in members) == tree.files + extra


def test_more_files_than_there_are_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "sources", lambda: (__file__,))
    with packed(trees.small(3)) as archive:
        assert [each.name for each in archive if each.isfile()] == [f"r{turn}{__file__}" for turn in range(3)]


def test_content_of_large_files_is_not_sparse_and_does_not_repeat_at_once() -> None:
    with packed(trees.big(2, 3 << 20)) as archive:
        contents = [file.read() for member in archive if (file := archive.extractfile(member)) is not None]
    assert [len(each) for each in contents] == [3 << 20] * 2
    assert contents[0] != contents[1]
    assert len({contents[0][at : at + 4096] for at in range(0, 3 << 20, 4096)}) == 768


def test_an_image_has_the_layers_that_its_configuration_tells_of() -> None:
    tree = trees.layers(3, 10, 4096)
    with packed(tree) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        manifest = json.loads(read("manifest.json"))[0]
        config = json.loads(read(manifest["Config"]))
        digests = [f"sha256:{hashlib.sha256(read(name)).hexdigest()}" for name in manifest["Layers"]]
    assert manifest["RepoTags"] == [tree.reference]
    assert config["rootfs"]["diff_ids"] == digests
    assert len(set(digests)) == len(config["history"]) == 3
