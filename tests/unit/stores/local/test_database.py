"""Transactions: all or nothing, also when cancelled; readers see what is committed; one file for several processes."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from streamer.database import Database, Duplicate
from streamer.stores.local import catalog
from streamer.stores.local.catalog import LayerRow
from streamer.stores.local.schema import MIGRATIONS

ROW = LayerRow("sha256:a", "sha256:a", None, 1024)


async def count(database: Database) -> int:
    async with database.read() as transaction:
        return len(await catalog.layers(transaction))


async def test_rolled_back_on_error_and_on_cancellation(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "x.db", MIGRATIONS) as database:
        with pytest.raises(ZeroDivisionError):
            async with database.write() as transaction:
                await catalog.add_layer(transaction, ROW)
                raise ZeroDivisionError
        with anyio.CancelScope() as scope:
            async with database.write() as transaction:
                await catalog.add_layer(transaction, ROW)
                scope.cancel()
                await anyio.sleep(1)
        assert await count(database) == 0
        async with database.write() as transaction:
            await catalog.add_layer(transaction, ROW)
            assert await count(database) == 0  # the reader does not see it yet
        assert await count(database) == 1
        with pytest.raises(Duplicate):
            async with database.write() as transaction:
                await catalog.add_layer(transaction, ROW)


async def test_cancelled_at_any_await(tmp_path: Path) -> None:
    """Whenever the cancellation comes, the connection is good for the next transaction."""
    async with Database.open(tmp_path / "x.db", MIGRATIONS) as database:
        for delay in range(30):
            with anyio.move_on_after(delay / 20_000):
                async with database.write() as transaction:
                    await catalog.add_layer(transaction, LayerRow(f"sha256:{delay}", "sha256:a", None, 1))
        async with database.write() as transaction:
            await transaction.run("DELETE FROM layers")
        assert await count(database) == 0


async def test_a_parent_must_be_there_at_the_end_of_the_transaction(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "x.db", MIGRATIONS) as database:
        with pytest.raises(Duplicate):
            async with database.write() as transaction:
                await catalog.add_layer(transaction, LayerRow("sha256:b", "sha256:b", "sha256:missing", 1))
        async with database.write() as transaction:
            await catalog.add_layer(transaction, LayerRow("sha256:b", "sha256:b", ROW.chain, 1))
            await catalog.add_layer(transaction, ROW)
        assert await count(database) == 2


async def test_migrations_run_once_and_survive_being_opened_at_once(tmp_path: Path) -> None:
    async def opened() -> None:
        async with Database.open(tmp_path / "x.db", MIGRATIONS) as database:
            async with database.read() as transaction:
                row = await transaction.one("PRAGMA user_version")
            assert row == (len(MIGRATIONS),)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(opened)
    await opened()
