"""What a client shows, and whom it trusts."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import certificates

from streamer.client.credentials import Credentials, credentials
from streamer.client.node import connect
from streamer.errors import InvalidRequest, NotFound, NotPermitted


def written(path: Path, data: bytes, mode: int = 0o600) -> str:
    path.touch()
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def test_nothing_is_shown_unless_asked() -> None:
    assert credentials() == Credentials(None, None)


@pytest.mark.parametrize("data", [b"streamer_x", b"streamer_x\n", b"  streamer_x \r\n"])
def test_a_token(data: bytes, tmp_path: Path) -> None:
    made = credentials(written(tmp_path / "t", data))
    assert made.token == "streamer_x"
    assert "streamer_x" not in repr(made)


@pytest.mark.parametrize("data", [b"", b"\n", b"two tokens", b"a\nb", "ü".encode(), b"a\x00b", b"a\x1b"])
def test_what_is_no_token(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no token in"):
        credentials(written(tmp_path / "t", data))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(NotPermitted, match="every user"):
        credentials(written(tmp_path / "t", b"x", 0o644))
    missing, nonsense = str(tmp_path / "missing"), written(tmp_path / "nonsense", b"nonsense")
    for arguments in ((missing,), (None, missing), (None, None, missing)):
        with pytest.raises(NotFound, match="missing"):
            credentials(*arguments)
    for arguments in ((None, nonsense), (None, None, nonsense)):
        with pytest.raises(InvalidRequest, match="nonsense"):
            credentials(*arguments)


def test_authorities_and_a_certificate(tmp_path: Path) -> None:
    ca = certificates.write_authority(tmp_path / "ca.pem")
    own = written(tmp_path / "own.pem", certificates.leaf("client.test").private_key_and_cert_chain_pem.bytes())
    made = credentials(None, ca, own)
    assert made.tls is not None
    assert [dict(item[0])["organizationName"] for item in (c["subject"] for c in made.tls.get_ca_certs())] == [
        "streamer tests"
    ]


async def test_a_user_and_a_token_are_one_too_many() -> None:
    with pytest.raises(InvalidRequest, match="a user and a token"):
        async with connect("http://user:secret@localhost:1", credentials=Credentials("x")):
            pass
