"""Certificates of an authority made for a test, and clients that trust it."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import trustme


class SecurePort(int):
    """A port that a `Client` connects to with TLS."""

    tls: ssl.SSLContext


@cache
def authority(name: str = "streamer tests") -> trustme.CA:
    """One for all tests of a name: making keys takes time."""
    return trustme.CA(organization_name=name)


@cache
def leaf(*names: str, of: str = "streamer tests") -> trustme.LeafCert:
    return authority(of).issue_cert(*names)


def client(of: str = "streamer tests", certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """A client's context that trusts the authority, and shows the certificate if one is given."""
    context = ssl.create_default_context()
    authority(of).configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def write(directory: Path, certificate: trustme.LeafCert) -> tuple[str, str]:
    """Chain and key as files, the key for its owner only."""
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.touch(0o600)
    key.write_bytes(certificate.private_key_pem.bytes())
    return str(chain), str(key)


def write_authority(path: Path, of: str = "streamer tests") -> str:
    path.write_bytes(authority(of).cert_pem.bytes())
    return str(path)
