"""Every command on a real embedded store, run as processes of their own."""

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
from support.images import MadeImage

import streamer

BASE = images.layer(images.directory("etc"), images.file("etc/name", b"base"), images.file("gone", b"x"))
TOP = images.layer(images.file("top", b"top" * 1000), images.whiteout("gone"))
IMAGE = images.image(BASE, TOP, names=["docker.io/library/sample:1"])
BIG = 64 << 30
"""A sparse file so large that its export cannot end during a test."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "sample.tar"
    path.write_bytes(images.pack(images.both(IMAGE)))
    return path


@pytest.fixture
def state(tmp_path: Path, archive: Path) -> Path:
    """A store with one image of two layers."""
    assert run("--state", tmp_path / "state", "import", archive).returncode == 0
    return tmp_path / "state"


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
    def test_prints_ids_and_names(self, tmp_path: Path, archive: Path) -> None:
        result = run("import", archive, "--state", tmp_path / "s")
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout.decode() == f"{IMAGE.id}\tsample:1\n"

    def test_json(self, tmp_path: Path, archive: Path) -> None:
        report = json.loads(run("import", archive, "--json", "--state", tmp_path / "s").stdout)
        assert [image["id"] for image in report["images"]] == [IMAGE.id]
        assert report["layers_new"] == 2
        assert report["layers_shared"] == 0
        assert set(report) == {"images", "layers_new", "layers_shared", "bytes", "moved"}

    def test_from_a_pipe(self, tmp_path: Path, archive: Path) -> None:
        result = run("import", "-", "--state", tmp_path / "s", input=archive.read_bytes())
        assert (result.returncode, result.stdout.decode()) == (0, f"{IMAGE.id}\tsample:1\n")

    def test_an_oci_layout_directory(self, tmp_path: Path) -> None:
        layout = images.unpack_to(images.oci(IMAGE), tmp_path / "layout")
        result = run("import", layout, "--state", tmp_path / "s")
        assert (result.returncode, result.stdout.decode()) == (0, f"{IMAGE.id}\tsample:1\n")

    def test_a_root_file_system_under_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "root.tar.gz").write_bytes(images.COMPRESS["gzip"](BASE))
        result = run("import", tmp_path / "root.tar.gz", "--name", "rooted", "--state", tmp_path / "s")
        assert result.returncode == 0, result.stderr
        assert result.stdout.endswith(b"\trooted:latest\n")

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
    def test_a_signal_leaves_nothing(self, tmp_path: Path, number: int) -> None:
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
            assert (process.wait(20), process.stderr.read()) == (128 + number, b"streamer: interrupted\n")
        assert _left(tmp_path / "s") == []
        assert os.listdir(tmp_path / "s" / "layers") == []


class TestExport:
    def test_a_layer_comes_out_as_it_came_in(self, state: Path, tmp_path: Path) -> None:
        result = run("export", "layer", images.sha256(TOP), "-o", tmp_path / "l.tar", "--state", state)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        assert (tmp_path / "l.tar").read_bytes() == TOP

    @pytest.mark.parametrize("output", [[], ["-o", "-"]])
    def test_to_a_pipe(self, state: Path, output: list[str]) -> None:
        result = run("export", "layer", images.sha256(BASE), *output, "--state", state)
        assert (result.returncode, result.stdout, result.stderr) == (0, BASE, b"")

    def test_to_a_redirected_file(self, state: Path, tmp_path: Path) -> None:
        with open(tmp_path / "l.tar", "wb") as file:
            assert run("export", "layer", images.sha256(BASE), "--state", state, stdout=file).returncode == 0
        assert (tmp_path / "l.tar").read_bytes() == BASE

    def test_an_image_comes_back(self, state: Path, tmp_path: Path) -> None:
        saved = run("export", "image", "sample:1", "--compression", "gzip", "--state", state)
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

    def test_docker_legacy(self, state: Path) -> None:
        saved = run("export", "image", "sample:1", "--format", "docker-legacy", "--state", state)
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

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["image", "nonsense"], 3, "no image"),
            (["container", "nonsense"], 3, "no container"),
            (["layer", "sha256:" + "0" * 64], 3, "no layer"),
            (["layer", "nonsense"], 2, "nonsense"),
            (["image", "NOT A NAME"], 2, "NOT A NAME"),
            (["image", "sample:1", "--include", "x"], 2, "include"),
            (["image", "sample:1", "--from-store", "nonsense"], 2, "no store 'nonsense'; known stores: local"),
            (["image", "sample:1", "-o", "s3://bucket/x.tar"], 9, "later release"),
            (["image", "sample:1", "-o", "/nonexistent/x.tar"], 3, "cannot write /nonexistent/x.tar"),
            (["image", "sample:1", "-o", "/dev/full"], 7, "No space left"),
        ],
    )
    def test_failures(self, state: Path, arguments: list[str], code: int, message: str) -> None:
        result = run("export", *arguments, "--state", state)
        assert (result.returncode, result.stdout) == (code, b"")
        shown = result.stderr.decode()
        assert shown.startswith("streamer: ")
        assert shown.count("\n") == 1
        assert message in shown

    def test_a_terminal_is_refused(self, state: Path) -> None:
        with Terminal() as terminal:
            result = run("export", "image", "sample:1", "--state", state, stdout=terminal.slave)
            shown = terminal.drain()
        assert (result.returncode, shown) == (2, b"")
        assert b"-o sample-1.tar" in result.stderr

    def test_a_closed_standard_output(self, state: Path) -> None:
        """The archive must not end up in the file that happens to be opened as number 1: the store's database."""
        for arguments, code in ((["export", "image", "sample:1"], 2), (["tag", "sample:1", "other"], 0), (["ls"], 0)):
            result = run(*arguments, "--state", state, stdout=None, preexec_fn=lambda: os.close(1))
            assert result.returncode == code, result.stderr
        assert run("ls", "--state", state).returncode == 0

    def test_a_full_standard_output(self, state: Path) -> None:
        with open("/dev/full", "wb") as full:
            result = run("ls", "--state", state, stdout=full)
        assert (result.returncode, result.stderr.count(b"\n")) == (7, 1)

    def test_a_changed_layer_leaves_no_file(self, state: Path, tmp_path: Path) -> None:
        (stored,) = [path for path in (state / "layers").glob("*/diff/top") if path.is_file()]
        stored.write_bytes(b"bad" * 1000)
        result = run("export", "layer", images.sha256(TOP), "-o", tmp_path / "l.tar", "--state", state)
        assert result.returncode == 6
        assert not (tmp_path / "l.tar").exists()

    def test_a_reader_that_leaves(self, state: Path) -> None:
        _endless(state)
        with start(
            "export", "diff", "web", "--state", state, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(10)
            process.stdout.close()
            assert (process.wait(30), process.stderr.read()) == (141, b"")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_leaves_no_file(self, state: Path, tmp_path: Path, number: int) -> None:
        _endless(state)
        (tmp_path / "out").mkdir()
        with (
            Terminal() as terminal,
            start(
                *(
                    "export",
                    "diff",
                    "web",
                    "--compression",
                    "xz",
                    "-o",
                    tmp_path / "out" / "d.tar.xz",
                    "--state",
                    state,
                ),
                stderr=terminal.slave,
            ) as process,
        ):
            terminal.wait_for(b"/s")  # the rate: bytes flow
            process.send_signal(number)
            assert process.wait(30) == 128 + number
            assert b"interrupted" in terminal.drain()
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
            assert (process.wait(30), process.stderr.read()) == (130, b"streamer: interrupted\n")

    def test_progress_on_a_terminal_only(self, state: Path, tmp_path: Path) -> None:
        with Terminal() as terminal:
            result = run(
                *("export", "image", "sample:1", "-o", tmp_path / "i.tar", "--state", state), stderr=terminal.slave
            )
            shown = terminal.drain()
        assert result.returncode == 0
        size = (tmp_path / "i.tar").stat().st_size
        assert b"sample-1.tar" in shown
        assert f"{size / 1000:.1f}/{size / 1000:.1f} kB".encode() in shown, "the length is known, so is the part done"


class TestListing:
    def test_images(self, state: Path) -> None:
        assert run("tag", "sample:1", "other", "--state", state).returncode == 0
        plain = run("ls", "--state", state).stdout.decode()
        assert [line.split("\t")[:2] for line in plain.splitlines()] == [
            ["other:latest", IMAGE.id],
            ["sample:1", IMAGE.id],
        ]
        (image,) = json.loads(run("ls", "images", "--json", "--state", state).stdout)
        assert image["names"] == ["other:latest", "sample:1"]
        assert image["layers"] == IMAGE.diff_ids
        assert image["size"] == len(BASE) + len(TOP)

    def test_containers(self, state: Path) -> None:
        upper = _created(state)
        (line,) = run("ls", "containers", "--state", state).stdout.decode().splitlines()
        assert line.split("\t")[:3] == ["web", upper.parent.name, "sample:1"]
        (container,) = json.loads(run("ls", "containers", "--json", "--state", state).stdout)
        assert (container["name"], container["mounted"]) == ("web", False)

    def test_layers_and_stores(self, state: Path) -> None:
        layers = json.loads(run("ls", "layers", "--json", "--state", state).stdout)
        assert {layer["diff_id"] for layer in layers} == set(IMAGE.diff_ids)
        plain = run("ls", "stores", "--store", f"mine=local:{state}").stdout.decode()
        assert plain == f"mine\tlocal\t{state}\n"

    @pytest.mark.parametrize("what", ["images", "containers", "layers"])
    def test_nothing_is_an_empty_array(self, tmp_path: Path, what: str) -> None:
        assert json.loads(run("ls", what, "--json", "--state", tmp_path / "s").stdout) == []
        assert run("ls", what, "--state", tmp_path / "s").stdout == b""

    def test_an_aligned_table_on_a_terminal(self, state: Path) -> None:
        with Terminal() as terminal:
            assert run("ls", "--state", state, stdout=terminal.slave).returncode == 0
            shown = terminal.drain().decode()
        assert "NAME" in shown
        assert f"sample:1  {IMAGE.id[7:19]}  2024-01-02 03:04" in shown

    def test_changes(self, state: Path) -> None:
        upper = _created(state)
        (upper / "tab\there").write_bytes(b"")
        plain = run("changes", "web", "--state", state)
        assert (plain.returncode, plain.stdout) == (0, b"A\t/added\nA\t/tab\\there\n")
        listed = json.loads(run("changes", "web", "--json", "--state", state).stdout)
        assert listed == [{"path": "/added", "kind": "A"}, {"path": "/tab\there", "kind": "A"}]

    def test_no_changes(self, state: Path) -> None:
        (_created(state) / "added").unlink()
        assert run("changes", "web", "--state", state).stdout == b""
        assert json.loads(run("changes", "web", "--json", "--state", state).stdout) == []


class TestStore:
    def test_a_container_from_creation_to_removal(self, state: Path) -> None:
        _created(state)
        taken = run("create", "sample:1", "--name", "web", "--state", state)
        assert (taken.returncode, taken.stdout) == (4, b"")
        in_use = run("rm", "sample:1", "--state", state)
        assert in_use.returncode == 4
        both = run("rm", "web", "nonsense", "sample:1", "--state", state)
        assert both.returncode == 3
        assert both.stderr.decode() == "streamer: there is no container or image 'nonsense' in the store\n"
        assert both.stdout.decode().splitlines()[0].startswith("removed container web (")
        assert both.stdout.decode().splitlines()[1] == f"removed image sample:1 ({IMAGE.id[7:19]}), 2 layers"
        assert json.loads(run("ls", "layers", "--json", "--state", state).stdout) == []

    def test_a_name_of_both_kinds(self, state: Path) -> None:
        _created(state, "sample")
        assert run("tag", "sample:1", "sample", "--state", state).returncode == 0
        either = run("rm", "sample", "--state", state)
        assert either.returncode == 4
        assert b"--container or --image" in either.stderr
        assert run("rm", "--container", "sample", "--state", state).returncode == 0
        assert run("rm", "--container", "sample", "--state", state).returncode == 3
        assert run("rm", "--image", "sample", "--state", state).returncode == 0
        assert run("ls", "--state", state).stdout.startswith(b"sample:1\t")

    def test_commit(self, state: Path) -> None:
        _created(state)
        made = run("commit", "web", "changed:1", "--message", "why", "--author", "who", "--state", state)
        assert made.returncode == 0, made.stderr
        found = {one["id"]: one for one in json.loads(run("ls", "--json", "--state", state).stdout)}
        image = found[made.stdout.decode().strip()]
        assert image["names"] == ["changed:1"]
        assert image["layers"][:2] == IMAGE.diff_ids
        saved = run("export", "layer", image["layers"][2], "--state", state)
        assert _names(saved.stdout) == ["added"]

    @pytest.mark.root
    def test_mount_and_unmount(self, state: Path, tmp_path: Path) -> None:
        overlays.require()
        _created(state)
        (tmp_path / "mnt").mkdir()
        for arguments, expected in (([], None), ([tmp_path / "mnt"], tmp_path / "mnt")):
            mounted = run("mount", "web", *arguments, "--state", state)
            assert mounted.returncode == 0, mounted.stderr
            path = Path(mounted.stdout.decode().rstrip("\n"))
            try:
                assert expected is None or path == expected
                assert (path / "etc" / "name").read_bytes() == b"base"
                assert json.loads(run("ls", "containers", "--json", "--state", state).stdout)[0]["mounted"] is True
            finally:
                assert run("unmount", "web", "--state", state).returncode == 0
            assert not os.path.ismount(path)


class TestDoctor:
    def test_reports_and_touches_nothing(self, tmp_path: Path) -> None:
        result = run("doctor", "--json", "--state", tmp_path / "s")
        found = json.loads(result.stdout)
        assert {one["group"] for one in found} == {"program", "kernel", "privileges", "stores"}
        assert all(set(one) == {"group", "name", "ok", "needed", "follows"} for one in found)
        assert result.returncode == (0 if all(one["ok"] for one in found if one["needed"]) else 1)
        assert os.listdir(tmp_path) == []

    def test_counts_what_the_store_holds(self, state: Path) -> None:
        shown = run("doctor", "--state", state).stdout.decode()
        assert f"local (local:{state}) has 1 images, 0 containers, 2 layers." in shown

    def test_a_damaged_store_is_exit_code_1(self, state: Path) -> None:
        (state / "streamer.db").write_bytes(b"nonsense" * 1000)
        for leftover in state.glob("streamer.db-*"):
            leftover.unlink()
        result = run("doctor", "--json", "--state", state)
        (store,) = [one for one in json.loads(result.stdout) if one["name"] == "store"]
        assert (result.returncode, store["ok"]) == (1, False)

    def test_a_state_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        result = run("doctor", "--json", "--state", tmp_path / "file" / "state")
        (state,) = [one for one in json.loads(result.stdout) if one["name"] == "state"]
        assert (result.returncode, state["ok"]) == (1, False)


def _sent(address: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(address))
        client.sendall(request)
        answer = b""
        with contextlib.suppress(TimeoutError):
            while piece := client.recv(1 << 16):
                answer += piece
    return answer


@pytest.fixture
def serving(state: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    address = tmp_path / "sock"
    with start("serve", "--listen", f"unix:{address}", "--state", state) as process:
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
    assert process.wait(20) == 0
    assert not address.exists()


@pytest.mark.parametrize(("address", "code"), [("nonsense", 2), ("0.0.0.0:0", 2), ("unix:/nonexistent/sock", 4)])
def test_serve_refuses(tmp_path: Path, address: str, code: int) -> None:
    result = run("serve", "--listen", address, "--state", tmp_path / "s")
    assert result.returncode == code
    assert result.stderr.decode().splitlines()[-1].startswith("streamer: ")


def test_the_environment_chooses_the_state(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: MadeImage = IMAGE
    result = subprocess.run(
        [sys.executable, "-m", "streamer", "ls"],
        env={**os.environ, "STREAMER_STATE": str(state), "PYTHONPATH": str(Path(streamer.__file__).parents[1])},
        capture_output=True,
        check=True,
    )
    assert made.id.encode() in result.stdout
