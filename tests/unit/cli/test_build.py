"""`streamer build` as people and scripts run it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import commandline, images
from support.images import directory, file, layer
from typer.testing import CliRunner

from streamer.cli.main import app

SCRATCH = "FROM scratch\nARG v=1\nCOPY one /d/\nENV x=$v\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text(SCRATCH)
    (place / "one").write_text("one")
    (place / "ignored").write_text("ignored")
    (place / ".dockerignore").write_text("ignored\n.dockerignore\nDockerfile\n")
    return place


@dataclass
class Done:
    returncode: int
    stdout: bytes
    stderr: bytes


def run(tmp_path: Path, *args: object, input: bytes | None = None) -> Done:
    """In this process, unless something comes on standard input."""
    command = ["build", "--state", tmp_path / "state", *args]
    if input is not None:
        done = commandline.run(*command, input=input)
        return Done(done.returncode, done.stdout, done.stderr)
    result = CliRunner().invoke(app, [str(each) for each in command])
    return Done(result.exit_code, result.stdout_bytes, result.stderr_bytes)


def listed(tmp_path: Path, *args: str) -> list[dict[str, Any]]:
    found = CliRunner().invoke(app, ["ls", "--json", "--state", str(tmp_path / "state"), *args])
    return json.loads(found.stdout)  # type: ignore[no-any-return]


def names_in(tmp_path: Path, image: str) -> list[str]:
    place = tmp_path / "rootfs.tar"
    saved = CliRunner().invoke(app, ["export", "rootfs", image, "-o", str(place), "--state", str(tmp_path / "state")])
    assert saved.exit_code == 0, saved.stderr
    with tarfile.open(place) as archive:
        return archive.getnames()


def test_a_build(tmp_path: Path, context: Path) -> None:
    done = run(tmp_path, context, "-t", "a:1", "-t", "b", "--build-arg", "v=2", "--label", "l=m")
    assert done.returncode == 0, done.stderr
    (image,) = listed(tmp_path)
    assert done.stdout.decode() == f"{image['id']}\n"
    assert image["names"] == ["a:1", "b:latest"]
    said = done.stderr.decode().splitlines()
    assert said[0] == "Step 1/5 : FROM scratch"
    assert said[-2:] == ["Successfully tagged a:1", "Successfully tagged b:latest"]
    assert names_in(tmp_path, "a:1") == ["d", "d/one"]
    # The second time from the cache, and without a word.
    again = run(tmp_path, context, "-q", "--build-arg", "v=2", "--label", "l=m")
    assert (again.stdout, again.stderr) == (done.stdout, b"")
    assert run(tmp_path, context, "-q", "--no-cache").stdout != done.stdout
    assert len(listed(tmp_path, "--all")) > len(listed(tmp_path))


def test_lines_of_json(tmp_path: Path, context: Path) -> None:
    done = run(tmp_path, context, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and done.stderr == b""
    assert lines[0] == {"stream": "Step 1/4 : FROM scratch\n"}
    assert [line["aux"]["ID"] for line in lines if "aux" in line] == [listed(tmp_path)[0]["id"]]


def test_a_failure_is_the_last_line_of_json(tmp_path: Path, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY missing /\n")
    done = run(tmp_path, context, "--json")
    *steps, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr.decode()) == (3, f"streamer: {last['error']}\n")
    assert last["error"].startswith("Dockerfile, line 2: missing: file not found in build context")
    assert last["errorDetail"] == {"message": last["error"], "code": "not_found"}
    assert steps[0] == {"stream": "Step 1/2 : FROM scratch\n"}


@pytest.mark.parametrize("broken", ["context", "input"])
def test_a_failure_before_the_first_step_as_json(tmp_path: Path, broken: str) -> None:
    given = b"nonsense" * 1000 if broken == "input" else None
    done = run(tmp_path, "--json", tmp_path / "none" if given is None else "-", input=given)
    (line,) = done.stdout.splitlines()
    assert done.returncode == (3 if given is None else 2)
    assert done.stderr.decode() == f"streamer: {json.loads(line)['error']}\n"


def test_what_is_ignored_is_not_there(tmp_path: Path, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    assert run(tmp_path, context, "-t", "a").returncode == 0
    assert names_in(tmp_path, "a") == ["one"]
    (context / "Dockerfile").write_text("FROM scratch\nCOPY ignored /\n")
    done = run(tmp_path, context)
    assert done.returncode == 3
    assert b"Dockerfile, line 2: ignored: file not found in build context" in done.stderr


@pytest.mark.parametrize("where", ["inside", "outside", "input"])
def test_another_dockerfile(tmp_path: Path, context: Path, where: str) -> None:
    text = "FROM scratch\nCOPY one /other\n"
    place = {"inside": context / "sub/Other", "outside": tmp_path / "Other", "input": "-"}[where]
    if isinstance(place, Path):
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    done = run(tmp_path, context, "-f", place, "-t", "a", input=text.encode() if where == "input" else None)
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path, "a") == ["other"]


def test_an_archive_on_standard_input(tmp_path: Path) -> None:
    archive = layer(
        directory("sub/"),
        file("sub/File", b"FROM scratch\nCOPY . /\n"),
        file("one", b"1"),
        file(".dockerignore", b"sub/File\n"),
    )
    done = run(tmp_path, "-", "-f", "sub/File", "-t", "a", input=gzip.compress(archive))
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path, "a") == [".dockerignore", "one", "sub"]
    assert os.listdir(tmp_path / "state/staging") == []


def test_a_dockerfile_on_standard_input(tmp_path: Path) -> None:
    done = run(tmp_path, "-", "-t", "a", input=b"FROM scratch\nLABEL a=b\n")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "-", input=b"FROM scratch\nCOPY a b\n")
    assert done.returncode == 2
    assert b"line 2: there is no build context to copy from" in done.stderr


def test_containers_are_kept_when_asked_for(tmp_path: Path, context: Path) -> None:
    assert run(tmp_path, context, "-t", "a").returncode == 0
    assert listed(tmp_path, "containers") == []
    assert run(tmp_path, context, "--no-rm", "--no-cache").returncode == 0
    assert len(listed(tmp_path, "containers")) == 3


def test_a_container_of_the_step_before_a_failure(tmp_path: Path, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY one /\nCOPY missing /\n")
    assert run(tmp_path, context, "--force-rm").returncode == 3
    assert listed(tmp_path, "containers") == []
    assert run(tmp_path, context).returncode == 3
    assert len(listed(tmp_path, "containers")) == 1


REFUSED: dict[str, tuple[list[str], str, int, str]] = {
    "run": ([], "FROM scratch\nENV a=b\nRUN make it\n", 9, "Dockerfile, line 3: 'RUN make it' would have to run"),
    "no base": ([], "FROM nothing\n", 3, "Dockerfile, line 1: there is no image 'nothing'"),
    "syntax": ([], "# syntax=docker/dockerfile:1\nFROM scratch\n", 9, "Dockerfile, line 1: `# syntax=`"),
    "here-document": ([], "FROM scratch\nCOPY <<EOF /x\nhello\nEOF\n", 9, "Dockerfile, line 2: COPY <<EOF begins"),
    "link": ([], "FROM scratch\nCOPY --link one /\n", 9, "line 2: COPY --link is known to BuildKit only"),
    "malformed": ([], "FROM scratch\nFOO\n", 2, "line 2: there is no instruction FOO"),
    "empty": ([], "", 2, "Dockerfile: it has no instructions"),
    "no stage": ([], "ARG a=b\n", 2, "Dockerfile: there is no FROM in it"),
    "quiet": (["-q", "--json"], SCRATCH, 2, "--quiet and --json cannot go together"),
    "target": (["--target", "x"], SCRATCH, 3, "has no stage 'x'"),
    "name": (["-t", "A"], SCRATCH, 2, "'A' is not an image name"),
    "argument": (["--build-arg", "=x"], SCRATCH, 2, "--build-arg '=x' is not of the form NAME=VALUE"),
    "file": (["-f", "/nonexistent"], SCRATCH, 3, "cannot read the Dockerfile /nonexistent"),
    "hashing": (["--hashing", "x"], SCRATCH, 2, "docker-24"),
    "outside": ([], "FROM scratch\nCOPY ../x /\n", 2, "line 2: forbidden path outside the build context: ../x"),
    "several": ([], "FROM scratch\nCOPY one Dockerfile* one /x\n", 2, "line 2: COPY with more than one source"),
    "url": ([], "FROM scratch\nCOPY http://x/y /x\n", 2, "line 2: COPY cannot take a URL"),
}


@pytest.mark.parametrize(
    ("context", "shown"), [("ftp://x/y", "ftp://x/y"), ("file:///x", "file:///x"), ("ftp://me:pw@x/y", "ftp://***@x/y")]
)
def test_a_url_that_is_no_context(tmp_path: Path, context: str, shown: str) -> None:
    done = run(tmp_path, context)
    message = f"streamer: cannot read the context {shown}: its scheme is none of http, https, git and ssh\n"
    assert (done.returncode, done.stderr.decode()) == (2, message)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, context: Path, name: str) -> None:
    options, text, code, message = REFUSED[name]
    (context / "Dockerfile").write_text(text)
    done = run(tmp_path, context, *options)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.decode()
    assert done.stdout == b""
    if (tmp_path / "state").exists():
        assert listed(tmp_path, "--all") == []
        assert os.listdir(tmp_path / "state/staging") == []


def test_a_trigger_that_runs(tmp_path: Path, context: Path) -> None:
    base = images.image(layer(file("x")), names=["base:1"], config={"OnBuild": ["ENV a=b", "RUN it"]})
    (tmp_path / "base.tar").write_bytes(images.pack(images.docker(base)))
    imported = CliRunner().invoke(app, ["import", str(tmp_path / "base.tar"), "--state", str(tmp_path / "state")])
    assert imported.exit_code == 0
    (context / "Dockerfile").write_text("FROM scratch\nENV a=b\n\nFROM base:1\n")
    done = run(tmp_path, context)
    assert done.returncode == 9
    assert "Dockerfile, line 4: the trigger of base:1 'RUN it' would have to run" in done.stderr.decode()
    assert len(listed(tmp_path, "--all")) == 1


def test_interrupted_while_the_context_comes(tmp_path: Path) -> None:
    with commandline.start("build", "-", "--state", tmp_path / "state", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(layer(file("Dockerfile", b"FROM scratch\n"))[:700])
        process.stdin.flush()
        while not (tmp_path / "state/staging").is_dir() or not os.listdir(tmp_path / "state/staging"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert os.listdir(tmp_path / "state/staging") == []
