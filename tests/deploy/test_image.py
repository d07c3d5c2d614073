"""The image: linted, really built from the Dockerfile, and run as it is meant to: without a network, read-only, asked
over a unix socket.

No registry is asked. The base is an empty image into which this machine's programs and Python are bound, at the build
as in the container; packages come from a directory of wheels with the hashes of requirements/run.txt. What is not
tested so is the pinned base itself, and `apt-get` where it has no compiler.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import time
from pathlib import Path

import pytest
from support import images, manifests
from support.confined import BOTH, ROOT, USER
from support.docker_roots import DockerRoot
from support.engines import Command, Engines, needs
from support.unix import Unix

DOCKERFILE = ROOT / "deploy/image/Dockerfile"
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
LOCKED = ("--network", "none", "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", *LIMITS)
BASE = sys.base_prefix
BOUND = [
    f"{path}:{path}:ro" for path in ("/usr/bin", "/usr/lib", "/usr/lib64", "/usr/include", BASE) if os.path.isdir(path)
]


def test_lint() -> None:
    done = subprocess.run([manifests.program("hadolint"), DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_pinned_by_digest() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"^ARG BASE=\S+:3\.\d+\.\d+-\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert "--require-hashes -r requirements/run.txt" in text
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == [f"{USER}:{USER}"]


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    """`.dockerignore` lets through each source of a COPY; tokens, state and tests stay out."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert copied == let_in
    assert lines[1] == "*"


@pytest.fixture(scope="module")
def wheels() -> Path:
    """Everything of requirements/run.txt, kept from one run to the next: under the name of what it says."""
    requirements = ROOT / "requirements/run.txt"
    name = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamer-ci" / f"wheels-{name}"
    if not (cache / "complete").exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "--dest", cache, "--requirement", requirements], check=True, capture_output=True)
        (cache / "complete").touch()
    return cache


def base(place: Path) -> Path:
    """A directory with nothing but where things will be bound, and how Python is called."""
    for name in (
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/include",
        "usr/local/bin",
        "usr/local/lib",
        "tmp",
        "root",
        "etc",
        "src",
    ):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "tmp").chmod(0o1777)
    for name in ("bin", "lib", "lib64"):
        (place / name).symlink_to(f"usr/{name}")
    version = f"python{sysconfig.get_python_version()}"
    (place / "usr/local/bin/python3").symlink_to(f"{BASE}/bin/{version}")
    (place / f"usr/local/lib/{version}").symlink_to(f"{BASE}/lib/{version}")
    (place / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (place / "etc/group").write_text("root:x:0:\n")
    (place / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    return place


class Image:
    """What was built, and podman to run it."""

    def __init__(self, podman: Command, built: Command, engines: Engines) -> None:
        self.podman = podman
        self.built = built
        self.home = engines.home

    def run(self, *arguments: str, options: tuple[str, ...] = ()) -> bytes:
        bound = [option for place in BOUND for option in ("--volume", place)]
        return self.podman("--runtime", "runc", "run", *LOCKED, *bound, *options, "streamer:test", *arguments)


@pytest.fixture(scope="module")
def image(
    buildah: Command, podman: Command, engines: Engines, wheels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Image:
    needs("runc", "cc")
    place = tmp_path_factory.mktemp("image")
    offline = place / "pip.conf"
    offline.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    options = ["--quiet", "--isolation", "chroot", "--format", "docker"]
    here = podman.root.parent
    built = engines.command(
        "buildah", "--root", here / "root", "--runroot", here / "run", "--storage-driver", "overlay"
    )
    built("build", *options, "--tag", "base", base(place / "base"))
    binds = [*BOUND, f"{wheels}:/wheels:ro", f"{offline}:/etc/pip.conf:ro"]
    if os.path.isdir("/etc/alternatives"):
        binds.append("/etc/alternatives:/etc/alternatives:ro")  # `cc` is a link through it
    volumes = [option for each in binds for option in ("--volume", each)]
    arguments = ["--build-arg", "BASE=localhost/base", "--file", DOCKERFILE, "--tag", "streamer:test", ROOT]
    built("build", *options, *volumes, *arguments, limit=500)
    return Image(podman, built, engines)


@pytest.mark.engine
@pytest.mark.root
@pytest.mark.timeout(600)
def test_what_was_built(image: Image) -> None:
    (inspected,) = image.podman.json("image", "inspect", "streamer:test")
    config = inspected["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["streamer"]
    assert config["Cmd"] == ["serve"]
    told = json.loads(image.built("inspect", "--type", "image", "streamer:test"))["Docker"]["config"]
    assert told["Healthcheck"]["Test"] == ["CMD", "streamer-healthy"]
    assert inspected["Size"] < 160 << 20  # besides the base
    found = {line.split("\t")[2]: line.split("\t")[1] for line in _doctor(image)}
    assert found["inner-loop"] == found["http-parser"] == found["openat2"] == "ok"
    assert found["CAP_SYS_ADMIN"] == found["CAP_DAC_READ_SEARCH"] == "no"
    left = image.run("-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))",
                     options=("--entrypoint", "/opt/streamer/bin/python"))  # fmt: skip
    assert not {"pip", "hatchling", "editables"} & set(left.decode().split())
    assert {"streamer", "grpcio", "opentelemetry-sdk"} <= set(left.decode().split())


def _doctor(image: Image) -> list[str]:
    """It ends with 1: nobody gave it a state directory that could be written."""
    said = image.podman(
        "--runtime", "runc", "run", *LOCKED, *(option for each in BOUND for option in ("--volume", each)),
        "--entrypoint", "sh", "streamer:test", "-c", "streamer doctor || test $? = 1",
    )  # fmt: skip
    return said.decode().splitlines()


@pytest.mark.engine
@pytest.mark.root
@pytest.mark.timeout(600)
def test_a_node_is_exported_over_the_socket(image: Image) -> None:
    """Root with two capabilities and the engine's store read-only, as compose file and DaemonSet run it."""
    made = images.image(
        images.layer(images.directory("d"), images.file("secret", b"s", mode=0, uid=1234, gid=1234)), names=["a:1"]
    )
    # Below the engines' own directory: the container is started from their namespace.
    store = DockerRoot(image.home / "image/docker").add(made)
    store.container("web", made, "new")
    secret = next(store.overlay.glob("*/diff/secret"))
    os.chown(secret, 1234, 1234)
    secret.chmod(0)
    run, state = image.home / "image/run", image.home / "image/state"
    for each in (run, state):
        each.mkdir()
    options = ("--detach", "--name", "node", "--user", "0:0", *(f"--cap-add={each}" for each in BOTH))
    options += ("--volume", f"{store.path}:/var/lib/docker:ro", "--volume", f"{run}:/run/streamer")
    options += ("--volume", f"{state}:/var/lib/streamer", "--env", "STREAMER_STORES=docker=docker:/var/lib/docker")
    image.run(options=options)
    try:
        end = time.monotonic() + 90
        while not (run / "streamer.sock").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert asked(run / "streamer.sock", "/readyz")[0] == 200
        for path in ((), ("/readyz",)):
            image.podman("--runtime", "runc", "exec", "node", "streamer-healthy", *path)
        said = image.podman("--runtime", "runc", "exec", "node", "streamer-healthy", "/v1/nothing", fails=True)
        assert b"404" in said
        status, body = asked(run / "streamer.sock", "/v1/containers/web/archive?profile=full")
        assert status == 200
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            members = {each.name: (each.mode, each.uid) for each in archive}
        assert members.keys() >= {"secret", "d", "new"}
        assert members["secret"] == (0, 1234)
    finally:
        image.podman("stop", "--time", "30", "node")
    (ended,) = image.podman.json("inspect", "node")
    assert ended["State"]["ExitCode"] == 0
    image.podman("rm", "--force", "node")


def asked(path: Path, target: str) -> tuple[int, bytes]:
    connection = Unix(str(path))
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
