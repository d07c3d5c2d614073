"""Leases: counted, shared or not, given back on every way out."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamer.errors import Draining, LimitExceeded, MountFailed, SourceChanged, StoreDamaged
from streamer.mounts import table as table_module
from streamer.mounts.mount import Mount
from streamer.mounts.table import MountTable, Statistics
from streamer.mounts.ways import Way

MakeLayers = Callable[[int], tuple[bytes, ...]]

root_only = pytest.mark.root


def test_one_layer_is_the_directory_itself(make_layers: MakeLayers) -> None:
    (layer,) = make_layers(1)
    table = MountTable()
    with table.lease(Mount((layer,))) as root:
        assert os.path.samestat(os.fstat(root), os.stat(layer))
        assert sorted(os.listdir(root)) == ["0", "same"]
        assert not os.get_inheritable(root)


@pytest.mark.root
def test_one_layer_needs_no_privilege(as_nobody: Callable[..., str]) -> None:
    code = """
        from streamer.mounts.mount import Mount
        from streamer.mounts.table import MountTable
        drop()
        with MountTable().lease(Mount((b"/usr",))) as root:
            print("bin" in os.listdir(root))
        print(MountTable().possible(Mount((b"/usr",))), MountTable().possible(Mount((b"/usr", b"/etc"))))
    """
    assert as_nobody(code) == "True\nTrue False\n"


@pytest.mark.root
def test_two_layers_without_privilege(as_nobody: Callable[..., str]) -> None:
    code = """
        from streamer.errors import NotPermitted
        from streamer.mounts.mount import Mount
        from streamer.mounts.table import MountTable
        drop()
        table = MountTable()
        try:
            with table.lease(Mount((b"/usr", b"/etc"))):
                pass
        except NotPermitted as error:
            print(error, repr(table), sep="|")
    """
    assert as_nobody(code) == (
        "overlays cannot be mounted by this process: this needs CAP_SYS_ADMIN "
        "(to read files of any owner also CAP_DAC_READ_SEARCH)|<MountTable 0 leases of 0 mounts>\n"
    )


def test_no_layers_are_an_empty_directory_always_alike() -> None:
    table = MountTable()
    with table.lease(Mount(()), shared=True) as one, table.lease(Mount(())) as other:
        for root in (one, other):
            assert os.listdir(root) == []
            status = os.fstat(root)
            assert (status.st_mode, status.st_mtime_ns) == (0o40755, 0)


@root_only
@pytest.mark.parametrize("way", [None, *Way])
def test_an_overlay(way: Way | None, make_layers: MakeLayers) -> None:
    table = MountTable(way=way)
    with table.lease(Mount(make_layers(3))) as root:
        assert sorted(os.listdir(root)) == ["0", "1", "2", "same"]
        assert repr(table) == "<MountTable 1 leases of 1 mounts>"
    assert table.statistics() == Statistics(leases=0, mounts=0, leased=1, mounted=1, failed=0)


@root_only
@pytest.mark.parametrize(("shared", "mounts"), [(True, 1), (False, 2)])
def test_only_what_is_never_written_is_shared(shared: bool, mounts: int, make_layers: MakeLayers) -> None:
    mount = Mount(make_layers(2))
    table = MountTable()
    with table.lease(mount, shared=shared) as one:
        with table.lease(mount, shared=shared) as other:
            assert table.statistics() == Statistics(leases=2, mounts=mounts, leased=2, mounted=mounts, failed=0)
            assert (os.fstat(one).st_dev == os.fstat(other).st_dev) is shared
            # Each has an offset of its own: what one has listed, the other lists too.
            assert len(os.listdir(one)) == len(os.listdir(one)) == len(os.listdir(other)) == 3
        assert table.statistics().leases == 1
        assert len(os.listdir(one)) == 3
    assert table.statistics().mounts == 0


@root_only
def test_a_layer_that_came_back_is_another_mount(make_layers: MakeLayers) -> None:
    layers = make_layers(2)
    table = MountTable()
    with table.lease(Mount(layers), shared=True) as old:
        kept = layers[0] + b".kept"  # so that the new directory cannot get its number on file systems that reuse them
        os.rename(layers[0], kept)
        shutil.rmtree(kept)
        os.mkdir(layers[0])
        os.mkdir(os.path.join(layers[0], b"new"))
        with table.lease(Mount(layers), shared=True) as new:
            assert "new" in os.listdir(new)
            assert "new" not in os.listdir(old)
            assert table.statistics().mounts == 2


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda path: shutil.rmtree(path), SourceChanged, r"layer 2 of 3 \(topmost first\) 'layer1/diff' is gone"),
        (lambda path: (shutil.rmtree(path), open(path, "w").close()), StoreDamaged, "'layer1/diff' is not a directory"),
        (
            lambda path: (shutil.rmtree(path), os.symlink("/etc", path)),
            StoreDamaged,
            "'layer1/diff' is not a directory",
        ),
    ],
    ids=["missing", "file", "symlink"],
)
def test_a_bad_layer_is_named(
    spoil: Callable[[bytes], object], kind: type[Exception], message: str, make_layers: MakeLayers
) -> None:
    layers = make_layers(3)
    spoil(layers[1])
    table = MountTable()
    with pytest.raises(kind, match=message) as caught, table.lease(Mount(layers)):
        pytest.fail("leased")
    assert os.fsdecode(os.path.dirname(layers[1])) not in str(caught.value)  # the host's paths are for the log only
    assert caught.value.__notes__ == [f"layer directory: {layers[1]!r}"]
    assert table.statistics() == Statistics(leases=0, mounts=0, leased=0, mounted=0, failed=0)


def test_nobody_leads_a_lease_out_of_a_store(make_layers: MakeLayers) -> None:
    """A store's owner may be anybody: a link above the layer would show us what only we may read."""
    (layer,) = make_layers(1)
    above = os.path.dirname(layer)
    os.rename(above, above + b".kept")
    os.symlink(above + b".kept", above)
    with pytest.raises(StoreDamaged, match="is not a directory"), MountTable().lease(Mount((layer,))):
        pytest.fail("leased")


@pytest.mark.parametrize("path", [b"relative", b"", b"/with\0nul"])
def test_a_path_that_is_none(path: bytes) -> None:
    with pytest.raises(StoreDamaged, match="has no absolute path"), MountTable().lease(Mount((path,))):
        pytest.fail("leased")


def test_too_many_layers_are_counted_before_they_are_opened() -> None:
    mount = Mount((b"/nowhere",) * 501)
    assert not MountTable().possible(mount)
    with pytest.raises(MountFailed, match="501 layers"), MountTable().lease(mount):
        pytest.fail("leased")


def test_no_descriptors_left_to_open(make_layers: MakeLayers) -> None:
    mount = Mount(make_layers(8))
    table = MountTable()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    taken = [os.open("/", os.O_RDONLY)]
    while taken[-1] < highest:  # no number below is free any more
        taken.append(os.dup(taken[0]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 4, limits[1]))
    try:
        with pytest.raises(LimitExceeded, match="too many files are open"), table.lease(mount):
            pytest.fail("leased")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)
    assert table.statistics().leases == 0


@root_only
def test_a_failed_mount_leaves_the_books_empty(make_layers: MakeLayers) -> None:
    (layer,) = make_layers(1)
    table = MountTable()
    with pytest.raises(MountFailed, match="occurs twice"), table.lease(Mount((layer, layer)), shared=True):
        pytest.fail("leased")
    assert table.statistics() == Statistics(leases=0, mounts=0, leased=1, mounted=0, failed=1)


def test_closed(make_layers: MakeLayers) -> None:
    mount = Mount(make_layers(1))
    table = MountTable()
    with table.lease(mount) as root:
        table.close()
        table.close()
        with pytest.raises(Draining), table.lease(mount):
            pytest.fail("leased")
        assert os.listdir(root)
    assert repr(table) == "<MountTable 0 leases of 0 mounts, closed>"


class Broken(Exception):
    pass


def test_a_failing_release_is_noted_on_the_first_error(make_layers: MakeLayers) -> None:
    table = MountTable()
    with pytest.raises(Broken) as caught, table.lease(Mount(make_layers(1))) as root:
        os.close(root)
        raise Broken
    assert caught.value.__notes__ == ["While giving back a lease: [Errno 9] Bad file descriptor"]
    assert table.statistics().leases == 0


def test_a_failing_release_alone_is_an_error(make_layers: MakeLayers) -> None:
    table = MountTable()
    with pytest.raises(MountFailed, match="could not be given back"), table.lease(Mount(make_layers(1))) as root:
        os.close(root)
    assert table.statistics().leases == 0


@root_only
def test_leases_of_many_threads_at_once(make_layers: MakeLayers) -> None:
    mounts = [Mount(make_layers(8)[first:]) for first in (0,)]
    mounts.append(Mount(mounts[0].layers[2:]))
    table = MountTable()

    def work(number: int) -> int:
        seen = 0
        for turn in range(20):
            mount = mounts[(number + turn) % 2]
            with table.lease(mount, shared=bool(turn % 3)) as root:
                seen += len(os.listdir(root)) == len(mount.layers) + 1
        return seen

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(work, range(12))) == [20] * 12
    counts = table.statistics()
    assert (counts.leases, counts.mounts, counts.leased, counts.failed) == (0, 0, 240, 0)


@root_only
def test_a_shared_mount_is_made_once_however_many_come(make_layers: MakeLayers) -> None:
    mount = Mount(make_layers(2))
    table = MountTable()
    everybody = threading.Barrier(8, timeout=60)

    def work(_: int) -> None:
        with table.lease(mount, shared=True):
            everybody.wait()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert table.statistics() == Statistics(leases=0, mounts=0, leased=8, mounted=1, failed=0)


def test_who_waits_for_a_mount_that_fails_tries_again(make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount(make_layers(2))
    table = MountTable()
    calls: list[int] = []

    def mount_overlay(layers: list[int], **_: object) -> int:
        calls.append(1)
        if len(calls) == 1:
            # Both are in the books now: the entry came before the call, and the second one found it.
            second.start()
            while table.statistics().leases < 2:
                threading.Event().wait(0.001)
            raise MountFailed("the first")
        return os.dup(layers[0])

    monkeypatch.setattr(table_module, "mount_overlay", mount_overlay)
    names: list[list[str]] = []

    def lease() -> None:
        with table.lease(mount, shared=True) as root:
            names.append(os.listdir(root))

    second = threading.Thread(target=lease)
    with pytest.raises(MountFailed, match="the first"):
        lease()
    second.join(60)
    assert [sorted(one) for one in names] == [["0", "same"]]
    assert table.statistics() == Statistics(leases=0, mounts=0, leased=2, mounted=1, failed=1)
