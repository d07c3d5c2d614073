"""Settings by flag, environment and file: one schema, one order of precedence, and where each is from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commandline import run

from streamer.errors import InvalidRequest, NotFound
from streamer.settings import Settings, explained, load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "streamer.toml"
    path.write_text(
        'max_exports = 3\nstall_timeout = 7.5\nlisten = ["127.0.0.1:1", "unix:/run/s"]\nsocket_mode = 0o660\n'
        'otlp_endpoint = "http://user:secret@collector:4318"\naccess_log = false\n'
    )
    return path


def test_precedence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().max_exports == 64
    assert load(file).max_exports == 3
    monkeypatch.setenv("STREAMER_MAX_EXPORTS", "5")
    assert load(file).max_exports == 5
    assert load(file, max_exports=9).max_exports == 9
    monkeypatch.setenv("STREAMER_CONFIG", str(file))
    loaded = load()
    assert (loaded.max_exports, loaded.stall_timeout, loaded.access_log) == (5, 7.5, False)
    assert loaded.listen == ("127.0.0.1:1", "unix:/run/s")
    assert loaded.socket_mode == 0o660
    assert load(listen="127.0.0.1:2").listen == ("127.0.0.1:2",)


def test_origins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_MAX_EXPORTS", "5")
    monkeypatch.setenv("streamer_idle_timeout", "6")
    origins = {each.name: each.origin for each in explained(file, listen=("127.0.0.1:2",))}
    assert set(origins) == set(Settings.model_fields)
    assert origins["listen"] == "flag"
    assert origins["max_exports"] == origins["idle_timeout"] == "environment"
    assert origins["stall_timeout"] == origins["socket_mode"] == "file"
    assert origins["drain_timeout"] == "default"
    shown = {each.name: each.shown for each in explained(file)}
    assert shown["otlp_endpoint"] == "http://***@collector:4318"
    assert shown["socket_mode"] == "0660"
    json.dumps(shown)


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description and field.description.endswith("."), name


WRONG = {
    "max_exports = 0": r"streamer\.toml: max_exports=0 is less than 1",
    'max_exports = "many"': r"streamer\.toml: max_exports='many' is not a whole number",
    "max_export = 3": r"max_export=3 is not a setting; did you mean max_exports",
    "nonsense = 1": r"nonsense=1 is not a setting$",
    "[table]\nx = 1": r"is not a setting",
    "max_exports = ": r"cannot read settings from .*streamer\.toml",
    'socket_mode = "999"': r"socket_mode='999' is wrong: give an octal mode",
    "socket_mode = 0o1777": r"socket_mode=1023 is more than 511",
    'tls_key = "/x"': r"STREAMER_TLS_KEY needs STREAMER_TLS_CERTIFICATE",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_in_a_file_is_said_with_its_name(text: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=WRONG[text]):
        load(file)


def test_a_file_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="missing"):
        load(tmp_path / "missing")
    monkeypatch.setenv("STREAMER_CONFIG", str(tmp_path / "missing"))
    with pytest.raises(NotFound, match="missing"):
        load()


@pytest.mark.parametrize(("given", "mode"), [("0660", 0o660), ("600", 0o600), ("0o640", 0o640)])
def test_modes_are_octal(given: str, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_SOCKET_MODE", given)
    assert load().socket_mode == mode


def test_the_command(file: Path) -> None:
    for arguments in (("config", "--config", file), ("--config", file, "config")):
        answer = run(*arguments)
        assert answer.returncode == 0, answer.stderr
        lines = dict(line.split("\t", 1) for line in answer.stdout.decode().splitlines())
        assert lines["max_exports"] == f"3\tfile {file}"
        assert lines["discover"] == "False\tenvironment"
        assert b"secret" not in answer.stdout
    answer = run("config", "--json", "--config", file, "--state", "/x")
    records = {each["name"]: each for each in json.loads(answer.stdout)}
    assert (records["state"]["value"], records["state"]["from"]) == ("/x", "flag")
    assert records["listen"]["value"] == ["127.0.0.1:1", "unix:/run/s"]
    assert b"secret" not in answer.stdout
    assert run("config", "--config", file.parent / "missing").returncode == 3


def test_a_new_token() -> None:
    answer = run("token", "new", "ci", "--kinds", "layer,list", "--stores", "a,b", "--names", "x/*")
    assert answer.returncode == 0, answer.stderr
    line, secret = answer.stdout.decode(), answer.stderr.decode().split()[-1]
    assert line.startswith("ci = { sha256 = ") and secret.startswith("streamer_") and secret not in line
    assert line.endswith('kinds = ["layer", "list"], stores = ["a", "b"], names = ["x/*"] }\n')
    for wrong in (("--kinds", "layers"), ("--expires", "2020-01-01"), ("--expires", "soon")):
        answer = run("token", "new", "ci", *wrong)
        assert (answer.returncode, answer.stdout) == (2, b"")
    assert run("token", "old", "ci").returncode == 2
