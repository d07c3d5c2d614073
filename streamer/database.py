"""SQLite under the embedded store and the export jobs: the only module that knows `aiosqlite`.

One connection writes and one reads, so that a reader never sees what a transaction of the same process has not
committed yet. Several processes share one file (WAL, `busy_timeout`). Every failure of SQLite leaves as an error of
`streamer.errors`; only `Duplicate` (a uniqueness rule) is for callers to catch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import aiosqlite
import anyio

from streamer.errors import Busy, Conflict, NotPermitted, StorageFull, StoreDamaged, StreamerError, Unsupported

Row: TypeAlias = "tuple[Any, ...]"

BUSY_SECONDS = 30.0


class Duplicate(Conflict):
    """A row with that key is there already."""


class Transaction:
    """Statements inside one `BEGIN … COMMIT`; not to be kept beyond it."""

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    async def all(self, sql: str, *values: object) -> list[Row]:
        """Every row, in the statement's order."""
        with _translated(self._path):
            return [tuple(row) for row in await self._connection.execute_fetchall(sql, values)]

    async def one(self, sql: str, *values: object) -> Row | None:
        rows = await self.all(sql, *values)
        return rows[0] if rows else None

    async def run(self, sql: str, *values: object) -> int:
        """Executes a statement that changes rows; how many it changed."""
        with _translated(self._path):
            async with self._connection.execute(sql, values) as cursor:
                return cursor.rowcount


class Database:
    """An open file of SQLite. Made by `Database.open`, which closes both connections on every way out."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection, path: Path) -> None:
        self._path = path
        self._writer, self._writing = writer, anyio.Lock()
        self._reader, self._reading = reader, anyio.Lock()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path, migrations: Sequence[Sequence[str]]) -> AsyncIterator[Database]:
        """Creates the file where it is missing (0600) and migrates it: entry N takes it from `user_version` N to N + 1.
        Unsupported if a newer streamer wrote it."""
        with _translated(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):  # SQLite would wait at a FIFO
                    raise StoreDamaged(f"{path} cannot be opened as a database: it is no file")
            finally:
                os.close(fd)
        async with _connection(path) as writer, _connection(path) as reader:
            database = cls(writer, reader, path)
            await database._migrate(migrations)
            with _translated(path):
                await reader.execute("PRAGMA query_only = ON")
            yield database

    async def _migrate(self, migrations: Sequence[Sequence[str]]) -> None:
        async with self.write() as transaction:
            row = await transaction.one("PRAGMA user_version")
            version = row[0] if row else 0
            if version > len(migrations):
                raise Unsupported(
                    f"{self._path.name} was written by a newer streamer (it has version {version}, this one knows"
                    f" {len(migrations)}): use that version"
                )
            if version == 0 and await transaction.all("SELECT name FROM sqlite_master LIMIT 1"):
                raise StoreDamaged(f"{self._path} is a database of something else")
            for statements in migrations[version:]:
                for statement in statements:
                    await transaction.run(statement)
            if version < len(migrations):
                await transaction.run(f"PRAGMA user_version = {len(migrations)}")

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """A transaction that may change rows: committed when the block ends, rolled back when it raises."""
        async with self._writing, _transaction(self._writer, "BEGIN IMMEDIATE", self._path) as transaction:
            yield transaction

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """A transaction that sees one state of the database throughout."""
        async with self._reading, _transaction(self._reader, "BEGIN", self._path) as transaction:
            yield transaction


@contextlib.asynccontextmanager
async def _connection(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    # Shielded: a connection whose opening was abandoned would keep its thread for ever.
    with _translated(path), anyio.CancelScope(shield=True):
        connection = await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
    try:
        with _translated(path):
            # synchronous=FULL: a committed row survives a power cut, as the directory it names does.
            await _write_ahead(connection)
            for pragma in ("synchronous = FULL", "foreign_keys = ON"):
                await connection.execute_fetchall(f"PRAGMA {pragma}")
        yield connection
    finally:
        with anyio.CancelScope(shield=True):
            await connection.close()


async def _write_ahead(connection: aiosqlite.Connection) -> None:
    """Turns the journal to WAL. SQLite does not wait here as it does elsewhere: while another process opens the same
    new file it says at once that the file is locked, so the waiting is done by us."""
    with anyio.move_on_after(BUSY_SECONDS):
        while True:
            try:
                await connection.execute_fetchall("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            await anyio.sleep(0.02)
    await connection.execute_fetchall("PRAGMA journal_mode = WAL")


@contextlib.asynccontextmanager
async def _transaction(connection: aiosqlite.Connection, begin: str, path: Path) -> AsyncIterator[Transaction]:
    try:
        with _translated(path):
            await connection.execute_fetchall(begin)
        yield Transaction(connection, path)
        with _translated(path):
            await connection.execute_fetchall("COMMIT")
    except BaseException:
        # Always queued: after a cancellation BEGIN or COMMIT may still be running in SQLite's thread. If nothing is
        # left to roll back SQLite says so, and that is no failure.
        with anyio.CancelScope(shield=True), contextlib.suppress(sqlite3.Error):
            await connection.execute_fetchall("ROLLBACK")
        raise


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _as_ours(error, path) from error
    except PermissionError as error:
        raise NotPermitted(f"{path.name} cannot be opened: run streamer as its owner") from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise NotPermitted(f"{path} cannot be opened: its file system is read-only") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space is left for {path.name}") from error
        raise StoreDamaged(f"{path} cannot be opened as a database: {error.strerror}") from error


def _as_ours(error: sqlite3.Error, path: Path) -> StreamerError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_CONSTRAINT:
        return Duplicate(f"{path.name} refused a row: {error}")
    full = code == sqlite3.SQLITE_IOERR and _is_full(path)  # also of the memory that its connections share
    if code == sqlite3.SQLITE_FULL or full:
        return StorageFull(f"no space is left for {path.name}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(f"{path.name} was locked by another process for {BUSY_SECONDS:.0f} seconds", retry_after=5)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return NotPermitted(f"{path.name} cannot be written ({error}): run streamer as its owner")
    return StoreDamaged(f"{path.name} cannot be used: {error}")


def _is_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False
