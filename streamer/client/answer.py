"""What an answer's headers say, checked: nothing that contradicts itself or the question gets further."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from multidict import CIMultiDictProxy

from streamer.client.division import Span
from streamer.errors import SourceFailed

_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,256}"')
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_DIGEST = re.compile(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/]{43}=):")


@dataclass(frozen=True, slots=True)
class Offer:
    """What is known of an archive beforehand."""

    size: int | None
    """Bytes of the whole archive, None where only its end will tell."""
    etag: str | None
    """A strong one, with its quotes."""
    ranges: bool
    """Whether a part of it may be asked for."""
    digest: bytes | None
    """SHA-256 of the whole archive, where the service tells."""

    @property
    def resumable(self) -> bool:
        return self.size is not None and self.etag is not None and self.ranges

    def same(self, other: Offer) -> bool:
        """Whether both are the same bytes."""
        return self.etag is not None and (self.etag, self.size) == (other.etag, other.size)


class Headers:
    """One answer's. Every method raises SourceFailed, in a sentence about the `service`, for what cannot be."""

    def __init__(self, service: str, headers: CIMultiDictProxy[str]) -> None:
        self._service = service
        self._headers = headers

    def refused(self, what: str) -> SourceFailed:
        return SourceFailed(f"{self._service} answered {what}")

    def one(self, name: str) -> str | None:
        values = self._headers.getall(name, [])
        if len(set(values)) > 1:
            raise self.refused(f"with several {name} headers that contradict each other")
        return values[0].strip() if values else None

    def check_archive(self, media_type: str) -> None:
        """That the body is the archive itself, and not a page of something else that listens there."""
        given = (self.one("Content-Type") or "").partition(";")[0].strip().lower()
        if given != media_type:
            raise self.refused(f"with {given[:100]!r} where {media_type!r} was asked for: is it a streamer service?")
        coding = (self.one("Content-Encoding") or "identity").lower()
        if coding != "identity":
            raise self.refused(f"in the content coding {coding[:100]!r}, which was not asked for")

    def length(self) -> int | None:
        """Content-Length; None for a chunked body. Any other ends with its connection, so that a broken one looks
        like a whole one."""
        text = self.one("Content-Length")
        if text is not None:
            if not (text.isascii() and text.isdecimal() and len(text) <= 18):
                raise self.refused(f"with Content-Length {text[:100]!r}")
            return int(text)
        if (self.one("Transfer-Encoding") or "").lower() != "chunked":
            raise self.refused("with a body whose end cannot be told from a broken connection")
        return None

    def offer(self, size: int | None) -> Offer:
        etag = self.one("ETag")
        ranges = (self.one("Accept-Ranges") or "").lower() == "bytes"
        strong = etag if etag is not None and _ETAG.fullmatch(etag) else None
        return Offer(size, strong, ranges, self._digest())

    def _digest(self) -> bytes | None:
        found = _DIGEST.search(self.one("Repr-Digest") or "")
        try:
            return base64.b64decode(found[1], validate=True) if found else None
        except binascii.Error:
            return None

    def part(self, asked: Span) -> tuple[Offer, Span]:
        """Of a 206 to the question for `asked`: it must be exactly that."""
        text = self.one("Content-Range") or ""
        found = _RANGE.fullmatch(text)
        if found is None:
            raise self.refused(f"206 with Content-Range {text[:100]!r}")
        first, last, size = (int(number) for number in found.groups())
        length = self.length()
        # A longer or a shorter whole has another ETag as well, which is for the caller to see.
        if first != asked[0] or last + 1 != min(asked[1], size) or length not in (last + 1 - first, None):
            raise self.refused(f"206 with {text!r} where bytes {asked[0]}-{asked[1] - 1} were asked for")
        offer = self.offer(size)
        if offer.etag is None:
            raise self.refused("206 without saying of which version")
        return Offer(offer.size, offer.etag, True, offer.digest), (first, last + 1)
