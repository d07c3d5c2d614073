"""Images that streamer builds and those that Docker's classic builder makes of the same Dockerfiles: their file systems
are equal, their configurations and their histories."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from support import commandline
from support.classic import Built, Classic
from support.docker_build import Builder
from support.dockerd import dockerd
from support.dockerfiles import CASES, INNER, Case
from support.engines import Engines

from streamer.build.dockerfile import read
from streamer.build.expansion import expand
from streamer.errors import StreamerError

pytestmark = [pytest.mark.engine, pytest.mark.root]

_FETCHED = re.compile(r"(--chown=\d+?) ?[0-9a-f]{64}")
_CHOWN = re.compile(r"(--chown=\S+?) ?((?:file|dir|multi):)")


@pytest.fixture(scope="module")
def classic(engines: Engines, containerd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classic]:
    with dockerd(engines, containerd, "classic") as docker:
        yield Classic(docker, tmp_path_factory.mktemp("classic"))


@pytest.fixture(scope="module")
def state(classic: Classic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the images that the Dockerfiles build on."""
    state = tmp_path_factory.mktemp("builds") / "state"
    done = commandline.run("import", classic.bases, "--state", state)
    assert done.returncode == 0, done.stderr
    return state


def build(classic: Classic, state: Path, case: Case, *options: object) -> Built:
    """The image that streamer makes, as the engine sees it once it has loaded it."""
    (classic.context / "Dockerfile").write_text(case.text)
    given = [part for name, value in case.arguments.items() for part in ("--build-arg", f"{name}={value}")]
    given += [part for name, value in case.labels.items() for part in ("--label", f"{name}={value}")]
    given += ["--target", case.target] if case.target else []
    done = commandline.run("build", classic.context, "--state", state, "-t", "mine:1", *given, *options)
    assert done.returncode == 0, done.stderr
    archive = classic.place / "mine.tar"
    archive.unlink(missing_ok=True)
    saved = commandline.run("export", "image", "mine:1", "-o", archive, "--state", state)
    assert saved.returncode == 0, saved.stderr
    return classic.load(archive, "mine:1")


def history(built: Built, case: Case) -> list[tuple[str, bool, str, str]]:
    """Told alike: whether there is a blank behind `--chown` depends on the version of Docker, and so does the hash of
    what comes from another image or a URL (20.10 hashes the names that its own machine has for owners)."""
    told = []
    for entry in built.config["history"]:
        text = _CHOWN.sub(r"\1 \2", entry.get("created_by", ""))
        if "--from=" in case.text or "http://" in case.text:
            text = re.sub(r"(file:|dir:|ADD )[0-9a-f]{64}", r"\1", _FETCHED.sub(r"\1 ", text))
        told.append((text, entry.get("empty_layer", False), entry.get("author", ""), entry.get("comment", "")))
    return told


def config(built: Built) -> dict[str, Any]:
    return {name: value for name, value in built.inspected["Config"].items() if name != "Image"}


@pytest.mark.parametrize("name", CASES)
def test_equal_images(classic: Classic, state: Path, name: str) -> None:
    case = CASES[name]
    theirs = classic.build(case)
    ours = build(classic, state, case)
    assert config(ours) == config(theirs)
    assert history(ours, case) == history(theirs, case)
    assert len(ours.inspected["RootFS"]["Layers"]) == len(theirs.inspected["RootFS"]["Layers"])
    assert ours.tree == theirs.tree
    for member in ("Author", "Os", "Architecture"):
        assert ours.inspected[member] == theirs.inspected[member]


def test_an_archive_as_context_gives_the_same_image(classic: Classic, state: Path) -> None:
    """What the docker command itself sends: with the ignored files left out, and the two that it adds all the same."""
    case = CASES["everything"]
    (classic.context / "Dockerfile").write_text(case.text)
    with Builder() as builder:
        archive = builder.sent(str(classic.context))
    theirs = classic.build(case)
    done = commandline.run("build", "-", "--state", state, "-t", "mine:2", input=archive)
    assert done.returncode == 0, done.stderr
    place = classic.place / "sent.tar"
    assert commandline.run("export", "image", "mine:2", "-o", place, "--state", state).returncode == 0
    ours = classic.load(place, "mine:2")
    assert history(ours, case) == history(theirs, case)
    assert ours.tree == theirs.tree


@pytest.fixture
def site() -> Iterator[str]:
    """The URL of a server with two files."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = {"/plain.tar": INNER, "/dated": b"dated"}[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_files_from_urls(classic: Classic, state: Path, site: str) -> None:
    case = Case(
        "FROM base:plain",
        f"ADD {site}/plain.tar /x/",
        f"ADD {site}/dated /srv/sub/dated",
        f"ADD --chown=5 {site}/dated /link/other",
    )
    settings = classic.place / "settings.toml"
    settings.write_text('fetch_allow = ["127.0.0.1"]\n')
    theirs = classic.build(case)
    done = commandline.run(
        "--config", settings, "build", classic.context, "--state", state, "-t", "mine:3", "--hashing", "docker-23"
    )
    assert done.returncode == 0, done.stderr
    place = classic.place / "fetched.tar"
    assert commandline.run("export", "image", "mine:3", "-o", place, "--state", state).returncode == 0
    ours = classic.load(place, "mine:3")
    assert history(ours, case) == history(theirs, case)
    assert ours.tree == theirs.tree


PIECES = (
    *(
        "$A",
        "${A}",
        "${B}",
        "$E",
        "$U",
        "${U:-x}",
        "${E:+y}",
        "${A:+z_w}",
        "'",
        '"',
        "\\",
        "a",
        "b",
        "$",
        "{",
        "}",
        ":",
    ),
    *("-", "${U:-", "${A:+", "\\$", '\\"', "\\'", "=", "é", "1", "_", "#", "[", "]", "$1", "${1}", "$*"),
)
VALUES = {"A": "1", "B": "b c", "E": ""}


def test_variables_are_replaced_alike(classic: Classic) -> None:
    chance = random.Random(7)
    expected: dict[str, str] = {}
    written = []
    refused = []
    while len(written) < 80:
        text = "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 7)))
        name = f"k{len(written)}"
        try:
            found = read(f"FROM x\nLABEL {name}={text} end=1\n".encode()).stages[0].instructions[0]
            pairs = found.pairs  # type: ignore[attr-defined]
            if len(pairs) != 2:
                continue  # its last character makes a word of what follows
            expected[name] = expand(pairs[0][1], VALUES)
        except StreamerError:
            refused.append(text)
            continue
        written.append(f"{name}={text}")
    head = 'FROM base:plain\nENV A=1 B="b c" E=\n'
    theirs = classic.build(Case(head + f"LABEL {' '.join(written)} end=1"))
    assert theirs.inspected["Config"]["Labels"] == {**expected, "end": "1"}
    for text in refused[:8]:
        (classic.context / "Dockerfile").write_text(head + f"LABEL k={text} end=1\n")
        classic.docker("build", classic.context, fails=True)
