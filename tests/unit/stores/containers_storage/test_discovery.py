"""Where a node's store is: storage.conf and the environment (containers-storage.conf(5))."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from streamer.stores.containers_storage.discovery import Storage, discovered
from streamer.stores.containers_storage.options import StorageOptions


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


class Node:
    """A file system of a node, and who asks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home/me"

    def conf(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def store(self, path: str, driver: str = "overlay") -> Path:
        (self.root / path / f"{driver}-images").mkdir(parents=True)
        return self.root / path

    def found(self, uid: int = 0, **environment: str) -> Storage | None:
        return discovered(environment, uid, self.home, self.root)

    def graphroot(self, uid: int = 0, **environment: str) -> Path:
        found = self.found(uid, **environment)
        assert found is not None
        return found.graphroot

    def options(self, uid: int = 0, **environment: str) -> StorageOptions:
        found = self.found(uid, **environment)
        assert found is not None
        return found.options


def test_nothing(node: Node) -> None:
    assert node.found() is None
    assert node.found(1000) is None
    (node.root / "var/lib/containers/storage").mkdir(parents=True)
    assert node.found() is None


def test_defaults_of_root(node: Node) -> None:
    root = node.store("var/lib/containers/storage")
    found = node.found()
    assert found is not None
    assert (found.graphroot, found.runroot) == (root, node.root / "run/containers/storage")
    assert (found.options.driver, found.options.imagestore, found.options.additional) == (None, None, ())
    assert found.options.subuid == node.root / "etc/subuid"
    assert node.found(1000) is None


def test_defaults_of_a_user(node: Node) -> None:
    node.store("var/lib/containers/storage")
    own = node.store("home/me/.local/share/containers/storage", "vfs")
    found = node.found(1000)
    assert found is not None
    assert (found.graphroot, found.runroot) == (own, node.root / "run/user/1000/containers")
    data, run = str(node.root / "data"), str(node.root / "runs")
    other = node.store("data/containers/storage")
    found = node.found(1000, XDG_DATA_HOME=data, XDG_RUNTIME_DIR=run)
    assert found is not None
    assert (found.graphroot, found.runroot) == (other, Path(run) / "containers")


def test_order_of_files(node: Node) -> None:
    for name in ("share", "etc", "own", "chosen"):
        node.store(f"stores/{name}")
    node.conf("usr/share/containers/storage.conf", '[storage]\ngraphroot = "/stores/share"\nrunroot = "/stores/run"')
    assert node.graphroot() == node.root / "stores/share"
    found = node.found()
    assert found is not None
    assert found.runroot == node.root / "stores/run"
    node.conf("etc/containers/storage.conf", '[storage]\ngraphroot = "/stores/etc"')
    assert node.graphroot() == node.root / "stores/etc"
    node.conf("config/containers/storage.conf", '[storage]\ngraphroot = "/stores/own"')
    config = str(node.root / "config")
    assert node.graphroot(XDG_CONFIG_HOME=config) == node.root / "stores/own"
    node.conf("my.conf", '[storage]\ngraphroot = "/stores/chosen"')
    chosen = str(node.root / "my.conf")
    for uid in (0, 1000):
        assert (
            node.graphroot(uid, CONTAINERS_STORAGE_CONF=chosen, XDG_CONFIG_HOME=config) == node.root / "stores/chosen"
        )


def test_a_user_is_not_given_the_roots_of_the_system(node: Node) -> None:
    node.store("stores/etc")
    own = node.store("home/me/.local/share/containers/storage")
    node.conf("etc/containers/storage.conf", '[storage]\ngraphroot = "/stores/etc"\ndriver = "vfs"')
    assert node.graphroot(1000) == own
    assert node.options(1000).driver == "vfs"
    node.conf(
        "etc/containers/storage.conf",
        '[storage]\ngraphroot = "/stores/etc"\nrootless_storage_path = "/stores/$USER/$UID"',
    )
    shared = node.store("stores/me/1000")
    assert node.graphroot(1000, USER="me") == shared
    assert node.graphroot() == node.root / "stores/etc"
    node.conf(
        "home/me/.config/containers/storage.conf", '[storage]\ngraphroot = "$HOME/.local/share/containers/storage"'
    )
    assert node.graphroot(1000, USER="me") == own


def test_parts(node: Node) -> None:
    """Files of storage.conf.d are merged in the order of their names; one of a later place hides its namesake."""
    for number in range(4):
        node.store(f"stores/{number}")
    node.conf("etc/containers/storage.conf", '[storage]\ngraphroot = "/stores/0"\ndriver = "overlay"')
    node.conf("usr/share/containers/storage.conf.d/20.conf", '[storage]\ngraphroot = "/stores/2"')
    node.conf("usr/share/containers/storage.conf.d/10.conf", '[storage]\ngraphroot = "/stores/1"')
    node.conf("usr/share/containers/storage.conf.d/30.txt", '[storage]\ngraphroot = "/stores/3"')
    assert node.graphroot() == node.root / "stores/2"
    node.conf("etc/containers/storage.conf.d/20.conf", '[storage]\ndriver = "vfs"')
    assert node.graphroot() == node.root / "stores/1"
    assert node.options().driver == "vfs"
    assert node.options(STORAGE_DRIVER="overlay").driver == "overlay"


@pytest.mark.parametrize(
    ("text", "additional"),
    [
        ('[storage.options]\nadditionalimagestores = ["/a", "/b/$UID", "relative", 5]', ["a", "b/0"]),
        ('[storage.options]\nadditionalimagestores = "/a,/b"', ["a", "b"]),
        ('[storage.options.overlay]\nadditionalimagestores = ["/a"]', ["a"]),
        ("[storage.options]\nadditionalimagestores = 7", []),
    ],
)
def test_additional_image_stores(node: Node, text: str, additional: list[str]) -> None:
    node.store("var/lib/containers/storage")
    node.conf("etc/containers/storage.conf", text)
    assert node.options().additional == tuple(node.root / path for path in additional)


def test_image_store(node: Node) -> None:
    """The images apart from the containers; the graph root may not have been used yet."""
    node.conf("etc/containers/storage.conf", '[storage]\nimagestore = "/images"')
    assert node.found() is None
    node.store("images")
    assert node.options().imagestore == node.root / "images"
    assert node.graphroot() == node.root / "var/lib/containers/storage"


@pytest.mark.parametrize(
    "text", ["", "[storage", "storage = 5", "[storage]\ngraphroot = 5", "\xff", "[storage]\noptions = 3"]
)
def test_odd_files(node: Node, text: str) -> None:
    root = node.store("var/lib/containers/storage")
    node.conf("etc/containers/storage.conf", "")
    (node.root / "etc/containers/storage.conf").write_bytes(text.encode("latin-1"))
    assert node.graphroot() == root
    (node.root / "etc/containers/storage.conf").unlink()
    (node.root / "etc/containers/storage.conf").mkdir()
    assert node.graphroot() == root


def test_the_real_root(tmp_path: Path) -> None:
    """Paths are what they are."""
    (tmp_path / "s/overlay-layers").mkdir(parents=True)
    (tmp_path / "c").write_text(f'[storage]\ngraphroot = "{tmp_path}/s"')
    environment: Mapping[str, str] = {"CONTAINERS_STORAGE_CONF": str(tmp_path / "c")}
    found = discovered(environment, 0, tmp_path)
    assert found is not None
    assert found.graphroot == tmp_path / "s"
    assert found.options.subuid == Path("/etc/subuid")


@pytest.mark.root
def test_files_that_may_not_be_looked_at_are_not_there() -> None:
    with tempfile.TemporaryDirectory(prefix="node-") as folder:
        os.chmod(folder, 0o755)
        node = Node(Path(folder))
        root = node.store("home/me/.local/share/containers/storage")
        node.conf("etc/containers/storage.conf", '[storage]\ndriver = "vfs"')
        os.chmod(node.root / "etc/containers", 0o700)
        os.seteuid(65534)
        try:
            found = node.found(65534)
        finally:
            os.seteuid(0)
    assert found is not None
    assert (found.graphroot, found.options.driver) == (root, None)
