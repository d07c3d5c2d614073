"""Image names: parsing, normal form and familiar form (the grammar of distribution/reference).

`busybox` is short for `docker.io/library/busybox:latest`; stores keep the normal form, people see the familiar one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamer.errors import InvalidReference
from streamer.oci import digest as digests

_DOMAIN = re.compile(
    r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]+)?"
    r"|\[[a-fA-F0-9:]+\](?::[0-9]+)?"
)
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed image name. `repository` is in normal form (`docker.io/library/busybox`)."""

    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def familiar_repository(self) -> str:
        name = self.repository.removeprefix("docker.io/")
        official = name.removeprefix("library/")
        return official if name != self.repository and "/" not in official else name

    @property
    def name(self) -> str:
        """The normal form with tag and digest, as containerd and index annotations write it."""
        return self.repository + self._suffix

    @property
    def familiar(self) -> str:
        """The form people type, as `docker images` and `manifest.json` write it."""
        return self.familiar_repository + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def tagged(self) -> Reference:
        """The same with `latest` where there is neither tag nor digest."""
        return self if self.tag or self.digest else Reference(self.repository, "latest")


def parse(text: str) -> Reference:
    """A reference from any form people type; InvalidReference says what is wrong with it."""
    rest, at, digest = text.partition("@")
    if at:
        digests.parse(digest)
    head, slash, tail = rest.rpartition("/")
    last, colon, tag = tail.partition(":")
    if colon and _TAG.fullmatch(tag) is None:
        raise InvalidReference(f"{text[:300]!r} is not an image name: {tag[:128]!r} is not a tag")
    rest = head + slash + last
    domain, slash, path = rest.partition("/")
    if not slash or not ("." in domain or ":" in domain or domain == "localhost" or domain.lower() != domain):
        domain, path = "docker.io", rest
    if domain == "index.docker.io":
        domain = "docker.io"
    if domain == "docker.io" and "/" not in path:
        path = f"library/{path}"
    if _DOMAIN.fullmatch(domain) is None or _PATH.fullmatch(path) is None or len(path) > 255:
        hint = "; a repository is written in lower case" if text.lower() != text else ""
        raise InvalidReference(f"{text[:300]!r} is not an image name{hint}")
    return Reference(f"{domain}/{path}", tag or None, digest or None)


def attempt(text: str) -> Reference | None:
    """The reference as a person means it, with `latest` where it says nothing; None where it is no image name."""
    try:
        return parse(text).tagged()
    except InvalidReference:
        return None
