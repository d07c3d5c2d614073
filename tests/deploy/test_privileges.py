"""What works with which privilege: the table of deploy/README.md is measured here, cell by cell.

A store as Docker leaves it: directories for root alone, a file that only its owner may read, and a directory that is
opaque in the container. Whatever is refused is refused by name, or broken off.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import boxes, confined, images
from support.boxes import Engine
from support.confined import BOTH, READ, ROOT, USER
from support.docker_roots import DockerRoot
from support.unix import Unix

pytestmark = pytest.mark.root

README = ROOT / "deploy/README.md"
MOUNT = ("sys_admin",)

ROWS: dict[str, tuple[int, Sequence[str]]] = {
    "root with both": (0, BOTH),
    "root without CAP_SYS_ADMIN": (0, READ),
    "root without CAP_DAC_READ_SEARCH": (0, MOUNT),
    "root with neither": (0, ()),
    "another user with both": (USER, BOTH),
    "another user without CAP_SYS_ADMIN": (USER, READ),
    "another user without CAP_DAC_READ_SEARCH": (USER, MOUNT),
    "another user with neither": (USER, ()),
}
COLUMNS = ("layers, saved images", "diffs, changes", "containers, root file systems")


class Store:
    """A data-root of Docker's, with what each column asks for."""

    def __init__(self, place: Path) -> None:
        base = images.layer(
            images.directory("opaque"),
            images.file("opaque/old", b"old"),
            images.file("secret", b"secret", mode=0, uid=1234, gid=1234),
        )
        made = images.image(base, images.layer(images.file("added", b"added")), names=["a:1"])
        self.root = DockerRoot(place / "docker").add(made)
        self.root.container("web", made, "new")
        self.root.path.chmod(0o710)
        for path in self.root.path.rglob("*"):
            if path.is_dir() and not path.is_symlink() and "/diff" not in str(path):
                path.chmod(0o700)  # as dockerd makes them
        for secret in self.root.overlay.glob("*/diff/secret"):
            os.chown(secret, 1234, 1234)
            secret.chmod(0)
        upper = next(new.parent for new in self.root.overlay.glob("*/diff/new"))
        (upper / "opaque").mkdir()
        os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
        self.options = ("--store", f"docker=docker:{self.root.path}")
        self.place = place
        self.layer = made.diff_ids[0]
        self.paths = {
            COLUMNS[0]: (f"/v1/layers/{self.layer}/archive", "/v1/images/a:1/archive"),
            COLUMNS[1]: ("/v1/containers/web/diff", "/v1/containers/web/changes"),
            COLUMNS[2]: ("/v1/containers/web/archive", "/v1/images/a:1/rootfs?profile=full"),
        }


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Not below pytest's own directory, which every run of pytest closes to other users."""
    with tempfile.TemporaryDirectory(prefix="privileges-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Store(Path(name))


def told() -> dict[str, dict[str, bool]]:
    """The table as the page has it."""
    lines = README.read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if all(column in line for column in COLUMNS))
    header = [cell.strip() for cell in lines[begin].strip("|").split("|")]
    found = {}
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[name] = {
            column: cell == "yes" for column, cell in zip(header[1:], cells, strict=True) if column in COLUMNS
        }
    return found


@contextmanager
def serving(
    store: Store, place: Path, user: int, capabilities: Sequence[str], *, read_only: Sequence[Path] = ()
) -> Iterator[Callable[[str], bool]]:
    """`streamer serve` with these privileges; what comes is a function that says whether a path is answered. Where one
    is not, it is refused by name or broken off."""
    place.mkdir()
    os.chown(place, user, user)
    arguments = ("serve", *store.options, "--state", place, "--listen", f"unix:{place}/s")
    with confined.serving(arguments, user, capabilities, read_only=read_only):
        yield lambda path: answered(place / "s", path)


def answered(socket: Path, path: str) -> bool:
    """Whether the whole answer came, with a status of success."""
    asked = Unix(str(socket))
    try:
        asked.request("GET", path)
        answer = asked.getresponse()
        body = answer.read()
    except http.client.IncompleteRead:
        return False
    finally:
        asked.close()
    if answer.status != 200:
        assert json.loads(body)["code"] in ("not_permitted", "source_failed", "source_changed"), body
    return answer.status == 200


@pytest.mark.parametrize("row", ROWS)
def test_the_table(store: Store, tmp_path: Path, row: str) -> None:
    with serving(store, store.place / row.replace(" ", "-"), *ROWS[row]) as answers:
        measured = {column: {answers(path) for path in paths} for column, paths in store.paths.items()}
    assert {column: all(seen) for column, seen in measured.items()} == told()[row]
    assert all(len(seen) == 1 for seen in measured.values()), measured


def test_the_table_has_no_other_rows() -> None:
    assert list(told()) == list(ROWS)


def test_a_store_mounted_read_only_is_enough(store: Store) -> None:
    with serving(store, store.place / "read-only", 0, BOTH, read_only=[store.root.path]) as answers:
        assert all(answers(path) for paths in store.paths.values() for path in paths)


@pytest.mark.parametrize("question", [("layer", 0), ("container", "web")])
def test_in_a_user_namespace_nothing_of_roots_stores_is_read(store: Store, question: tuple[str, object]) -> None:
    """Where CAP_SYS_ADMIN is that of a namespace (rootless engines, `hostUsers: false`)."""
    kind, name = question
    export = confined.streamer("export", kind, store.layer if name == 0 else name, *store.options)
    done = subprocess.run(
        ("unshare", "--user", "--map-root-user", "--mount", *export),
        env=confined.environment(),
        capture_output=True,
        timeout=120,
        cwd="/",
        check=False,
    )
    assert done.returncode in (6, 8), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout.endswith(bytes(1024)), "a refused export has an archive's end"


def test_a_user_without_a_name_or_a_home() -> None:
    done = confined.run(confined.streamer("doctor", "--state", "/nowhere"), USER)
    assert b"error inside" not in done.stderr
    assert b"openat2" in done.stdout


def test_stores_are_found_by_a_user_with_capabilities(store: Store) -> None:
    """What may be read with a capability counts as readable."""
    over = 'mount -t tmpfs -o mode=755 tmpfs /var/lib && mkdir -m 700 "$0" && mount --bind "$STORE" "$0" && exec "$@"'
    shown = {}
    for capabilities in (READ, ()):
        inside = confined.command(confined.streamer("ls", "stores"), USER, capabilities)
        done = subprocess.run(
            ("unshare", "--mount", "sh", "-c", over, "/var/lib/docker", *inside),
            env=confined.environment(STREAMER_DISCOVER="1", STREAMER_STATE="/nowhere", STORE=str(store.root.path)),
            capture_output=True,
            timeout=120,
            check=False,
            cwd="/",
        )
        shown[capabilities] = b"/var/lib/docker" in done.stdout
    assert shown == {READ: True, (): False}


@pytest.mark.engine
@pytest.mark.parametrize("name", boxes.ENGINES)
def test_real_engines_with_two_capabilities(name: str, request: pytest.FixtureRequest) -> None:
    """As the manifests and the unit have it: root with two capabilities, the store read-only, gives what full root
    gives, byte for byte."""
    engine: Engine = boxes.engine(name, request)
    location, places = located(engine)
    with engine.box(engine.built) as box:
        box.change()
        for question in (("container", box.name), ("diff", box.name), ("image", engine.built)):
            command = confined.streamer("export", *question, "--store", f"it={location}")
            whole, confined_ = (
                engine.engines.command(*prefix, *command, PYTHONPATH=str(ROOT), STREAMER_DISCOVER="0", **more)()
                for prefix, more in (
                    (("env",), {}),
                    (
                        ("unshare", "--mount", "sh", "-c", confined.SET_UP, "sh", *confined.prefix(0, BOTH)),
                        {"CLOSED": "", "READ_ONLY": " ".join(map(str, places))},
                    ),
                )
            )
            assert len(whole) > 1024
            assert confined_ == whole, question


def located(engine: Engine) -> tuple[str, list[Path]]:
    """The store of an engine, and the directories that streamer reads there."""
    root = engine.command.root
    if isinstance(engine, boxes.Docker):
        return f"docker:{root}", [root]
    if isinstance(engine, boxes.Podman):
        return f"containers-storage:{root}+{root.parent / 'run'}", [root, root.parent / "run"]
    assert isinstance(engine, boxes.Containerd)
    return f"containerd:{engine.address}#{engine.NAMESPACE}", [engine.address.parent]
