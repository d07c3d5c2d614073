"""A git repository as a context: `URL#REF:SUBDIR`, fetched by the git program into a directory that is gone afterwards.

URL, ref and everything in the repository are somebody else's. None of it is ever an option of git; git reads no
configuration of this machine, runs no hook, knows no other transports than those named here, and connects only to
addresses that the policy permits: each host is looked up here, and git is told the address. The same for submodules.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import anyio
import anyio.abc

from streamer.context.addresses import Policy
from streamer.context.source import masked
from streamer.errors import (
    FetchFailed,
    InvalidRequest,
    LimitExceeded,
    NotPermitted,
    Stalled,
    StreamerError,
    Unsupported,
)
from streamer.export.tasks import tasks, threaded

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEPTH = 5
"""Levels of submodules."""
_MODULES = 100
_LOOK = 1.0
"""Seconds between two looks at how much there is."""
_TOLD = 300
_NOT_FOUND = 127
_REF = re.compile(r"(?!-)(?!.*(\.\.|//|@\{|\.lock(/|$)))[^\x00-\x20\x7f~^:?*\[\\]{1,1000}")
"""As git-check-ref-format has it; it cannot begin like an option."""
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.askPass": "",
    "credential.helper": "",
    "protocol.ext.allow": "never",
    "protocol.file.allow": "never",
    "http.followRedirects": "false",
    "http.proxy": "",
    "transfer.fsckObjects": "true",
    "submodule.recurse": "false",
    "advice.detachedHead": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}
_LIMITED = 'ulimit -c 0; ulimit -d "$0" 2>/dev/null; exec git "$@"'
"""For sh, which hands its limits on to what it becomes; a limit that is lower already stays."""
_URL = re.compile(r"[^\x00-\x20\x7f\\\s]*")
_HOST = re.compile(r"[A-Za-z0-9._:][A-Za-z0-9._:-]*")
_PORTS = {"http": 80, "https": 443, "git": 9418, "ssh": 22}
_SSH_SAYS = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "{host} has another host key than known_hosts says: find out why first",
    "Host key verification failed": "the host key of {host} is not known: compare it, and add it to ~/.ssh/known_hosts",
    "Permission denied (": "{host} accepts none of this user's keys that need no passphrase; nothing is asked for",
}
"""What ssh refuses, by its own words, most telling first."""
_UNREADABLE = "fatal: Could not read from remote repository."
"""What git says, with two more lines, of whatever ssh failed with."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for everything together, bytes of what git brings, its own files included, and bytes of memory that each
    of its processes may have: a few hundred bytes are a tree of a million million files."""

    seconds: float = 600
    size: int = 8 << 30
    memory: int = 2 << 30


@dataclass(frozen=True, slots=True)
class Repository:
    """What a source names. `url` has no user; `login` is `user:password`, for its host only."""

    url: str
    ref: str = ""
    """Empty for what the repository's HEAD is."""
    subdirectory: str = ""
    login: str = field(default="", repr=False)

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme


def parsed(source: str) -> Repository:
    """What `URL#REF:SUBDIR` names; `github.com/…` is short for https, `git@HOST:PATH` for ssh. InvalidRequest."""
    url, _, fragment = source.partition("#")
    ref, _, subdirectory = fragment.partition(":")
    if url.startswith("github.com/"):
        url = f"https://{url}"
    elif (short := re.fullmatch(r"(git@[A-Za-z0-9.-]+):(?!//)(.+)", url)) is not None:
        url = f"ssh://{short[1]}/{short[2]}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host = parts.hostname or ""
    if parts.scheme not in _PORTS or not _HOST.fullmatch(host) or not url.isprintable():
        raise InvalidRequest(f"{masked(source)!r} is no URL of a git repository", parameter="source")
    if ref and not _REF.fullmatch(ref):
        raise InvalidRequest(f"{ref[:100]!r} is no name of a branch, tag or commit", parameter="source")
    if "\0" in subdirectory or ".." in subdirectory.split("/"):
        raise InvalidRequest(f"the directory {subdirectory[:100]!r} leads out of the repository", parameter="source")
    shown = f"[{host}]" if ":" in host else host
    place = f"{shown}:{port}" if port is not None else shown
    login = ""
    if parts.username is not None:
        if parts.scheme == "ssh":
            place = f"{quote(unquote(parts.username))}@{place}"
            if not re.fullmatch(r"[A-Za-z0-9._][A-Za-z0-9._-]*", parts.username):
                raise InvalidRequest(f"{masked(source)!r} has no user of ssh in it", parameter="source")
        else:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    # Of a path that begins with a dash, git's helpers might make an option.
    if re.match(r"/*-", parts.path):
        raise InvalidRequest(f"the path in {masked(source)!r} begins with a dash", parameter="source")
    query = f"?{parts.query}" if parts.query else ""
    return Repository(f"{parts.scheme}://{place}{parts.path}{query}", ref, subdirectory, login)


@asynccontextmanager
async def checked_out(
    repository: Repository, directory: Path, policy: Policy, limits: Limits, transports: Sequence[str] = tuple(_PORTS)
) -> AsyncIterator[Path]:
    """The repository with its submodules, checked out in a new directory below `directory`, which the caller removes.

    NotPermitted for a transport that is none of `transports` and for an address that may not be connected to;
    FetchFailed with what git says; LimitExceeded, Stalled. Cancelled, git and whatever it started are ended first.
    """
    work = _Work(repository, directory / "repository", policy, transports, limits)
    async with tasks() as group:
        group.start_soon(work.watch)
        try:
            with anyio.fail_after(limits.seconds):
                await work.fetch()
        except TimeoutError:
            raise Stalled(f"cannot clone {repository.url}: it takes more than {limits.seconds:g} seconds") from None
        yield work.place
        group.cancel_scope.cancel()


class _NotShallow(FetchFailed):
    """The server has no other than whole histories."""


class _Work:
    def __init__(
        self, repository: Repository, place: Path, policy: Policy, transports: Sequence[str], limits: Limits
    ) -> None:
        self.place = place
        self._repository = repository
        self._policy, self._transports, self._limits = policy, transports, limits
        self._pinned: dict[str, str] = {}
        """Addresses by HOST:PORT."""
        self._instead: dict[str, str] = {}
        self._ssh: tuple[str, str] | None = None
        """The name of the only host that ssh goes to, as known_hosts has it, and the address."""
        self._modules = 0

    async def fetch(self) -> None:
        repository = self._repository
        await self._permit(repository.url)
        await self._git(None, "init", "-q", "--", str(self.place))
        await self._git(self.place, "remote", "add", "--", "origin", repository.url)
        wanted = repository.ref or "HEAD"
        fetch = ("fetch", "-q", "--no-tags", "--force")
        await self._shallow(self.place, (*fetch, "--depth=1", "--", "origin", wanted), (*fetch, "--", "origin", wanted))
        await self._git(self.place, "checkout", "-q", "--force", "--detach", "FETCH_HEAD", "--")
        await self._submodules(self.place, 0)

    async def _shallow(self, place: Path, shallow: Sequence[str], whole: Sequence[str]) -> None:
        """The first command; the second if the server cannot, which is one of nothing but files."""
        try:
            await self._git(place, *shallow)
        except _NotShallow:
            await self._git(place, *whole)

    async def _submodules(self, place: Path, depth: int) -> None:
        """One level after the other, so that each URL is looked at before git goes there."""
        modules = place / ".gitmodules"
        if modules.is_symlink() or not modules.is_file():
            return
        if depth == _DEPTH:
            raise LimitExceeded(
                f"cannot clone {self._repository.url}: its submodules are nested too deep", limit="depth"
            )
        await self._git(place, "submodule", "--quiet", "init")
        found = await self._git(place, "config", "--null", "--get-regexp", r"^submodule\..*\.url$", missing=True)
        urls = [entry.partition("\n")[2] for entry in found.split("\0") if entry]
        self._modules += len(urls)
        if self._modules > _MODULES:
            raise LimitExceeded(
                f"cannot clone {self._repository.url}: it has more than {_MODULES} submodules", limit="n"
            )
        for url in urls:
            await self._permit(url)
        update = ("submodule", "--quiet", "update", "--no-recommend-shallow", "--checkout")
        await self._shallow(place, (*update, "--depth=1"), update)
        listed = await self._git(place, "ls-files", "--stage", "-z")
        for line in listed.split("\0"):
            if line.startswith("160000 "):
                inside = place / line.partition("\t")[2]
                if not inside.is_symlink() and inside.is_dir():
                    await self._submodules(inside, depth + 1)

    async def _permit(self, url: str) -> None:
        """NotPermitted unless git may go there; from now on the host has the address that was looked at."""
        # What urlsplit overlooks or mends (white space, backslashes) git may read in another way.
        try:
            parts = urlsplit(url if _URL.fullmatch(url) else "")
            given = parts.port
        except ValueError:
            parts, given = urlsplit(""), None
        host, shown = _HOST.fullmatch(parts.hostname or ""), masked(_printable(url))
        if parts.scheme not in self._transports or host is None or re.match(r"/*-", parts.path):
            raise NotPermitted(
                f"cannot clone {shown}: only {', '.join(self._transports)} may be used, and no other forms"
            )
        assert parts.hostname is not None
        port = given or _PORTS[parts.scheme]
        try:
            found = await anyio.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise FetchFailed(f"cannot clone {shown}: {error.strerror or error}") from None
        allowed = [str(each[4][0]) for each in found if self._policy.permits(str(each[4][0]))]
        if len(allowed) < len(found) or not allowed:
            refused = next(str(each[4][0]) for each in found if str(each[4][0]) not in allowed)
            raise NotPermitted(
                f"cannot clone {shown}: {refused} is not a public address; the setting fetch_allow names others "
                "that may be connected to"
            )
        if parts.scheme in ("http", "https"):
            address = f"[{allowed[0]}]" if ":" in allowed[0] else allowed[0]
            self._pinned[f"{parts.hostname}:{port}"] = address
        elif parts.scheme == "git":
            self._instead[f"git://{parts.netloc}/"] = f"git://{allowed[0]}:{port}/"
        else:
            name = parts.hostname if port == _PORTS["ssh"] else f"[{parts.hostname}]:{port}"
            if self._ssh not in (None, (name, allowed[0])):
                raise Unsupported(f"cannot clone {shown}: only one host can be reached by ssh")
            self._ssh = name, allowed[0]

    def _environment(self) -> Mapping[str, str]:
        settings = [
            *_SETTINGS.items(),
            *(("http.curloptResolve", f"{host}:{address}") for host, address in self._pinned.items()),
            *((f"url.{address}.insteadOf", url) for url, address in self._instead.items()),
        ]
        if self._repository.login:
            parts = urlsplit(self._repository.url)
            encoded = base64.b64encode(self._repository.login.encode()).decode()
            settings.append((f"http.{parts.scheme}://{parts.netloc}/.extraHeader", f"Authorization: Basic {encoded}"))
        ssh = "ssh -oBatchMode=yes -oStrictHostKeyChecking=yes"
        if self._ssh is not None:
            name, address = self._ssh
            ssh += f" -oHostName={address} {shlex.quote(f'-oHostKeyAlias={name}')}"  # a shell takes brackets for more
        return {
            "PATH": _PATH,
            "HOME": os.devnull,
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": ":".join(self._transports),
            "GIT_SSH_COMMAND": ssh,
            "GIT_CONFIG_COUNT": str(len(settings)),
            **{f"GIT_CONFIG_KEY_{number}": name for number, (name, _) in enumerate(settings)},
            **{f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in enumerate(settings)},
        }

    async def _git(self, place: Path | None, *arguments: str, missing: bool = False) -> str:
        """What git writes. FetchFailed with its last words; with `missing`, that there is nothing is no failure."""
        process = await anyio.open_process(
            ["/bin/sh", "-c", _LIMITED, str(self._limits.memory >> 10), *arguments],
            cwd=place,
            env=self._environment(),
            stdin=-3,  # subprocess.DEVNULL
            start_new_session=True,
            umask=0o022,
        )
        output, complaints = bytearray(), bytearray()
        try:
            async with anyio.create_task_group() as collecting:
                assert process.stdout is not None and process.stderr is not None
                collecting.start_soon(_collected, process.stdout, output, 16 << 20)
                collecting.start_soon(_collected, process.stderr, complaints, 64 << 10)
            code = await process.wait()
        finally:
            # Whatever it started is of the same session: nothing of it outlives this.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            with anyio.CancelScope(shield=True):
                await process.aclose()
        if code and not (missing and code == 1):
            raise self._failure(code, complaints.decode("utf-8", "replace"))
        return output.decode("utf-8", "surrogateescape")

    def _failure(self, code: int, complaints: str) -> StreamerError:
        if code == _NOT_FOUND:
            return Unsupported("git is not installed: contexts from git need it")
        said = [line for line in complaints.splitlines() if line.strip()]
        what = f"cannot clone {self._repository.url}"
        if any("out of memory" in line.lower() for line in said if not line.startswith("remote:")):
            return LimitExceeded(f"{what}: git needs more than {self._limits.memory} bytes of memory", limit="memory")
        if self._ssh is not None and _UNREADABLE in said:
            said = said[: said.index(_UNREADABLE)]
            if any(re.search(r"\bssh: (command )?not found", line) for line in said):
                return Unsupported("ssh is not installed: repositories over ssh need it")
            for words, why in _SSH_SAYS.items():
                if any(words in line for line in said):
                    return NotPermitted(f"{what}: {why.format(host=self._ssh[0])}")
        told = masked(_printable(said[-1] if said else f"exit code {code}"))
        failure = _NotShallow if any("dumb http transport" in line for line in said) else FetchFailed
        return failure(f"{what}: git says {told[:_TOLD]!r}")

    async def watch(self) -> None:
        """LimitExceeded once there is too much, for as long as this is not cancelled."""
        while True:
            await anyio.sleep(_LOOK)
            if await threaded(lambda: _size(self.place)) > self._limits.size:
                raise LimitExceeded(
                    f"cannot clone {self._repository.url}: it has more than {self._limits.size} bytes", limit="size"
                )


def _printable(text: str) -> str:
    return "".join(each for each in text if each.isprintable())


async def _collected(stream: anyio.abc.ByteReceiveStream, into: bytearray, most: int) -> None:
    async for part in stream:
        if len(into) < most:
            into += part


def _size(place: Path) -> int:
    total = 0
    for above, _, names in os.walk(place):
        for name in names:
            try:
                total += os.lstat(os.path.join(above, name)).st_blocks * 512
            except OSError:
                pass  # git's temporary files come and go
    return total
