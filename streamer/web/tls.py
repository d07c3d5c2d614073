"""TLS: a context from files, made anew when they change."""

from __future__ import annotations

import ssl

from streamer.access.secret import contents
from streamer.access.watch import Watched
from streamer.errors import InvalidRequest, NotFound, NotPermitted


def certificates(certificate: str, key: str | None = None, client_ca: str | None = None) -> Watched[ssl.SSLContext]:
    """The context of a server, followed by its files. `certificate` is a chain in PEM, with its key unless `key` has
    it; with `client_ca`, only clients that show a certificate of one of these authorities get through the handshake.

    A new context rather than new files in the old one: that would go on to know authorities that were taken away, and
    sessions that were begun under them.
    """
    paths = [path for path in (certificate, key, client_ca) if path is not None]
    return Watched("certificates", paths, lambda: _context(certificate, key, client_ca))


def _context(certificate: str, key: str | None, client_ca: str | None) -> ssl.SSLContext:
    contents(key or certificate, "the key of the TLS certificate")  # only whether others can read it
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    made.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password OpenSSL would ask the terminal for one.
        made.load_cert_chain(certificate, key, password="")
    except FileNotFoundError:
        raise NotFound(f"there is no file {certificate} for the TLS certificate") from None
    except (ssl.SSLError, ValueError) as error:
        said = getattr(error, "reason", None) or error
        raise InvalidRequest(
            f"cannot use {certificate}{f' with {key}' if key else ''} as TLS certificate: {said}",
            parameter="tls_certificate",
        ) from None
    except OSError as error:
        raise NotPermitted(f"cannot read the TLS certificate {certificate}: {error.strerror}") from error
    if client_ca is not None:
        try:
            made.load_verify_locations(client_ca)
        except FileNotFoundError:
            raise NotFound(f"there is no file {client_ca} for the authorities of clients") from None
        except (ssl.SSLError, ValueError) as error:
            raise InvalidRequest(
                f"cannot use {client_ca} as authorities of clients: {getattr(error, 'reason', None) or error}",
                parameter="tls_client_ca",
            ) from None
        except OSError as error:
            raise NotPermitted(f"cannot read the authorities of clients {client_ca}: {error.strerror}") from error
        made.verify_mode = ssl.CERT_REQUIRED
    return made
