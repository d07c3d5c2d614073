"""`length=`: whether an archive's length is found out before it is sent, and with it whether it has a version."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiohttp import hdrs, web

from streamer.errors import InvalidRequest, Unsupported
from streamer.export.plan import ExportPlan
from streamer.tar.compression import Compression
from streamer.web import negotiate
from streamer.web.conditional import Asked
from streamer.web.problems import NotAcceptable


class Length(enum.StrEnum):
    AUTO = "auto"
    """Known, unless the source may well be another one by the time it is sent."""
    KNOWN = "known"
    UNKNOWN = "unknown"
    """Nothing is looked at beforehand: the first bytes leave at once."""


def decided(request: web.Request, plan: ExportPlan, asked: Asked, values: Mapping[str, Any]) -> tuple[ExportPlan, bool]:
    """The plan with the content coding that the client gets, and whether it is outlined.

    An archive that is compressed on its way has neither a length nor a version, so who wants either, or a range, gets
    it as it is; and so does a browser, whose own progress and resume need both. InvalidRequest or Unsupported for
    `length=known` where it cannot be.
    """
    length = values.get("length", Length.AUTO)
    if length is Length.KNOWN:
        _possible(plan, values)
    lines = request.headers.getall(hdrs.ACCEPT_ENCODING, ())
    coding = negotiate.coding(lines)
    possible = plan.outline is not None and plan.compression is Compression.NONE
    possible = possible and (length is Length.KNOWN or (length is Length.AUTO and plan.steady))
    plain = length is Length.KNOWN or asked.plain or _browser(request)
    if possible and coding is not Compression.NONE and plain:
        if negotiate.identity(lines):
            coding = Compression.NONE
        elif length is Length.KNOWN:
            raise NotAcceptable("no acceptable content coding: an archive of known length is given as it is (identity)")
    if plan.compression is Compression.NONE:
        plan = replace(plan, coding=coding)
    return plan, possible and coding is Compression.NONE


def _browser(request: web.Request) -> bool:
    """Whether somebody follows a link: all browsers would rather have a page, and no program would."""
    return "text/html" in ",".join(request.headers.getall(hdrs.ACCEPT, ())).lower()


def _possible(plan: ExportPlan, values: Mapping[str, Any]) -> None:
    """Says why if the length of a plan cannot be known."""
    if plan.compression is not Compression.NONE:
        raise InvalidRequest(
            f"length=known does not go with compression={plan.compression.value}: "
            "how long a compressed archive becomes only making it can tell",
            parameter="length",
        )
    if values.get("pause"):
        raise InvalidRequest(
            "length=known does not go with pause=true: a container stands still for one reading only",
            parameter="length",
        )
    if plan.outline is None:
        raise Unsupported(f"the length of {plan.title} cannot be known before its archive is made")
