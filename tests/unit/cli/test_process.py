"""The command line as a process: pipes, terminals, signals, and what is left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import images, overlays
from support.commandline import Terminal, run, start
from support.docker_roots import DockerRoot
from support.handmade import Handmade
from support.images import file, layer
from support.sample import BASE, IMAGE, TOP

import streamer

BIG = 64 << 30
"""A sparse file so large that its export cannot end during a test."""


_ENDED = {
    signal.SIGINT: b"streamer: interrupted\n",
    signal.SIGTERM: b"streamer: terminated\n",
    signal.SIGHUP: b"streamer: interrupted\n",
}


def _created(state: Path, name: str = "web") -> Path:
    """A container with one file added; its upper directory."""
    result = run("create", "sample:1", "--name", name, "--state", state)
    assert result.returncode == 0, result.stderr
    upper = state / "containers" / result.stdout.decode().strip() / "upper"
    (upper / "added").write_bytes(b"added")
    return upper


def _endless(state: Path) -> None:
    upper = _created(state)
    with open(upper / "big", "wb") as file:
        file.truncate(BIG)


def _names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def _left(state: Path) -> list[str]:
    return [f"{folder}/{name}" for folder in ("staging", "trash") for name in os.listdir(state / folder)]


class TestImport:
    def test_from_a_pipe(self, tmp_path: Path, archive: Path) -> None:
        result = run("import", "-", "--state", tmp_path / "s", input=archive.read_bytes())
        assert (result.returncode, result.stdout.decode()) == (0, f"{IMAGE.id}\tsample:1\n")

    def test_a_terminal_is_refused(self, tmp_path: Path) -> None:
        with Terminal() as terminal:
            result = run("import", "-", "--state", tmp_path / "s", stdin=terminal.slave)
        assert result.returncode == 2
        assert b"standard input is a terminal" in result.stderr

    @pytest.mark.parametrize(
        ("damage", "code"),
        [(lambda data: data[: len(data) // 2], 5), (lambda data: b"nonsense" * 1000, 5)],
        ids=["truncated", "nonsense"],
    )
    def test_a_bad_archive_leaves_nothing(self, tmp_path: Path, archive: Path, damage: object, code: int) -> None:
        assert callable(damage)
        result = run("import", "-", "--state", tmp_path / "s", input=damage(archive.read_bytes()))
        assert (result.returncode, result.stdout) == (code, b"")
        assert result.stderr.startswith(b"streamer: ")
        assert result.stderr.count(b"\n") == 1
        assert _left(tmp_path / "s") == []
        assert os.listdir(tmp_path / "s" / "layers") == []

    def test_a_wrong_digest_is_exit_code_5(self, tmp_path: Path) -> None:
        files = images.oci(IMAGE)
        blob = f"blobs/sha256/{images.encoded(TOP)}"
        files[blob] = BASE
        result = run("import", "-", "--state", tmp_path / "s", input=images.pack(files))
        assert result.returncode == 5

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_leaves_nothing(self, tmp_path: Path, number: signal.Signals) -> None:
        content = os.urandom(1 << 20)
        data = images.layer(images.file("big", content))
        with start(
            *("import", "-", "--state", tmp_path / "s"),
            stdin=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            process.stdin.write(data[: 1 << 19])  # returns once most of it was read: a pipe holds 64 KiB
            process.stdin.flush()
            process.send_signal(number)
            assert process.stdout is not None
            assert process.stderr is not None
            assert (process.wait(60), process.stderr.read()) == (128 + number, _ENDED[number])
        assert _left(tmp_path / "s") == []
        assert os.listdir(tmp_path / "s" / "layers") == []


class TestExport:
    @pytest.mark.parametrize("output", [[], ["-o", "-"]])
    def test_to_a_pipe(self, sample: Path, output: list[str]) -> None:
        result = run("export", "layer", images.sha256(BASE), *output, "--state", sample)
        assert (result.returncode, result.stdout, result.stderr) == (0, BASE, b"")

    def test_to_a_redirected_file(self, sample: Path, tmp_path: Path) -> None:
        with open(tmp_path / "l.tar", "wb") as file:
            assert run("export", "layer", images.sha256(BASE), "--state", sample, stdout=file).returncode == 0
        assert (tmp_path / "l.tar").read_bytes() == BASE

    def test_an_image_comes_back(self, sample: Path, tmp_path: Path) -> None:
        saved = run("export", "image", "sample:1", "--compression", "gzip", "--state", sample)
        assert (saved.returncode, saved.stdout[:2]) == (0, b"\x1f\x8b")
        again = run("import", "-", "--state", tmp_path / "other", input=saved.stdout)
        assert again.stdout.decode() == f"{IMAGE.id}\tsample:1\n"

    def test_several_images_in_one_archive(self, state: Path) -> None:
        assert run("tag", "sample:1", "other:2", "--state", state).returncode == 0
        saved = run("export", "image", "sample:1", "other:2", "--state", state)
        with tarfile.open(fileobj=io.BytesIO(saved.stdout)) as tar:
            member = tar.extractfile("manifest.json")
            assert member is not None
            (manifest,) = json.load(member)
        assert sorted(manifest["RepoTags"]) == ["other:2", "sample:1"]

    def test_docker_legacy(self, sample: Path) -> None:
        saved = run("export", "image", "sample:1", "--format", "docker-legacy", "--state", sample)
        assert saved.returncode == 0, saved.stderr
        assert any(name.endswith("/layer.tar") for name in _names(saved.stdout))

    def test_a_diff(self, state: Path) -> None:
        _created(state)
        result = run("export", "diff", "web", "--mtime", "0", "--state", state)
        assert (result.returncode, _names(result.stdout)) == (0, ["added"])
        with tarfile.open(fileobj=io.BytesIO(result.stdout)) as tar:
            assert tar.getmember("added").mtime == 0

    @pytest.mark.root
    def test_a_container_and_a_root_file_system(self, state: Path) -> None:
        overlays.require()
        _created(state)
        container = run("export", "container", "web", "--exclude", "top", "--state", state)
        assert container.returncode == 0, container.stderr
        assert set(_names(container.stdout)) >= {"added", "etc", "etc/name"}
        assert "top" not in _names(container.stdout)
        rootfs = run("export", "rootfs", "sample:1", "--path", "etc", "--profile", "full", "--state", state)
        assert rootfs.returncode == 0, rootfs.stderr
        assert _names(rootfs.stdout) == ["etc", "etc/name"]

    def test_a_terminal_is_refused(self, sample: Path) -> None:
        with Terminal() as terminal:
            result = run("export", "image", "sample:1", "--state", sample, stdout=terminal.slave)
            shown = terminal.drain()
        assert (result.returncode, shown) == (2, b"")
        assert b"-o sample-1.tar" in result.stderr

    def test_a_closed_standard_output(self, state: Path) -> None:
        """The archive must not end up in the file that happens to be opened as number 1: the store's database."""
        for arguments, code in ((["export", "image", "sample:1"], 2), (["tag", "sample:1", "other"], 0), (["ls"], 0)):
            result = run(*arguments, "--state", state, stdout=None, preexec_fn=lambda: os.close(1))
            assert result.returncode == code, result.stderr
        assert run("ls", "--state", state).returncode == 0

    def test_a_full_standard_output(self, sample: Path) -> None:
        with open("/dev/full", "wb") as full:
            result = run("ls", "--state", sample, stdout=full)
        assert (result.returncode, result.stderr.count(b"\n")) == (7, 1)

    def test_a_reader_that_leaves(self, state: Path) -> None:
        _endless(state)
        with start(
            "export", "diff", "web", "--state", state, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(10)
            process.stdout.close()
            assert (process.wait(60), process.stderr.read()) == (141, b"")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_leaves_no_file(self, state: Path, tmp_path: Path, number: signal.Signals) -> None:
        _endless(state)
        (tmp_path / "out").mkdir()
        arguments = ["web", "--compression", "gzip", "-o", tmp_path / "out" / "d.tar.gz", "--state", state]
        with Terminal() as terminal, start("export", "diff", *arguments, stderr=terminal.slave) as process:
            terminal.wait_for(b"/s")  # the rate: bytes flow
            process.send_signal(number)
            assert process.wait(60) == 128 + number
            assert _ENDED[number].rstrip() in terminal.drain()
            assert b"\x1b[?25h" in terminal.shown.rpartition(b"\x1b[?25l")[2], "the cursor stays hidden"
        assert os.listdir(tmp_path / "out") == []

    def test_a_signal_while_the_reader_takes_nothing(self, state: Path) -> None:
        _endless(state)
        with start(
            "export", "diff", "web", "--state", state, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(10)
            process.send_signal(signal.SIGINT)
            assert (process.wait(60), process.stderr.read()) == (130, b"streamer: interrupted\n")

    def test_progress_on_a_terminal_only(self, sample: Path, tmp_path: Path) -> None:
        with Terminal() as terminal:
            result = run(
                *("export", "image", "sample:1", "-o", tmp_path / "i.tar", "--state", sample), stderr=terminal.slave
            )
            shown = terminal.drain()
        assert result.returncode == 0
        size = (tmp_path / "i.tar").stat().st_size
        assert b"sample-1.tar" in shown
        assert f"{size / 1000:.1f}/{size / 1000:.1f} kB".encode() in shown, "the length is known, so is the part done"


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_what_the_locale_cannot_say_is_escaped(state: Path, how: list[str]) -> None:
    upper = _created(state)
    for name in ("\u00e4", "\U0001f600", "z"):
        (upper / name).touch()
    with start("changes", "web", *how, "--state", state, environment={"PYTHONIOENCODING": "ascii"}) as process:
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    if how:
        assert {each["path"] for each in json.loads(output)} >= {"/\u00e4", "/\U0001f600", "/z"}
    else:
        assert output.splitlines()[1:] == [b"A\t/z", b"A\t/\\u00e4", b"A\t/\\ud83d\\ude00"]


def test_an_aligned_table_on_a_terminal(sample: Path) -> None:
    with Terminal() as terminal:
        assert run("ls", "--state", sample, stdout=terminal.slave).returncode == 0
        shown = terminal.drain().decode()
    assert "NAME" in shown
    assert f"sample:1  {IMAGE.id[7:19]}  2024-01-02 03:04" in shown


def test_a_narrow_terminal_breaks_no_cell(sample: Path) -> None:
    with Terminal() as terminal:
        with start("ls", "--state", sample, stdout=terminal.slave, environment={"COLUMNS": "20"}) as process:
            assert process.wait(60) == 0
        header, *rows = terminal.drain().decode().splitlines()
    assert "NAME" in header
    assert [row.split()[:2] for row in rows] == [["sample:1", IMAGE.id[7:19]]]
    assert rows == [row.rstrip() for row in rows]


def test_what_is_damaged_is_called_what_it_is(tmp_path: Path) -> None:
    root = DockerRoot(tmp_path / "docker").add(images.image(layer(file("a", b"1")), names=["a:1"]))
    root.names.write_text("{")
    result = run("ls", "images", "--store", f"dmg=docker:{root.path}", "--state", tmp_path / "state")
    (warning,) = result.stderr.decode().splitlines()
    assert warning.startswith(
        "streamer: warning: image names of store dmg cannot be read: image/overlay2/repositories.json is not"
    )
    stored = Handmade(tmp_path / "storage")
    stored.container("box", stored.image(images.image(layer(file("a", b"1"))), "localhost/a:1"))
    stored.containers.append({"id": 5})
    stored.save()
    store = ("--store", f"dmg=containers-storage:{stored.root}", "--state", tmp_path / "state")
    result = run("ls", "containers", *store)
    (warning,) = result.stderr.decode().splitlines()
    assert warning.startswith("streamer: warning: some containers of store dmg cannot be read: item 1 of ")
    result = run("export", "container", "web", *store)
    assert result.returncode == 6
    assert (
        b"there is no container 'web' among those of store dmg that can be read; 1 cannot be: item 1" in result.stderr
    )


def _sent(address: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(address))
        client.sendall(request)
        answer = b""
        with contextlib.suppress(TimeoutError):
            while piece := client.recv(1 << 16):
                answer += piece
    return answer


@pytest.fixture
def serving(sample: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    address = tmp_path / "sock"
    with start("serve", "--listen", f"unix:{address}", "--state", sample) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if b'"serving"' in line:
                    break
            yield process, address
        finally:
            process.kill()


def test_serve(serving: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, address = serving
    answer = _sent(address, b"GET /v1/images HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert IMAGE.id.encode() in answer
    process.terminate()
    assert process.wait(60) == 0
    assert not address.exists()


@pytest.mark.parametrize(("address", "code"), [("nonsense", 2), ("0.0.0.0:0", 2), ("unix:/nonexistent/sock", 3)])
def test_serve_refuses(tmp_path: Path, address: str, code: int) -> None:
    result = run("serve", "--listen", address, "--state", tmp_path / "s")
    assert result.returncode == code
    assert result.stderr.decode().splitlines()[-1].startswith("streamer: ")


def test_the_environment_chooses_the_state(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "streamer", "ls"],
        env={**os.environ, "STREAMER_STATE": str(sample), "PYTHONPATH": str(Path(streamer.__file__).parents[1])},
        capture_output=True,
        check=True,
    )
    assert IMAGE.id.encode() in result.stdout


def test_a_misspelt_variable_is_named(sample: Path) -> None:
    with start(
        "ls", "--state", sample, environment={"STREAMER_MAX_EXPORT": "3", "STREAMER_PORT": "tcp://x"}
    ) as process:
        _, shown = process.communicate(timeout=60)
    meant = b"STREAMER_MAX_EXPORT is not a setting and is ignored: did you mean STREAMER_MAX_EXPORTS?"
    assert (process.returncode, shown) == (0, b"streamer: warning: " + meant + b"\n")


def test_no_arguments_show_the_help() -> None:
    result = run()
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"Usage: streamer" in result.stderr
    assert b"Exit codes:" in result.stderr


def test_a_legend_on_a_terminal(tmp_path: Path) -> None:
    with Terminal() as terminal:
        run("doctor", "--state", tmp_path / "s", stdout=terminal.slave)
        assert b"missing: needed" in terminal.drain()
