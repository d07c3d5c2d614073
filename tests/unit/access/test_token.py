"""Tokens: what is issued lets in, nothing else does, and a file that means something else than it says is refused."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.keys import Keys, scope

from streamer.access import token as tokens
from streamer.access.scope import EVERYTHING, Kind
from streamer.access.secret import contents
from streamer.access.token import issued, parsed, recognised
from streamer.errors import InvalidRequest, NotFound, NotPermitted

SCOPES = [
    EVERYTHING,
    scope(["layer"]),
    scope([]),
    scope(["list", "image"], stores=["local", "docker"], names=["team/*", 'odd"name\\', "ü\n"]),
    scope(stores=[], names=[]),
]


@pytest.mark.parametrize("given", SCOPES, ids=range(len(SCOPES)))
def test_what_is_issued_is_what_the_file_gives(given) -> None:
    expires = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    secret, line = issued("ci-1", given, expires)
    (token,) = parsed(line, "file")
    assert (token.name, token.scope, token.expires) == ("ci-1", given, expires)
    assert secret not in line
    assert "\n" not in line
    assert recognised([token], secret) is token


def test_nothing_but_the_token_is_recognised() -> None:
    made = [issued(f"t{number}", EVERYTHING) for number in range(3)]
    known = parsed("\n".join(line for _, line in made), "file")
    for number, (secret, line) in enumerate(made):
        assert recognised(known, secret) is known[number]
        for wrong in (secret[:-1], secret + "x", secret.lower(), f" {secret}", "", line, known[number].sha256.hex()):
            assert recognised(known, wrong) is None
    assert len({secret for secret, _ in made}) == 3
    assert recognised([], made[0][0]) is None


def test_every_entry_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    original = tokens.hmac.compare_digest
    monkeypatch.setattr(tokens.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or original(a, b))
    made = [issued(f"t{number}", EVERYTHING) for number in range(5)]
    known = parsed("\n".join(line for _, line in made), "file")
    for secret in (made[0][0], made[4][0], "nonsense"):
        compared.clear()
        recognised(known, secret)
        assert [b for _, b in compared] == [token.sha256 for token in known]
        assert all(len(a) == 32 for a, _ in compared), "digests, whose length tells nothing"


def test_expiry() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    (token,) = parsed(issued("a", EVERYTHING, now)[1], "file")
    assert token.expired(now)
    assert not token.expired(now - timedelta(seconds=1))
    (dated,) = parsed(f'a = {{ sha256 = "{"0" * 64}", kinds = ["*"], expires = 2030-01-01 }}', "file")
    assert dated.expires == now
    assert dated.scope == EVERYTHING
    (endless,) = parsed(issued("a", EVERYTHING)[1], "file")
    assert not endless.expired()


SHA = f'sha256 = "{"0" * 64}"'
WRONG = {
    "nonsense": "Expected",
    'a = "x"': "is not a table",
    f'"a b" = {{ {SHA}, kinds = [] }}': "other characters",
    "a = { kinds = [] }": "has no sha256",
    f'a = {{ sha256 = "{"0" * 63}", kinds = [] }}': "has no sha256",
    f'a = {{ sha256 = "{"A" * 64}", kinds = [] }}': "has no sha256",
    f"a = {{ {SHA} }}": "has no kinds",
    f'a = {{ {SHA}, kinds = "list" }}': "has no kinds",
    f'a = {{ {SHA}, kinds = ["lists"] }}': "unknown kind 'lists'",
    f'a = {{ {SHA}, kinds = ["list"], store = ["x"] }}': "unknown member 'store'",
    f'a = {{ {SHA}, kinds = ["list"], stores = "x" }}': "stores that are not a list",
    f'a = {{ {SHA}, kinds = ["list"], names = [1] }}': "names that are not a list",
    f'a = {{ {SHA}, kinds = ["list"], expires = "soon" }}': "expires that is neither",
    f'a = {{ {SHA}, kinds = ["list"], expires = 2030-01-01T00:00:00 }}': "with its zone",
    f'a = {{ {SHA}, kinds = ["list"] }}\na = {{ {SHA}, kinds = ["*"] }}': "overwrite",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_is_wrong(text: str) -> None:
    with pytest.raises(InvalidRequest, match=WRONG[text]) as caught:
        parsed(text, "/etc/tokens")
    assert "/etc/tokens" in str(caught.value)


def test_names() -> None:
    for name in ("", "a b", "ü", "a" * 65, "a.b", "a\n"):
        with pytest.raises(InvalidRequest, match="cannot be the name"):
            issued(name, EVERYTHING)


@pytest.mark.parametrize(
    ("names", "allowed", "refused"),
    [
        (["web"], ["web"], ["web2", "Web", "", "aweb"]),
        (["team/*"], ["team/a", "team/a/b:1", "team/"], ["team", "teams/a", "x/team/a"]),
        (["db-?"], ["db-1"], ["db-12", "db-"]),
        (["*"], ["anything"], []),
        ([], [], ["anything", ""]),
    ],
)
def test_patterns(names: list[str], allowed: list[str], refused: list[str]) -> None:
    limited = scope(names=names)
    assert [each for each in allowed + refused if limited.named([each])] == allowed
    assert not limited.named([])
    assert scope().named([])


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o660, 0o440])
def test_modes_that_keep_a_secret(mode: int, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.add("a", EVERYTHING)
    keys.path.chmod(mode)
    assert keys.watched().value[0].name == "a"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o666, 0o622, 0o777])
def test_modes_that_do_not(mode: int, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.path.chmod(mode)
    with pytest.raises(NotPermitted, match=f"every user of this machine.*{mode:04o}.*chmod o= {keys.path}"):
        keys.watched()


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))
    (tmp_path / "latin").write_bytes(b"\xff")
    for each in tmp_path.iterdir():
        each.chmod(0o600)
    for name, kind in (("fifo", InvalidRequest), ("large", InvalidRequest), ("latin", InvalidRequest)):
        with pytest.raises(kind, match=name):
            contents(str(tmp_path / name), "tokens")
    with pytest.raises(NotFound, match="missing"):
        contents(str(tmp_path / "missing"), "tokens")


@pytest.mark.root
def test_a_file_of_another_user(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "tokens")
    os.chown(keys.path, 12345, 0)
    with pytest.raises(NotPermitted, match="belongs to user 12345"):
        keys.watched()


def test_kinds_are_those_that_routes_ask_for() -> None:
    from streamer.web.routes import ROUTES

    asked = {route.scope for route in ROUTES}
    assert asked - {None} <= set(Kind)
    assert {route.path for route in ROUTES if route.scope is None} == {"/healthz", "/readyz"}
