"""`/v1/exports`: jobs that export into object storage or files, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
from aiohttp import hdrs, web

from streamer.access.scope import Kind
from streamer.errors import InvalidRequest, Unsupported
from streamer.jobs.job import Job, State
from streamer.jobs.queue import Queue, unknown
from streamer.web import permitted
from streamer.web.bodies import Export
from streamer.web.callers import CALLER
from streamer.web.documents import document
from streamer.web.site import SITE, Site

_LONGEST_KEY = 255
_LIMIT = 100
_PACE = 0.5
"""Seconds between two events of one job, at least."""
_SILENCE = 15.0
"""Seconds after which a comment says that the stream still lives."""


async def post(request: web.Request, _values: dict[str, Any]) -> web.Response:
    site = request.app[SITE]
    jobs = _jobs(site)
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(f"Idempotency-Key is not 1 to {_LONGEST_KEY} printable ASCII characters")
    order = (await document(request, Export, site.upload_timeout)).order()
    wanted = order.wanted
    await permitted.require_source(request, Kind(wanted.what.value), wanted.refs, wanted.store)
    token = request[CALLER].token
    if key is not None and token is not None:
        key = f"{token}\n{key}"  # each token's keys are its own: nobody learns which ones others use
    job, new = await jobs.submit(order, key)
    headers = {hdrs.LOCATION: f"/v1/exports/{job.id}"}
    return web.json_response(value(job), status=201 if new else 200, headers=headers)


async def listed(request: web.Request, values: dict[str, Any]) -> web.Response:
    jobs = _jobs(request.app[SITE])
    states, prefix, limit = values.get("state", ()), values.get("destination", ""), values.get("limit", _LIMIT)
    found = await jobs.listed(states, prefix, limit, await _shown(request))
    return web.json_response([value(job) for job in found])


async def one(request: web.Request, _values: dict[str, Any]) -> web.Response:
    return web.json_response(value(await _job(request)))


async def delete(request: web.Request, _values: dict[str, Any]) -> web.Response:
    return web.json_response(value(await _jobs(request.app[SITE]).cancel((await _job(request)).id)))


async def events(request: web.Request, _values: dict[str, Any]) -> web.StreamResponse:
    """Server-sent events (HTML, 9.2): a `progress` for each change, `end` as the last one if the job ends."""
    site = request.app[SITE]
    jobs = _jobs(site)
    news, job = jobs.news, await _job(request)
    answer = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store"})
    await answer.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return answer
    shown: Job | None = None
    quiet = anyio.current_time()
    while True:
        if job != shown:
            await _write(answer, _event("end" if job.state.final else "progress", job), site.stall_timeout)
            shown, quiet = job, anyio.current_time()
        elif anyio.current_time() - quiet >= _SILENCE:
            await _write(answer, ": still here\n\n", site.stall_timeout)
            quiet = anyio.current_time()
        if job.state.final or (jobs.refusing and job.state is State.QUEUED):
            return answer
        with anyio.move_on_after(_SILENCE):
            await news.wait()
        # What changes while this waits is told in one event.
        await anyio.sleep(_PACE)
        news, job = jobs.news, await jobs.job(job.id)


def value(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    members = job.order.members()
    source = {name: members[name] for name in ("kind", "refs", "store")}
    error = job.error
    return {
        "id": job.id,
        "state": job.state.value,
        "source": source,
        "destination": members["destination"],
        "options": {name: each for name, each in members.items() if name not in (*source, "destination")},
        "created": _time(job.created),
        "ended": None if job.ended is None else _time(job.ended),
        "done": job.done,
        "total": job.total,
        "rate": None if job.rate is None else round(job.rate),
        "remaining": None if job.remaining is None else round(job.remaining, 1),
        "attempts": job.attempts,
        "digest": job.digest,
        "etag": job.etag,
        "error": None if error is None else {"code": error.code, "detail": error.detail},
    }


def _jobs(site: Site) -> Queue:
    if site.jobs is None:
        raise Unsupported(site.no_jobs)
    return site.jobs


async def _shown(request: web.Request) -> Callable[[Job], bool]:
    """Tells the jobs that the caller may know of: those whose source its scope reaches."""
    caller, layers = request[CALLER], await permitted.layers(request)

    def shown(job: Job) -> bool:
        wanted = job.order.wanted
        return permitted.may_know(caller, Kind(wanted.what.value), wanted.refs, wanted.store, layers)

    return shown


async def _job(request: web.Request) -> Job:
    """The job that is asked for. NotFound in the same words whether there is none, or none that the caller may know."""
    job = await _jobs(request.app[SITE]).job(request.match_info["id"])
    if not (await _shown(request))(job):
        raise unknown(job.id)
    return job


async def _write(answer: web.StreamResponse, text: str, limit: float) -> None:
    try:
        with anyio.fail_after(limit):
            await answer.write(text.encode())
    except TimeoutError:
        raise ConnectionResetError("the client takes no events") from None


def _event(name: str, job: Job) -> str:
    return f"event: {name}\ndata: {json.dumps(value(job))}\n\n"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
