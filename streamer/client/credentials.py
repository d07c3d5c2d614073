"""What a client shows to a service, and whom it trusts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from streamer.access.secret import contents
from streamer.errors import InvalidRequest, NotFound, NotPermitted


@dataclass(frozen=True, slots=True)
class Credentials:
    """`token` is a bearer token; `tls` a context for https, None for what the system trusts."""

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


def credentials(token_file: str | None = None, ca: str | None = None, certificate: str | None = None) -> Credentials:
    """From files: a token; authorities (PEM) to trust instead of the system's; a certificate with its key (PEM) for
    mutual TLS. NotFound, NotPermitted or InvalidRequest for one that cannot be used."""
    token = None
    if token_file is not None:
        token = contents(token_file, "a token").strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidRequest(f"there is no token in {token_file}, or more than one", parameter="token_file")
    tls = None
    if ca is not None or certificate is not None:
        try:
            tls = ssl.create_default_context(cafile=ca)
        except (OSError, ValueError) as error:
            raise _unusable(str(ca), "authorities to trust", error) from None
        if certificate is not None:
            contents(certificate, "the key of a certificate")
            try:
                tls.load_cert_chain(certificate, password="")
            except (OSError, ValueError) as error:
                raise _unusable(certificate, "a certificate with its key", error) from None
    return Credentials(token, tls)


def _unusable(path: str, what: str, error: Exception) -> Exception:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"there is no file {path} for {what}")
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        return InvalidRequest(f"cannot use {path} as {what}: {getattr(error, 'reason', None) or error}")
    return NotPermitted(f"cannot read {what} from {path}: {error.strerror}")
