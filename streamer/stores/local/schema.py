"""The tables of `streamer.db`, as migrations: entry N takes a database from `user_version` N to N + 1.

A migration that was released is never edited; a change of the schema is a new entry at the end. The database holds
metadata only. Order of writing (see `store.py`): a directory is complete and durable before its row is committed, and
a row is gone before its directory is moved away, so whatever a row names is there.
"""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Who wrote the store: 'trusted' (root, real owners) or 'UID:GID' (an ordinary user, user.overlay.* marks).
        "CREATE TABLE properties (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        # One row per chain ID; `parent` is the chain ID below it, `size` the length of the tar in bytes.
        """
        CREATE TABLE layers (
            chain TEXT PRIMARY KEY,
            diff TEXT NOT NULL,
            parent TEXT REFERENCES layers (chain) DEFERRABLE INITIALLY DEFERRED,
            size INTEGER NOT NULL
        )
        """,
        "CREATE INDEX layers_by_diff ON layers (diff)",
        "CREATE INDEX layers_by_parent ON layers (parent)",
        # A configuration outlives its image while a container made from it is there.
        """
        CREATE TABLE configs (
            id TEXT PRIMARY KEY,
            data BLOB NOT NULL,
            top TEXT REFERENCES layers (chain) DEFERRABLE INITIALLY DEFERRED
        )
        """,
        """
        CREATE TABLE images (
            id TEXT PRIMARY KEY REFERENCES configs (id) DEFERRABLE INITIALLY DEFERRED
        )
        """,
        """
        CREATE TABLE names (
            repository TEXT NOT NULL,
            tag TEXT NOT NULL,
            image TEXT NOT NULL REFERENCES images (id) DEFERRABLE INITIALLY DEFERRED,
            PRIMARY KEY (repository, tag)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX names_by_image ON names (image)",
        # `mounted` is not used any more: the kernel's own table tells where a container is mounted.
        """
        CREATE TABLE containers (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            config TEXT NOT NULL REFERENCES configs (id) DEFERRABLE INITIALLY DEFERRED,
            image_name TEXT NOT NULL,
            created TEXT NOT NULL,
            mounted BLOB
        )
        """,
        "CREATE INDEX containers_by_config ON containers (config)",
    ),
    (
        # Images that were made on another one, or on nothing, by an instruction: `parent` is the image below, while it
        # is there.
        """
        CREATE TABLE steps (
            image TEXT PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
            parent TEXT REFERENCES images (id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED
        )
        """,
        "CREATE INDEX steps_by_parent ON steps (parent)",
        # The build cache: `key` is a digest over all that the image was made from.
        """
        CREATE TABLE cache (
            key TEXT PRIMARY KEY,
            image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
        ) WITHOUT ROWID
        """,
        "CREATE INDEX cache_by_image ON cache (image)",
        # Files that ADD fetched: `key` is a digest of the URL and of how it was hashed.
        "CREATE TABLE fetched (key TEXT PRIMARY KEY, etag TEXT NOT NULL, name BLOB NOT NULL, hash TEXT NOT NULL)",
    ),
)
