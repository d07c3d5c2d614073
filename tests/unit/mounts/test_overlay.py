"""Detached overlays on the real kernel, in every way that this kernel lets us make them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer.errors import LimitExceeded, MountFailed, NotPermitted, SourceChanged
from streamer.mounts import kernel
from streamer.mounts.features import probe
from streamer.mounts.overlay import LAYERS_MAX, mount_overlay, refusal
from streamer.mounts.ways import Way

pytestmark = pytest.mark.root


@pytest.fixture(params=list(Way))
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    for attempt in probe().attempts:
        if attempt.way is way and attempt.error is not None:
            pytest.skip(f"this kernel does not mount by {way}: {attempt.error}")
    return way


Opened = Callable[[tuple[bytes, ...]], list[int]]
MakeLayers = Callable[[int], tuple[bytes, ...]]


@contextlib.contextmanager
def mounted(layers: list[int], way: Way, *, userxattr: bool = False) -> Iterator[int]:
    mount = mount_overlay(layers, userxattr=userxattr, way=way)
    try:
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mount)
        try:
            yield root
        finally:
            os.close(root)
    finally:
        os.close(mount)


def content(root: int, name: str | bytes) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=root)
    with open(descriptor, "rb") as file:
        return file.read()


def test_upper_layers_hide_lower_ones(way: Way, make_layers: MakeLayers, opened: Opened) -> None:
    with mounted(opened(make_layers(3)), way) as root:
        assert sorted(os.listdir(root)) == ["0", "1", "2", "same"]
        assert content(root, "same") == b"0"


def test_read_only_and_harmless(way: Way, make_layers: MakeLayers, opened: Opened) -> None:
    with mounted(opened(make_layers(2)), way) as root:
        assert os.fstatvfs(root).f_flag & 15 == os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
        with pytest.raises(OSError, match="Read-only"):
            os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=root)


def test_in_no_mount_table(way: Way, make_layers: MakeLayers, opened: Opened) -> None:
    with mounted(opened(make_layers(2)), way) as root:
        with open(f"/proc/self/fdinfo/{root}") as info:
            identity = next(line.split()[1] for line in info if line.startswith("mnt_id:"))
        tables = 0
        for process in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{process}/mountinfo") as table:
                assert identity not in [line.split()[0] for line in table]
                tables += 1
        assert tables > 1


@pytest.mark.parametrize("userxattr", [False, True])
def test_as_many_layers_as_the_kernel_stacks(
    way: Way, userxattr: bool, make_layers: MakeLayers, opened: Opened
) -> None:
    layers = opened(make_layers(LAYERS_MAX + 1))
    with mounted(layers[:-1], way, userxattr=userxattr) as root:
        assert len(os.listdir(root)) == LAYERS_MAX + 1
        assert str(LAYERS_MAX - 1) in os.listdir(root)
    with pytest.raises(MountFailed, match=r"501 layers .* limit is 500"):
        mount_overlay(layers, userxattr=userxattr, way=way)


def test_the_kernel_s_own_limit_is_the_one_we_name(way: Way, make_layers: MakeLayers, opened: Opened) -> None:
    with pytest.raises(OSError, match="limit is 500" if way is not Way.THREAD else "Invalid argument"):
        way.mount(opened(make_layers(LAYERS_MAX + 1)), userxattr=False)


def test_one_layer_is_no_overlay(way: Way, make_layers: MakeLayers, opened: Opened) -> None:
    with pytest.raises(MountFailed, match="at least two layers"):
        mount_overlay(opened(make_layers(1)), userxattr=False, way=way)


def test_the_same_directory_twice(way: Way, make_layers: MakeLayers, opened: Opened) -> None:
    (layer,) = make_layers(1)
    with pytest.raises(MountFailed, match="the same directory occurs twice") as caught:
        mount_overlay(opened((layer, layer)), userxattr=False, way=way)
    assert "ELOOP" in caught.value.__notes__[0]


def test_a_removed_layer_is_not_an_empty_one(way: Way, make_layers: MakeLayers, opened: Opened, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    layers = opened((*make_layers(1), os.fsencode(gone)))
    gone.rmdir()
    with pytest.raises(SourceChanged, match="removed"):
        mount_overlay(layers, userxattr=False, way=way)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"a,b:c\\d\"e'f g\nh\xff", id="every separator"),
        pytest.param(b"x,upperdir=/tmp,workdir=/var/tmp", id="options"),
        pytest.param(b"/".join([b"n" * 200] * 3), id="603 bytes"),
    ],
)
def test_names_are_only_bytes(way: Way, name: bytes, make_layers: MakeLayers, opened: Opened, tmp_path: Path) -> None:
    odd = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(odd)
    with open(os.path.join(odd, b"\xff\n"), "wb") as file:
        file.write(b"odd")
    with mounted(opened((odd, *make_layers(1))), way) as root:
        assert content(root, b"\xff\n") == b"odd"
        assert os.fstatvfs(root).f_flag & os.ST_RDONLY


@pytest.fixture
def marked(tmp_path: Path, opened: Opened) -> list[int]:
    """Two layers made by a writable overlay with metacopy and redirects: `file` has a new mode, `old` became `new`."""
    names = ("lower", "upper", "work")
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.mkdir()
    (tmp_path / "lower/file").write_bytes(b"data")
    (tmp_path / "lower/old").mkdir()
    (tmp_path / "lower/old/below").touch()
    lower, upper, work = opened(tuple(os.fsencode(path) for path in paths))
    with kernel.Context(b"overlay") as context:
        for key, directory in ((b"lowerdir+", lower), (b"upperdir", upper), (b"workdir", work)):
            Way.STRINGS.add(context, key, directory)
        for key in (b"metacopy", b"redirect_dir"):
            context.string(key, b"on")
        mount = context.mounted(0)
    try:
        os.chmod(f"/proc/self/fd/{mount}/file", 0o600)
        os.rename("old", "new", src_dir_fd=mount, dst_dir_fd=mount)
    finally:
        os.close(mount)
    assert "trusted.overlay.metacopy" in os.listxattr(tmp_path / "upper/file")
    assert "trusted.overlay.redirect" in os.listxattr(tmp_path / "upper/new")
    return [upper, lower]


def test_metacopy_and_redirects_are_followed(way: Way, marked: list[int]) -> None:
    with mounted(marked, way) as root:
        assert content(root, "file") == b"data"
        assert os.stat("file", dir_fd=root).st_mode & 0o777 == 0o600
        assert sorted(os.listdir(root)) == ["file", "new"]
        assert os.listdir(f"/proc/self/fd/{root}/new") == ["below"]


def test_user_marks(way: Way, make_layers: MakeLayers, opened: Opened) -> None:
    layers = make_layers(2)
    for layer in layers:
        os.mkdir(os.path.join(layer, b"d"))
    open(os.path.join(layers[1], b"d", b"hidden"), "w").close()
    os.setxattr(os.path.join(layers[0], b"d"), "user.overlay.opaque", b"y")
    for userxattr, expected in ((True, []), (False, ["hidden"])):
        with mounted(opened(layers), way, userxattr=userxattr) as root:
            assert os.listdir(f"/proc/self/fd/{root}/d") == expected


def test_an_open_file_outlives_the_mount(way: Way, make_layers: MakeLayers, opened: Opened) -> None:
    with mounted(opened(make_layers(2)), way) as root:
        file = os.open("same", os.O_RDONLY, dir_fd=root)
    try:
        assert os.read(file, 10) == b"0"
    finally:
        os.close(file)


HOLDER = """
import os, sys
from streamer.mounts.overlay import mount_overlay
from streamer.mounts.ways import Way
layers = [os.open(path, os.O_PATH) for path in sys.argv[2:]]
mount = mount_overlay(layers, userxattr=False, way=Way(sys.argv[1]))
file = os.open("big", os.O_RDONLY, dir_fd=mount)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_nothing_outlives_its_holder_killed(way: Way, small_disk: Path) -> None:
    for name in ("a", "b"):
        (small_disk / name).mkdir()
    free = os.statvfs(small_disk).f_bfree
    (small_disk / "a/big").write_bytes(bytes(1 << 20))
    command = [sys.executable, "-c", HOLDER, way, small_disk / "a", small_disk / "b"]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[3], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"open\n"
            (small_disk / "a/big").unlink()
            assert os.statvfs(small_disk).f_bfree < free  # its overlay pins the file
        finally:
            holder.kill()
        assert holder.wait() == -signal.SIGKILL
    # The kernel lets go just after the exit is reported: wait for it, but not for ever.
    for _ in range(500):
        if os.statvfs(small_disk).f_bfree == free:
            break
        select.select([], [], [], 0.01)
    assert os.statvfs(small_disk).f_bfree == free


def test_without_the_privilege(
    way: Way, make_layers: MakeLayers, tmp_path: Path, as_nobody: Callable[..., str]
) -> None:
    code = """
        import os, sys
        from streamer.errors import NotPermitted
        from streamer.mounts.overlay import mount_overlay
        from streamer.mounts.ways import Way
        drop()
        try:
            layers = [os.open(name, os.O_PATH) for name in ("/usr", "/etc")]
            mount_overlay(layers, userxattr=False, way=Way(sys.argv[1]))
        except NotPermitted as error:
            print(error)
    """
    assert "needs CAP_SYS_ADMIN" in as_nobody(code, way)


@pytest.mark.parametrize(
    ("number", "words", "kind", "message"),
    [
        (1, "Operation not permitted", NotPermitted, "It failed: this needs CAP_SYS_ADMIN"),
        (24, "Too many open files", LimitExceeded, "too many files are open"),
        (38, "Function not implemented", MountFailed, "this kernel has no overlay"),
        (22, "overlay: /srv/x is not a directory", MountFailed, "It failed; the kernel's reason is in the log"),
        (22, "overlay: odd options", MountFailed, "It failed: overlay: odd options"),
    ],
)
def test_refusals_are_sentences_without_paths(number: int, words: str, kind: type[Exception], message: str) -> None:
    failed = refusal("It failed", OSError(number, words))
    assert type(failed) is kind
    assert message in str(failed)
    assert words in failed.__notes__[0]
