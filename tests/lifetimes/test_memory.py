"""Memory does not grow with what is exported: one server process, everything that is large, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import images
from support.clients import Client
from support.commandline import run
from support.processes import Serving

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 120 << 20


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("memory")
    made = root / "state"
    layers = [images.layer(images.file(f"layer-{number}", b"%d" % number)) for number in range(200)]
    (root / "many.tar").write_bytes(images.pack(images.docker(images.image(*layers, names=["many:1"]))))
    small = images.image(images.layer(images.file("base", b"x")), names=["small:1"])
    (root / "small.tar").write_bytes(images.pack(images.docker(small)))
    for archive in ("many", "small"):
        result = run("import", root / f"{archive}.tar", "--state", made)
        assert result.returncode == 0, result.stderr
    for name in ("files", "names", "sparse", "deep"):
        container(made, name, "small:1")
    container(made, "layers", "many:1")
    return made


def container(state: Path, name: str, image: str) -> None:
    result = run("create", image, "--name", name, "--state", state)
    assert result.returncode == 0, result.stderr
    upper = state / "containers" / result.stdout.decode().strip() / "upper"
    if name == "files":
        for number in range(100_000):
            if number % 1000 == 0:
                (upper / f"d{number}").mkdir()
            (upper / f"d{number - number % 1000}" / f"f{number}").write_bytes(b"content %d" % number)
    elif name == "names":
        (upper / "one").mkdir()
        for number in range(50_000):
            os.mknod(upper / "one" / f"{number:0200d}")
    elif name == "sparse":
        with open(upper / "sparse", "wb") as file:
            file.truncate(16 << 30)
    elif name == "deep":
        here = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(24):
            part = f"{number:0250d}"
            os.mkdir(part, dir_fd=here)
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.close(here)


@pytest.fixture(scope="module")
def server(state: Path) -> Iterator[Serving]:
    with Serving(state) as made:
        yield made


def peak(server: Serving) -> int:
    """The largest resident size the server ever had, in bytes."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


@pytest.mark.parametrize(
    ("path", "least"),
    [
        ("/v1/containers/deep/archive", 24 * 1024),
        ("/v1/containers/names/archive", 50_000 * 512),
        ("/v1/containers/files/archive", 100_000 * 1024),
        ("/v1/containers/files/diff", 100_000 * 1024),
        ("/v1/containers/files/changes", 100_000 * 20),
        ("/v1/containers/layers/archive", 200 * 1024),
        ("/v1/images/many:1/archive", 200 * 1024),
        ("/v1/containers/sparse/archive?profile=full", 1024),
        ("/v1/containers/sparse/archive", 16 << 30),
    ],
)
def test_a_large_export_in_bounded_memory(server, path, least):
    with Client(server.port, timeout=300) as client:
        client.request(path, headers="Connection: close\r\n")
        total, complete = client.drained()
    assert complete
    print(f"{path}: {total} bytes, peak {peak(server) >> 20} MiB")
    assert total >= least
    assert peak(server) < LIMIT
