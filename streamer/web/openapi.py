"""`/openapi.json`, made from the table of routes, so that it cannot say anything else than the handlers do."""

from __future__ import annotations

import re
from typing import Any

from apispec import APISpec

from streamer import __version__
from streamer.jobs.job import State
from streamer.web.bodies import schemas
from streamer.web.problems import CONTENT_TYPE
from streamer.web.routes import ARCHIVE_ANSWER, EVENTS_ANSWER, LINES_ANSWER, ROUTES, Route

_STRING: dict[str, Any] = {"type": "string"}
_DIGEST: dict[str, Any] = {"type": "string", "pattern": "^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$"}
_SIZE: dict[str, Any] = {"type": ["integer", "null"], "minimum": 0}


def _object(**members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _list(name: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}


def _listing(name: str) -> dict[str, Any]:
    """What is there, and what is there but cannot be read."""
    items = [{"$ref": f"#/components/schemas/{each}"} for each in (name, "Damaged")]
    return {"type": "array", "items": {"anyOf": items}}


SCHEMAS: dict[str, dict[str, Any]] = {
    "Store": _object(name=_STRING, kind=_STRING, location=_STRING),
    "Image": _object(
        store=_STRING,
        id=_DIGEST,
        names={"type": "array", "items": _STRING},
        created={"type": ["string", "null"]},
        os=_STRING,
        architecture=_STRING,
        layers={"type": "array", "items": _DIGEST},
        size=_SIZE,
    ),
    "Container": _object(
        store=_STRING,
        id=_STRING,
        name=_STRING,
        image=_DIGEST,
        image_name=_STRING,
        created=_STRING,
        status={"type": "string", "description": "The engine's word: running, paused, exited …; may be empty."},
    ),
    "Layer": _object(store=_STRING, diff_id=_DIGEST, chain_id=_DIGEST, size=_SIZE),
    "Change": {
        "type": "object",
        "properties": {
            "path": {"type": "string", "pattern": "^/"},
            "kind": {"type": "string", "enum": ["A", "C", "D"]},
            "path_base64": {"type": "string", "description": "The path's bytes, where they are not UTF-8."},
        },
        "required": ["path", "kind"],
        "additionalProperties": False,
    },
    "Stores": _list("Store"),
    "Damaged": _object(
        store=_STRING,
        id={"type": "string", "description": "Empty where the whole store cannot be read."},
        names={"type": "array", "items": _STRING},
        error=_object(code=_STRING, detail=_STRING),
    ),
    "Images": _listing("Image"),
    "Containers": _listing("Container"),
    "Layers": _listing("Layer"),
    "Changes": _list("Change"),
    "Imported": _object(
        images=_list("Image"),
        moved={
            "type": "object",
            "description": "Names that another image had until now, each with that image's ID.",
            "additionalProperties": _DIGEST,
        },
    ),
    "Copied": _object(
        image={"$ref": "#/components/schemas/Image"},
        created_by={"type": "string", "description": "What the image's history says of it."},
        cached={"type": "boolean", "description": "The image was there already, made of the very same."},
    ),
    **schemas(),
    "Job": _object(
        id=_STRING,
        state={"type": "string", "enum": [state.value for state in State]},
        source={"type": "object", "description": "As it was asked for, with `refs` in place of `ref`."},
        destination=_STRING,
        options={"type": "object"},
        created={"type": "string", "format": "date-time"},
        ended={"type": ["string", "null"], "format": "date-time"},
        done={"type": "integer", "minimum": 0, "description": "Bytes that the storage has."},
        total={**_SIZE, "description": "Bytes of the whole, null as long as nobody can know."},
        rate={"type": ["integer", "null"], "description": "Bytes a second, of late."},
        remaining={"type": ["number", "null"], "description": "Seconds that it will probably still take."},
        attempts={"type": "integer", "description": "More than 1 if the service ended meanwhile."},
        digest={"type": ["string", "null"], "description": "SHA-256 of the object, once it is there."},
        etag={"type": ["string", "null"], "description": "The storage's own."},
        error={"anyOf": [_object(code=_STRING, detail=_STRING), {"type": "null"}]},
    ),
    "Jobs": _list("Job"),
    "BuildLine": {
        "type": "object",
        "description": "As in Docker's API.",
        "properties": {
            "stream": {"type": "string", "description": "Text for people, with its line's end."},
            "aux": _object(ID=_DIGEST),
            "errorDetail": _object(message=_STRING, code=_STRING),
            "error": _STRING,
        },
        "additionalProperties": False,
    },
    "Status": _object(status={"type": "string", "enum": ["ok"]}),
    "Readiness": _object(
        status={"type": "string", "enum": ["ok"]},
        stores={
            "type": "object",
            "description": "`ok`, or the code of the error with which a store answers.",
            "additionalProperties": _STRING,
        },
    ),
    "Problem": {
        "type": "object",
        "description": "RFC 9457 problem details; `code` is stable.",
        "properties": {
            "type": _STRING,
            "title": _STRING,
            "status": {"type": "integer"},
            "code": _STRING,
            "detail": _STRING,
            "candidates": {
                "type": "array",
                "items": {"type": "object", "properties": {"id": _STRING, "store": _STRING}, "required": ["id"]},
            },
            "member": _STRING,
            "parameter": _STRING,
            "size": {"type": "integer", "description": "The archive's length, where a range lies behind it."},
            "missing": {
                "type": "string",
                "description": "What the token's scope lacks: `kinds=…`, `stores=…`, `names=…`.",
            },
            "retry_after": {"type": "integer", "description": "Seconds after which to try again, as in Retry-After."},
        },
        "required": ["type", "title", "status", "code"],
    },
}

_TOKEN = "token"
_SECURITY: list[dict[str, list[str]]] = [{_TOKEN: []}, {}]
"""A token, or nothing where the service has none."""

_CONDITIONS: dict[str, str] = {
    "If-Match": "412 unless the archive is this version (its strong `ETag`).",
    "If-None-Match": "304 if the archive is still this version.",
}
_RANGES: dict[str, str] = {
    "Range": "`bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT`: that part, where `Accept-Ranges` is `bytes`. "
    "Several ranges, or anything else, are answered with the whole.",
    "If-Range": "The `ETag` of the version that the range is wanted of; the whole is sent if it is another one now.",
}
_DIGESTS: dict[str, str] = {
    "Want-Repr-Digest": "`sha-256=1`: the archive is read for its digest, where that is not known (RFC 9530).",
}
_KNOWN: dict[str, str] = {
    "Accept-Ranges": "`bytes` where the archive has a length and a version, otherwise `none`.",
    "Content-Length": "Absent where only sending it can tell.",
    "ETag": "The version, strong; absent where the next answer may be another one.",
    "Repr-Digest": "SHA-256 of the whole archive, where it is known.",
}
_IDEMPOTENCY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key gives the same job; 409 if it was used for another export.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_TAR_TYPES = ("application/x-tar", "application/gzip", "application/zstd", "application/x-xz", "application/x-bzip2")
_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    spec = APISpec(
        title="streamer",
        version=__version__,
        openapi_version="3.1.0",
        info={"description": "Container file systems as archives. A body that ends cleanly is complete and right."},
    )
    for name, schema in SCHEMAS.items():
        spec.components.schema(name, schema)
    spec.components.security_scheme(
        _TOKEN, {"type": "http", "scheme": "bearer", "description": "Where the service has tokens (RFC 6750)."}
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        operations = paths.setdefault(route.path, {})
        operations[route.method.lower()] = _operation(route, route.method.lower())
        if route.method == "GET":
            operations["head"] = _operation(route, "head")
    paths["/openapi.json"] = {
        "get": {
            "summary": "This document.",
            "security": _SECURITY,
            "responses": {"200": _json({"type": "object"}, "This document.")},
        },
        "head": {
            "summary": "Headers of: This document.",
            "security": _SECURITY,
            "responses": {"200": {"description": "This document."}},
        },
    }
    for path, operations in paths.items():
        spec.path(path=path, operations=operations)
    return dict(spec.to_dict())


def _operation(route: Route, method: str) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    for parameter in route.parameters:
        schema = dict(parameter.schema)
        parameters.append(
            {
                "name": parameter.name,
                "in": "query",
                "required": parameter.required,
                "description": parameter.description,
                "schema": {"type": "array", "items": schema, "minItems": 1} if parameter.many else schema,
            }
        )
    if route.answer == ARCHIVE_ANSWER:
        asked = _CONDITIONS | (_DIGESTS if method == "head" else _RANGES)
        parameters += [
            {"name": name, "in": "header", "required": False, "description": text, "schema": _STRING}
            for name, text in asked.items()
        ]
    operation: dict[str, Any] = {
        "summary": route.summary if method != "head" else f"Headers of: {route.summary}",
        "parameters": parameters,
        "responses": {
            **_success(route, method),
            "default": _problem("A problem.", method),
        },
        "security": [{}] if route.scope is None else _SECURITY,
    }
    if route.body:
        schema = {"$ref": f"#/components/schemas/{route.body}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if route.body == "Export":
        operation["parameters"].append(_IDEMPOTENCY)
    if route.upload:
        asked = operation.setdefault("requestBody", {"required": True, "content": {}})
        asked["description"] = route.upload
        asked["content"] |= {"application/octet-stream": {"schema": _BINARY}, "application/x-tar": {"schema": _BINARY}}
    return operation


def _success(route: Route, method: str) -> dict[str, Any]:
    if route.answer == ARCHIVE_ANSWER:
        return _archive(method)
    if method == "head":
        return {"200": {"description": route.summary}}
    if route.answer == "Text":
        return {"200": {"description": route.summary, "content": {"text/plain": {"schema": _STRING}}}}
    if route.answer == EVENTS_ANSWER:
        return {"200": {"description": route.summary, "content": {"text/event-stream": {"schema": _STRING}}}}
    if route.answer == LINES_ANSWER:
        lines = {"application/json": {"schema": {"$ref": "#/components/schemas/BuildLine"}}}
        return {
            "200": {
                "description": "One object a line, as the steps are done; the last one tells of a failure, if any.",
                "content": lines,
            }
        }
    if route.body:
        answer = {"$ref": f"#/components/schemas/{route.answer}"}
        place = {"headers": _headers({"Location": "Where the job is."})}
        return {
            "200": _json(answer, "The job that was submitted with this Idempotency-Key.") | place,
            "201": _json(answer, "The job, queued.") | place,
        }
    answer = _json({"$ref": f"#/components/schemas/{route.answer}"}, route.summary)
    if route.answer == "Copied":
        place = {"headers": _headers({"Location": "The archive of the image."})}
        there = {"description": "The image that was there already."}
        return {"200": answer | place | there, "201": answer | place}
    return {"201" if method == "post" else "200": answer}


def _archive(method: str) -> dict[str, Any]:
    """Everything that an archive is answered with; HEAD says what a GET without Range would."""
    content = {"content": {media_type: {"schema": _BINARY} for media_type in _TAR_TYPES}} if method != "head" else {}
    if method == "post":
        return {"200": {"description": "The archive, whole if the body ends cleanly.", **content}}
    answers: dict[str, Any] = {
        "200": {
            "description": "The archive, whole if the body ends cleanly.",
            "headers": _headers(_KNOWN),
            **content,
        },
        "304": {
            "description": "Still the version that If-None-Match names.",
            "headers": _headers({"ETag": _KNOWN["ETag"]}),
        },
        "412": _problem("Not the version that If-Match names.", method),
    }
    if method == "get":
        place = {"Content-Range": "Which bytes these are, of how many."}
        answers["206"] = {
            "description": "The part asked for, whole if the body ends cleanly.",
            "headers": _headers(_KNOWN | place),
            "content": {_TAR_TYPES[0]: {"schema": _BINARY}},
        }
        answers["416"] = _problem("The range begins behind the archive's end.", method)
        answers["416"]["headers"] = _headers({"Content-Range": "`bytes */SIZE`."})
    return dict(sorted(answers.items()))


def _headers(known: dict[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": _STRING} for name, text in known.items()}


def _problem(description: str, method: str) -> dict[str, Any]:
    if method == "head":
        return {"description": description}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {CONTENT_TYPE: {"schema": schema}}}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
