"""Addresses to storages. Owns their connections, which are made when they are first needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.errors import InvalidRequest
from streamer.sinks.address import Address, Scheme
from streamer.sinks.base import Storage
from streamer.sinks.file import Files
from streamer.sinks.patience import Patience

if TYPE_CHECKING:
    from streamer.sinks.calls import Calls


@dataclass(frozen=True, slots=True)
class Access:
    """How storages are reached; everything else (endpoints, regions, credentials) the libraries find by themselves in
    the variables, files and services that each cloud has for them."""

    path_style: bool = False
    """Whether buckets of S3 are part of the path, as most of what is not Amazon's own wants it."""
    directories: Sequence[Path] | None = None
    """Below which files may be written; None allows all."""
    plain: bool = False
    """Whether endpoints of Google's and Azure's services that were set may be asked in plain HTTP."""
    patience: Patience = field(default_factory=Patience)


@asynccontextmanager
async def storages(access: Access) -> AsyncIterator[Storages]:
    """Storages for one process; leaving the block closes their connections."""
    async with AsyncExitStack() as stack:
        yield Storages(access, stack)


class Storages:
    """Made by `storages`."""

    def __init__(self, access: Access, stack: AsyncExitStack) -> None:
        self._access = access
        self._stack = stack
        self._calls: Calls | None = None
        self._made: dict[tuple[Scheme, str], Storage] = {}

    async def of(self, address: Address) -> Storage:
        """The storage of an address. InvalidRequest if what is needed to reach it is not set."""
        bucket = address.scheme, address.bucket
        made = self._made.get(bucket)
        if made is None:
            made = self._made[bucket] = await self._new(address)
        return made

    async def _new(self, address: Address) -> Storage:
        if address.scheme is Scheme.FILE:
            return Files(self._access.directories)
        # Large libraries, which nobody else should wait for.
        if address.scheme is Scheme.S3:
            from streamer.sinks.calls import calls
            from streamer.sinks.s3 import S3

            if self._calls is None:
                opened = calls(path_style=self._access.path_style, patience=self._access.patience)
                self._calls = await self._stack.enter_async_context(opened)
            return S3(self._calls)
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, MemoryStore

        from streamer.sinks.object_storage import Objects

        if address.scheme is Scheme.MEMORY:
            return Objects(MemoryStore(), self._access.patience)
        kind = GCSStore if address.scheme is Scheme.GS else AzureStore
        patience = self._access.patience
        try:
            return Objects(
                kind(
                    address.bucket,
                    client_options={
                        "allow_http": self._access.plain,
                        "connect_timeout": timedelta(seconds=patience.connect),
                        "timeout": timedelta(seconds=patience.limit(64 << 20)),
                    },
                    retry_config={
                        "max_retries": patience.tries - 1,
                        "backoff": {
                            "init_backoff": timedelta(seconds=patience.first_pause),
                            "max_backoff": timedelta(seconds=patience.longest_pause),
                            "base": 2,
                        },
                    },
                ),
                patience,
            )
        except (BaseError, ValueError) as error:
            said = str(error).strip().partition("\n")[0]
            raise InvalidRequest(f"cannot write {address}: {said}") from error
