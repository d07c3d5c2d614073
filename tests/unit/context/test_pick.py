"""What COPY takes, and its hash: the builder's own vectors, and what may not be taken."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.changeset.patterns import Patterns
from streamer.context.paths import cleaned, has_wildcards, wildcards
from streamer.context.pick import pick
from streamer.context.tree import DirectoryTree, Hashing, RecordedTree, RootTree
from streamer.errors import InvalidRequest, NotFound, SourceChanged
from streamer.tar.sum import Summing


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    (tmp_path / "sub").mkdir()
    for name in ("test", "builder-tarsum-test-subdir/test"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("contents test")
        path.chmod(0o755)
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield tmp_path, descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("name", "hashing", "expected"),
    [
        ("test", Hashing.DOCKER_24, "55dfeb344351ab27f59aa60ebb0ed12025a2f2f4677bf77d26ea7a671274a9ca"),
        ("test", Hashing.DOCKER_23, "1149ab94af7be6cc1da1335e398f24ee1cf4926b720044d229969dfc248ae7ec"),
        (
            "builder-tarsum-test-subdir/test",
            Hashing.DOCKER_24,
            "74a3326b8e766ce63a8e5232f22e9dd895be647fb3ca7d337e5e0a9b3da8ef28",
        ),
        (
            "builder-tarsum-test-subdir/test",
            Hashing.DOCKER_23,
            "d7f8d6353dee4816f9134f4156bf6a9d470fdadfb5d89213721f7e86744a4e69",
        ),
    ],
)
def test_vectors(root: tuple[Path, int], name: str, hashing: Hashing, expected: str) -> None:
    tree = DirectoryTree(root[1], Patterns(()), hashing=hashing)
    assert pick(tree, [name.encode()]).hash == f"file:{expected}"
    assert tree.sum(name.encode()) == expected


def directory(root: tuple[Path, int], *excluded: str) -> DirectoryTree:
    return DirectoryTree(root[1], Patterns(excluded))


def test_what_came_or_went_since_something_was_hashed(root: tuple[Path, int]) -> None:
    """A wildcard must not miss in silence what the steps before it have seen."""
    for change in (lambda: (root[0] / "test").unlink(), lambda: (root[0] / "sub/new").touch()):
        tree = directory(root)
        pick(tree, [b"*"])
        change()
        with pytest.raises(SourceChanged, match=r"is gone|was not there"):
            pick(tree, [b"*/*", b"t*"])


def test_a_directory_that_was_left_out_is_there_for_what_was_brought_back(root: tuple[Path, int]) -> None:
    """It is root's, 0755, and has no sum: whoever unpacks the archive of the context makes it so."""
    name = "builder-tarsum-test-subdir"
    (root[0] / name / "other").touch()
    os.chmod(root[0] / name, 0o700)
    tree = directory(root, name, "sub", f"!{name}/test")
    status = tree.status(name.encode())
    assert status is not None
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, 0, 0)
    assert tree.status(b"sub") is None
    assert tree.sum(name.encode()) is None
    assert [node.path for node in tree.nodes(b"")] == [b"", name.encode(), f"{name}/test".encode(), b"test"]
    assert [item.path for item in pick(tree, [b"b*", name.encode()]).items] == [name.encode()] * 2


def test_time_and_owner_of_a_context_do_not_count_and_all_else_does(root: tuple[Path, int]) -> None:
    path = root[0] / "test"
    plain = pick(directory(root), [b"test"]).hash
    os.utime(path, (5, 5))
    assert pick(directory(root), [b"test"]).hash == plain
    seen = {plain}
    for change in (lambda: path.chmod(0o644), lambda: path.write_text("contents tesT")):
        change()
        seen.add(pick(directory(root), [b"test"]).hash)
    assert len(seen) == 3


@pytest.mark.root
def test_the_owner_counts_where_it_is_kept(root: tuple[Path, int]) -> None:
    before = pick(RootTree(root[1]), [b"test"]).hash
    os.chown(root[0] / "test", 5, 6)
    assert pick(RootTree(root[1]), [b"test"]).hash != before
    assert (
        pick(DirectoryTree(root[1], Patterns(()), owner=None), [b"test"]).hash
        == pick(RootTree(root[1]), [b"test"]).hash
    )


def test_several_are_hashed_in_their_order(root: tuple[Path, int]) -> None:
    tree = directory(root)
    one, other = (pick(tree, [name]).hash for name in (b"test", b"sub"))
    assert pick(tree, [b"test", b"sub"]).hash == f"multi:{hashlib.sha256(f'{one},{other}'.encode()).hexdigest()}"
    assert pick(tree, [b"sub", b"test"]).hash != pick(tree, [b"test", b"sub"]).hash
    assert pick(tree, [b"te?t"]).hash == one


def test_links_are_followed_inside(root: tuple[Path, int]) -> None:
    for name, target in (("inside", "test"), ("absolute", "/test"), ("above", "../../test"), ("sub/up", "../test")):
        (root[0] / name).symlink_to(target)
    (root[0] / "loop").symlink_to("loop")
    (root[0] / "outside").symlink_to("/etc/passwd")
    tree = directory(root)
    plain = pick(tree, [b"test"])
    for name in (b"inside", b"absolute", b"above", b"sub/up", b"sub/../test", b"/test", b"./test"):
        found = pick(tree, [name])
        assert (found.hash, found.items[0].path) == (plain.hash, b"test")
        assert found.items[0].name == name.rpartition(b"/")[2]
    for name, error in ((b"loop", InvalidRequest), (b"outside", NotFound), (b"outside/x", NotFound)):
        with pytest.raises(error):
            pick(tree, [name])


@pytest.mark.parametrize("name", [b"../x", b"sub/../../x", b"/../x", b"a\0b"])
def test_names_that_lead_out(root: tuple[Path, int], name: bytes) -> None:
    with pytest.raises(InvalidRequest):
        pick(directory(root), [name])


def test_what_is_ignored_is_not_there(root: tuple[Path, int]) -> None:
    (root[0] / "link").symlink_to("test")
    for excluded, name in (("test", b"test"), ("test", b"link"), ("link", b"link"), ("sub", b"sub")):
        with pytest.raises(NotFound, match=r"file not found in build context or excluded by \.dockerignore"):
            pick(directory(root, excluded), [name])
    with pytest.raises(InvalidRequest, match="no source files were specified"):
        pick(directory(root, "test"), [b"te*"])
    (root[0] / "link").unlink()
    names = [item.name for item in pick(directory(root, "test"), [b"*"]).items]
    assert names == [b"builder-tarsum-test-subdir", b"sub"]


def test_a_file_is_read_once(root: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    tree = directory(root)
    opened: list[bytes] = []
    from streamer.context import tree as trees

    real = trees.open_below
    monkeypatch.setattr(trees, "open_below", lambda *given: (opened.append(given[1]), real(*given))[1])
    for sources in ([b"test"], [b"."], [b"*"], [b"test", b"."]):
        pick(tree, sources)
    assert sorted(opened) == [b"builder-tarsum-test-subdir/test", b"test"]


def test_an_archive_keeps_the_names_it_came_with(tmp_path: Path) -> None:
    """`a` and `./a` are the same file with different sums."""
    hashes = []
    for name in ("a", "./a"):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as out:
            out.addfile(tarfile.TarInfo(name))
        summing = Summing(io.BytesIO(made.getvalue()))
        while summing.read(1 << 20):
            pass
        (tmp_path / "a").touch()
        descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        hashes.append(pick(RecordedTree(descriptor, summing.sums), [b"a"]).hash)
        (tmp_path / "b").touch()
        assert pick(RecordedTree(descriptor, summing.sums), [b"b"]).hash == "file:b", "known by its name only"
        os.close(descriptor)
    assert len(set(hashes)) == 2


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*", "a", True),
        ("*", "a/b", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a?c", "aéc", True),
        ("[a-c]*", "box", True),
        ("[^a-c]*", "box", False),
        ("[^a-c]*", "/box", False),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
        ("[\\]]", "]", True),
        ("[z-a]", "m", False),
        ("*.go", "x.go", True),
        ("a[", "a", False),
        ("a[]", "a", False),
        ("a[b-]", "ab", False),
        ("a\\", "a", False),
        ("x[!a]", "x!", True),
    ],
)
def test_wildcards_are_those_of_go(pattern: str, path: str, matches: bool) -> None:
    compiled = wildcards(pattern.encode())
    assert (compiled is not None and compiled.fullmatch(path) is not None) is matches


def test_no_pattern_takes_for_ever() -> None:
    compiled = wildcards(b"*a" * 60 + b"*b")
    assert compiled is not None
    assert compiled.fullmatch("a" * 255) is None
    compiled = wildcards(b"*a*b*/x*c")
    assert compiled is not None
    assert [bool(compiled.fullmatch(each)) for each in ("1a2b3/x4c", "ab/xc", "a/b/xc", "abab/xcc")] == [
        True, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "expected"), [(b"a*", True), (b"a\\*", False), (b"a\\\\*", True), (b"[", True), (b"a", False)]
)
def test_what_is_a_wildcard(path: bytes, expected: bool) -> None:
    assert has_wildcards(path) is expected


def test_cleaned() -> None:
    assert [cleaned(path) for path in (b"", b".", b"/", b"a//b/./c/../d", b"/a/")] == [b"", b"", b"", b"a/b/d", b"a"]
