from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator

import pytest
from support.races import exchanging
from support.trees import Dir, File, Symlink, deep, make

from streamer.changeset import descriptor
from streamer.changeset.descriptor import open_below, open_directory, open_in_root, openat2
from streamer.errors import InvalidRequest, NotFound, SourceChanged, Unsupported

Open = Callable[[bytes], int]


@pytest.fixture(params=["openat2", "by hand"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the system call and as on a kernel without it."""
    if request.param == "by hand":

        def missing(*_: object, **__: object) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(descriptor, "openat2", missing)
    return str(request.param)


@pytest.fixture
def tree(base: bytes) -> Iterator[bytes]:
    """Beside it lies what a link that leaves it would reach."""
    make(base, File("secret"), Dir("outside", File("secret")))
    root = os.path.join(base, b"root")
    make(
        root,
        Dir("etc", File("passwd", "inside"), Symlink("up", "../../../.."), Symlink("p", "passwd")),
        Symlink("absolute", "/etc"),
        Symlink("relative", "etc"),
        Symlink("out", "../outside"),
        Symlink("hop", "absolute/p"),
        Symlink("loop", "loop"),
        Symlink("dangling", "nowhere"),
    )
    yield root


def read(fd: int) -> bytes:
    try:
        return os.pread(fd, 100, 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "path",
    [
        b"etc/passwd",
        b"/etc/passwd",
        b"absolute/passwd",
        b"relative/passwd",
        b"hop",
        b"etc/../etc/./passwd",
        b"../../etc/passwd",
        b"etc/up/etc/passwd",
        b"etc//p",
    ],
)
def test_paths_are_those_of_a_chroot(tree: bytes, opened: Open, way: str, path: bytes) -> None:
    assert read(open_in_root(opened(tree), path, os.O_RDONLY)) == b"inside"


@pytest.mark.parametrize("path", [b"", b"/", b"..", b"etc/up", b"etc/up/.."])
def test_the_root_is_the_top(tree: bytes, opened: Open, way: str, path: bytes) -> None:
    fd = open_in_root(opened(tree), path)
    try:
        assert os.path.samestat(os.fstat(fd), os.stat(tree))
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"out/secret", NotFound),
        (b"../secret", NotFound),
        (b"etc/up/secret", NotFound),
        (b"dangling", NotFound),
        (b"etc/passwd/x", NotFound),
        (b"loop", InvalidRequest),
        (b"loop/x", InvalidRequest),
        (b"a\0b", InvalidRequest),
        (b"x" * 300, InvalidRequest),
    ],
)
def test_what_is_not_there(tree: bytes, opened: Open, way: str, path: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        open_in_root(opened(tree), path)


def test_the_last_link_itself_on_request(tree: bytes, opened: Open, way: str) -> None:
    fd = open_in_root(opened(tree), b"relative/p", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        assert os.readlink(b"", dir_fd=fd) == b"passwd"
    finally:
        os.close(fd)


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="needs /proc")
def test_other_file_systems_are_refused(opened: Open, way: str) -> None:
    with pytest.raises(Unsupported, match="another file system"):
        open_in_root(opened(b"/"), b"proc/self/root/etc")


def test_below_follows_nothing(tree: bytes, opened: Open, way: str) -> None:
    root = opened(tree)
    assert read(open_below(root, b"etc/passwd", os.O_RDONLY)) == b"inside"
    for path in (b"relative/passwd", b"absolute", b"out/secret", b"etc/p"):
        with pytest.raises(OSError) as caught:
            open_below(root, path, os.O_RDONLY | os.O_NOFOLLOW)
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    link = open_below(root, b"etc/p")
    assert os.readlink(b"", dir_fd=link) == b"passwd"
    os.close(link)


def test_below_takes_paths_of_any_length(base: bytes, opened: Open, way: str) -> None:
    deep(base, 500, b"d" * 200, leaf=b"f")
    fd = open_below(opened(base), b"/".join([b"d" * 200] * 500 + [b"f"]))
    os.close(fd)


def test_open_directory_takes_directories_only(tree: bytes, opened: Open) -> None:
    root = opened(tree)
    for name in (b"relative", b"nothing"):
        with pytest.raises(OSError):
            open_directory(name, root)
    os.close(open_directory(b"etc", root))


def test_renaming_all_the_time_is_given_up_on(tree: bytes, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object, **__: object) -> int:
        raise OSError(errno.EAGAIN, "again")

    monkeypatch.setattr(descriptor, "openat2", again)
    with pytest.raises(SourceChanged):
        open_in_root(opened(tree), b"etc/../etc")


def test_openat2_says_what_the_kernel_says(opened: Open, tree: bytes) -> None:
    with pytest.raises(OSError) as caught:
        openat2(opened(tree), b"nothing", os.O_PATH)
    assert caught.value.errno == errno.ENOENT


def test_a_race_never_leads_outside(base: bytes, opened: Open, way: str) -> None:
    with tempfile.TemporaryDirectory() as outside:
        make(outside, File("f", "secret"))
        make(base, Dir("a", Dir("d", File("f", "public"))), Symlink("s", outside), Dir("other"))
        root = opened(base)
        with exchanging(os.path.join(base, b"a/d"), os.path.join(base, b"s")):
            for _ in range(10_000):
                for opening in (open_in_root, open_below):
                    try:
                        fd = opening(root, b"a/d/f", os.O_RDONLY | os.O_NOFOLLOW)
                    except (NotFound, SourceChanged, OSError):
                        continue
                    assert read(fd) == b"public"
