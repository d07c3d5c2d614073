"""Every command on a real embedded store, in this process: what needs no descriptor, terminal or signal of its own."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from support import images, overlays
from support.layouts import Layout, tag
from support.sample import BASE, IMAGE, TOP
from typer.testing import CliRunner, Result

from streamer.cli.main import app
from streamer.mounts import diagnosis


def called(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def _created(state: Path, name: str = "web") -> Path:
    """A container with one file added; its upper directory."""
    result = called("create", "sample:1", "--name", name, "--state", state)
    assert result.exit_code == 0, result.stderr
    upper = state / "containers" / result.stdout.strip() / "upper"
    (upper / "added").write_bytes(b"added")
    return upper


class TestImport:
    def test_prints_ids_and_names(self, tmp_path: Path, archive: Path) -> None:
        result = called("import", archive, "--state", tmp_path / "s")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"{IMAGE.id}\tsample:1\n"

    def test_a_line_for_each_image(self, state: Path, archive: Path) -> None:
        assert called("tag", "sample:1", "other", "--state", state).exit_code == 0
        assert called("import", archive, "--state", state).stdout == f"{IMAGE.id}\tother:latest sample:1\n"

    def test_an_archive_without_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "root.tar").write_bytes(BASE)
        result = called("import", tmp_path / "root.tar", "--state", tmp_path / "s")
        image_id, name = result.stdout.rstrip("\n").split("\t")
        command = f"streamer tag {image_id[7:19]} NAME"
        assert (result.exit_code, name) == (0, "<none>")
        assert result.stderr == f"streamer: note: the archive gives no name; give one with --name or: {command}\n"
        assert called(*command.split()[1:3], "mine", "--state", tmp_path / "s").exit_code == 0

    def test_what_is_wrong_with_a_file_is_said_with_its_name(self, tmp_path: Path, archive: Path) -> None:
        data = archive.read_bytes()
        (tmp_path / "trunc.tar").write_bytes(data[: len(data) // 2])
        result = called("import", tmp_path / "trunc.tar", "--state", tmp_path / "s")
        assert result.exit_code == 5
        assert result.stderr.startswith(f"streamer: {tmp_path}/trunc.tar: the archive is truncated: ")

    def test_json(self, tmp_path: Path, archive: Path) -> None:
        report = json.loads(called("import", archive, "--json", "--state", tmp_path / "s").stdout)
        assert [image["id"] for image in report["images"]] == [IMAGE.id]
        assert report["layers_new"] == 2
        assert report["layers_shared"] == 0
        assert set(report) == {"images", "layers_new", "layers_shared", "bytes", "moved"}

    def test_an_oci_layout_directory(self, tmp_path: Path) -> None:
        layout = images.unpack_to(images.oci(IMAGE), tmp_path / "layout")
        result = called("import", layout, "--state", tmp_path / "s")
        assert (result.exit_code, result.stdout) == (0, f"{IMAGE.id}\tsample:1\n")

    def test_a_root_file_system_under_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "root.tar.gz").write_bytes(images.COMPRESS["gzip"](BASE))
        result = called("import", tmp_path / "root.tar.gz", "--name", "rooted", "--state", tmp_path / "s")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.endswith("\trooted:latest\n")


class TestExport:
    def test_a_layer_comes_out_as_it_came_in(self, sample: Path, tmp_path: Path) -> None:
        result = called("export", "layer", images.sha256(TOP), "-o", tmp_path / "l.tar", "--state", sample)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
        assert (tmp_path / "l.tar").read_bytes() == TOP

    @pytest.mark.parametrize(
        ("name", "more", "magic"),
        [
            ("l.tar", [], TOP[:4]),
            ("l.tar.gz", [], b"\x1f\x8b"),
            ("l.TGZ", [], b"\x1f\x8b"),
            ("l.tar.zst", [], b"\x28\xb5\x2f\xfd"),
            ("l.tar.xz", [], b"\xfd7zXZ"),
            ("l.tbz2", [], b"BZh"),
            ("l.tar.gz", ["--compression", "none"], TOP[:4]),
            ("l.gz", ["--compression", "zstd"], b"\x28\xb5\x2f\xfd"),
        ],
    )
    def test_a_file_is_what_its_name_says(
        self, sample: Path, tmp_path: Path, name: str, more: list[str], magic: bytes
    ) -> None:
        result = called("export", "layer", images.sha256(TOP), "-o", tmp_path / name, *more, "--state", sample)
        assert (result.exit_code, result.stderr) == (0, "")
        assert (tmp_path / name).read_bytes().startswith(magic)

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
            (["image", "sample:1", "-o", "s3://bucket/"], 2, "the key is missing"),
            (["image", "sample:1", "-o", "s3://Bucket!/x.tar"], 2, "write it as s3://BUCKET/KEY"),
            (["image", "sample:1", "-o", "az://box/a/../x.tar"], 2, "an empty component, `.` or `..`"),
            (["image", "sample:1", "--part-size", "1", "-o", "s3://bucket/x.tar"], 2, "--part-size"),
            (
                ["image", "sample:1", "--part-size", "8", "-o", "x.tar"],
                2,
                "--part-size is for object storage: it needs",
            ),
            (["image", "sample:1", "--concurrency", "2"], 2, "--concurrency is for object storage: it needs"),
            (
                ["image", "sample:1", "--digest-first", "--from", "http://h:1"],
                2,
                "--digest-first is for object storage",
            ),
            (["image", "sample:1", "-o", "http://bucket/x.tar"], 2, "possible are s3://, gs://, az:// and file://"),
            (["image", "sample:1", "-o", "/nonexistent/x.tar"], 3, "cannot write /nonexistent/x.tar"),
            (["image", "sample:1", "-o", "/dev/full"], 7, "No space left"),
        ],
    )
    def test_failures(self, sample: Path, arguments: list[str], code: int, message: str) -> None:
        result = called("export", *arguments, "--state", sample)
        assert (result.exit_code, result.stdout) == (code, "")
        shown = result.stderr
        assert shown.startswith("streamer: ")
        assert shown.count("\n") == 1
        assert message in shown

    @pytest.mark.parametrize("compression", ["none", "zstd"])
    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            (["layer", images.sha256(TOP)], f"layer-{images.encoded(TOP)[:12]}"),
            (["diff", "web"], "web-diff"),
            (["container", "web"], "web"),
            (["image", "sample:1"], "sample-1"),
            (["image", "sample:1", "other:2"], "images"),
            (["rootfs", "sample:1"], "sample-1-rootfs"),
        ],
    )
    def test_the_name_that_is_proposed(
        self, state: Path, tmp_path: Path, arguments: list[str], name: str, compression: str
    ) -> None:
        """For a download, which has no plan, the same as here."""
        _created(state)
        assert called("tag", "sample:1", "other:2", "--state", state).exit_code == 0
        proposed = f"{tmp_path}/{name}.tar{'.zst' if compression == 'zstd' else ''}"
        for place in (("--state", state), ("--from", "http://127.0.0.1:1")):
            result = called("export", *arguments, "--compression", compression, "-o", tmp_path, *place)
            assert result.exit_code == 2
            assert f"is a directory: name the file (for example -o {proposed})" in result.stderr

    def test_a_changed_layer_leaves_no_file(self, state: Path, tmp_path: Path) -> None:
        (stored,) = [path for path in (state / "layers").glob("*/diff/top") if path.is_file()]
        stored.write_bytes(b"bad" * 1000)
        result = called("export", "layer", images.sha256(TOP), "-o", tmp_path / "l.tar", "--state", state)
        assert result.exit_code == 6
        assert not (tmp_path / "l.tar").exists()


class TestListing:
    def test_images(self, state: Path) -> None:
        assert called("tag", "sample:1", "other", "--state", state).exit_code == 0
        plain = called("ls", "--state", state).stdout
        assert [line.split("\t")[:2] for line in plain.splitlines()] == [
            ["other:latest", IMAGE.id],
            ["sample:1", IMAGE.id],
        ]
        (image,) = json.loads(called("ls", "images", "--json", "--state", state).stdout)
        assert image["names"] == ["other:latest", "sample:1"]
        assert image["layers"] == IMAGE.diff_ids
        assert image["size"] == len(BASE) + len(TOP)

    def test_containers(self, state: Path) -> None:
        upper = _created(state)
        (line,) = called("ls", "containers", "--state", state).stdout.splitlines()
        assert line.split("\t")[:3] == ["web", upper.parent.name, "sample:1"]
        (container,) = json.loads(called("ls", "containers", "--json", "--state", state).stdout)
        assert (container["name"], container["status"]) == ("web", "")

    def test_layers_and_stores(self, sample: Path) -> None:
        layers = json.loads(called("ls", "layers", "--json", "--state", sample).stdout)
        assert {layer["diff_id"] for layer in layers} == set(IMAGE.diff_ids)
        plain = called("ls", "stores", "--store", f"mine=local:{sample}").stdout
        assert plain == f"mine\tlocal\t{sample}\n"

    @pytest.mark.parametrize("how", [[], ["--json"]])
    def test_half_a_character_in_a_document_hides_nothing(self, tmp_path: Path, how: list[str]) -> None:
        layout = Layout(tmp_path / "layout")
        odd = images.image(BASE, created="\ud800")
        layout.index(layout.image(odd, annotations=tag("1")), layout.image(IMAGE, annotations=tag("2")))
        result = called("ls", *how, "--store", f"o=oci-layout:{layout.root}")
        assert (result.exit_code, result.stderr) == (0, "")
        assert odd.id in result.stdout
        assert IMAGE.id in result.stdout

    def test_a_store_that_cannot_be_read(self, sample: Path, tmp_path: Path) -> None:
        broken = ("--store", f"o=docker:{tmp_path}")
        for more, shown in ((), ""), (("--store", f"mine=local:{sample}"), IMAGE.id):
            result = called("ls", "images", *broken, *more)
            assert (result.exit_code, result.stderr.count("warning: store o cannot be read")) == (6, 1)
            assert shown in result.stdout

    @pytest.mark.parametrize("what", ["images", "containers", "layers"])
    def test_nothing_is_an_empty_array(self, state: Path, what: str) -> None:
        assert called("rm", "sample:1", "--state", state).exit_code == 0
        assert json.loads(called("ls", what, "--json", "--state", state).stdout) == []
        assert called("ls", what, "--state", state).stdout == ""

    def test_changes(self, state: Path) -> None:
        upper = _created(state)
        (upper / "tab\there").write_bytes(b"")
        plain = called("changes", "web", "--state", state)
        assert (plain.exit_code, plain.stdout) == (0, "A\t/added\nA\t/tab\\there\n")
        listed = json.loads(called("changes", "web", "--json", "--state", state).stdout)
        assert listed == [{"path": "/added", "kind": "A"}, {"path": "/tab\there", "kind": "A"}]

    def test_no_changes(self, state: Path) -> None:
        (_created(state) / "added").unlink()
        assert called("changes", "web", "--state", state).stdout == ""
        assert json.loads(called("changes", "web", "--json", "--state", state).stdout) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["changes", "x"],
        ["export", "image", "x"],
        ["rm", "x"],
        ["tag", "x", "y"],
        ["mount", "x"],
        ["unmount", "x"],
        ["commit", "x", "y"],
        ["create", "x"],
    ],
)
def test_looking_makes_no_store(tmp_path: Path, arguments: list[str]) -> None:
    result = called(*arguments, "--state", tmp_path / "s")
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"there is no store at {tmp_path}/s" in result.stderr
    assert os.listdir(tmp_path) == []


class TestStore:
    def test_a_container_from_creation_to_removal(self, state: Path) -> None:
        _created(state)
        taken = called("create", "sample:1", "--name", "web", "--state", state)
        assert (taken.exit_code, taken.stdout) == (4, "")
        in_use = called("rm", "sample:1", "--state", state)
        message = f"image {IMAGE.id[7:19]} is used by the container web: remove it first, or use --force"
        assert (in_use.exit_code, in_use.stderr) == (4, f"streamer: {message}\n")
        _created(state, "app")
        message = f"image {IMAGE.id[7:19]} is used by the containers app, web: remove them first, or use --force"
        assert called("rm", "sample:1", "--state", state).stderr == f"streamer: {message}\n"
        assert called("rm", "app", "--state", state).exit_code == 0
        both = called("rm", "web", "nonsense", "sample:1", "--state", state)
        assert both.exit_code == 3
        assert both.stderr == "streamer: there is no container or image 'nonsense' in the store\n"
        assert both.stdout.splitlines()[0].startswith("removed container web (")
        assert both.stdout.splitlines()[1] == f"removed image sample:1 ({IMAGE.id[7:19]}), 2 layers"
        assert json.loads(called("ls", "layers", "--json", "--state", state).stdout) == []

    def test_a_name_of_both_kinds(self, state: Path) -> None:
        _created(state, "sample")
        assert called("tag", "sample:1", "sample", "--state", state).exit_code == 0
        either = called("rm", "sample", "--state", state)
        assert either.exit_code == 4
        assert "--container or --image" in either.stderr
        assert called("rm", "--container", "sample", "--state", state).exit_code == 0
        assert called("rm", "--container", "sample", "--state", state).exit_code == 3
        assert called("rm", "--image", "sample", "--state", state).exit_code == 0
        assert called("ls", "--state", state).stdout.startswith("sample:1\t")

    def test_commit(self, state: Path, tmp_path: Path) -> None:
        _created(state)
        made = called("commit", "web", "changed:1", "--message", "why", "--author", "who", "--state", state)
        assert made.exit_code == 0, made.stderr
        found = {one["id"]: one for one in json.loads(called("ls", "--json", "--state", state).stdout)}
        image = found[made.stdout.strip()]
        assert image["names"] == ["changed:1"]
        assert image["layers"][:2] == IMAGE.diff_ids
        file = tmp_path / "layer.tar"
        assert called("export", "layer", image["layers"][2], "-o", file, "--state", state).exit_code == 0
        with tarfile.open(file) as tar:
            assert tar.getnames() == ["added"]

    @pytest.mark.root
    def test_mount_and_unmount(self, state: Path, tmp_path: Path) -> None:
        overlays.require()
        _created(state)
        (tmp_path / "mnt").mkdir()
        for arguments, expected in (([], None), ([tmp_path / "mnt"], tmp_path / "mnt")):
            mounted = called("mount", "web", *arguments, "--state", state)
            assert mounted.exit_code == 0, mounted.stderr
            path = Path(mounted.stdout.rstrip("\n"))
            try:
                assert expected is None or path == expected
                assert (path / "etc" / "name").read_bytes() == b"base"
                (listed,) = json.loads(called("ls", "containers", "--json", "--state", state).stdout)
                assert listed["status"] == "mounted"
            finally:
                assert called("unmount", "web", "--state", state).exit_code == 0
            assert not os.path.ismount(path)


class TestDoctor:
    def test_reports_and_touches_nothing(self, tmp_path: Path) -> None:
        result = called("doctor", "--json", "--state", tmp_path / "s")
        found = json.loads(result.stdout)
        assert {one["group"] for one in found} == {"program", "kernel", "privileges", "stores"}
        assert all(set(one) == {"group", "name", "ok", "needed", "follows"} for one in found)
        assert result.exit_code == (0 if all(one["ok"] for one in found if one["needed"]) else 1)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(("user", "code"), [(0, 1), (1000, 0)])
    def test_only_root_needs_overlays(
        self, tmp_path: Path, user: int, code: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused = (diagnosis.Finding("overlay", False, "No."), diagnosis.Finding("overlay-userxattr", False, "No."))
        monkeypatch.setattr(diagnosis, "findings", lambda: refused)
        monkeypatch.setattr(os, "geteuid", lambda: user)
        result = called("doctor", "--state", tmp_path / "s")
        assert result.exit_code == code
        assert ("missing" in result.stdout) is bool(code)

    def test_counts_what_the_store_holds(self, sample: Path) -> None:
        shown = called("doctor", "--state", sample).stdout
        assert f"local (local:{sample}) opens; images 1, containers 0, layers 2." in shown

    def test_a_damaged_store_is_exit_code_1(self, state: Path) -> None:
        (state / "streamer.db").write_bytes(b"nonsense" * 1000)
        for leftover in state.glob("streamer.db-*"):
            leftover.unlink()
        result = called("doctor", "--json", "--state", state)
        (store,) = [one for one in json.loads(result.stdout) if one["name"] == "store"]
        assert (result.exit_code, store["ok"]) == (1, False)

    def test_a_named_store_that_is_not_there(self, tmp_path: Path) -> None:
        result = called("doctor", "--json", "--store", f"x=docker:{tmp_path}/none")
        (store,) = [one for one in json.loads(result.stdout) if one["name"] == "store"]
        assert (result.exit_code, store["ok"]) == (1, False)
        assert "there is no directory" in store["follows"]

    def test_a_state_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        result = called("doctor", "--json", "--state", tmp_path / "file" / "state")
        (state,) = [one for one in json.loads(result.stdout) if one["name"] == "state"]
        assert (result.exit_code, state["ok"]) == (1, False)
