"""The tables of `jobs.db`, as migrations: entry N takes a database from `user_version` N to N + 1.

A migration that was released is never edited; a change of the schema is a new entry at the end.
"""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # `number` is the order of submission. `wanted` is JSON (job.Order); `place` what shares a queue. `upload`,
        # `etag` and `step` are of the upload under way; `size` and `digest` are there once every part is.
        """
        CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            key TEXT UNIQUE,
            wanted TEXT NOT NULL,
            destination TEXT NOT NULL,
            place TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
            created REAL NOT NULL,
            ended REAL,
            attempts INTEGER NOT NULL DEFAULT 0,
            done INTEGER NOT NULL DEFAULT 0,
            total INTEGER,
            upload TEXT,
            etag TEXT,
            step INTEGER,
            size INTEGER,
            digest TEXT,
            object TEXT,
            code TEXT,
            detail TEXT
        )
        """,
        "CREATE INDEX jobs_by_state ON jobs (state, number)",
        """
        CREATE TABLE parts (
            job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            number INTEGER NOT NULL,
            size INTEGER NOT NULL,
            etag TEXT NOT NULL,
            md5 TEXT NOT NULL,
            PRIMARY KEY (job, number)
        ) WITHOUT ROWID
        """,
    ),
    # Parts have other checksums as well.
    ("ALTER TABLE parts RENAME COLUMN md5 TO checksum", "UPDATE parts SET checksum = 'md5:' || checksum"),
    # When an upload was asked for whose ID has not arrived yet.
    ("ALTER TABLE jobs ADD COLUMN asked REAL",),
)
