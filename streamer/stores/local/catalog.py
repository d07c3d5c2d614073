"""What the database knows, as rows: the statements of the store, each inside a transaction of the caller."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.database import Row, Transaction
from streamer.errors import Conflict
from streamer.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class LayerRow:
    """`parent` is the chain ID below, None for a base layer; `size` the length of the layer's tar."""

    chain: str
    diff: str
    parent: str | None
    size: int


@dataclass(frozen=True, slots=True)
class ImageRow:
    """`data` is the configuration as it came, `layers` base first, `names` sorted."""

    id: str
    data: bytes
    names: tuple[Reference, ...]
    layers: tuple[LayerRow, ...]


@dataclass(frozen=True, slots=True)
class FetchedRow:
    """One version of a file from a URL, as ADD knows it."""

    etag: str
    name: bytes
    hash: str


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """`layers` are those of the image, base first."""

    id: str
    name: str
    config: str
    data: bytes
    image_name: str
    created: str
    layers: tuple[LayerRow, ...]


async def read_property(transaction: Transaction, name: str) -> str | None:
    row = await transaction.one("SELECT value FROM properties WHERE name = ?", name)
    return row[0] if row else None


async def write_property(transaction: Transaction, name: str, value: str) -> None:
    await transaction.run("INSERT INTO properties VALUES (?, ?)", name, value)


# Layers


async def layers_below(transaction: Transaction, top: str | None) -> tuple[LayerRow, ...]:
    """The layer `top` and everything below it, base first."""
    rows = await transaction.all(
        """
        WITH RECURSIVE below (chain, diff, parent, size, depth) AS (
            SELECT chain, diff, parent, size, 0 FROM layers WHERE chain = ?
            UNION ALL
            SELECT layers.chain, layers.diff, layers.parent, layers.size, depth + 1
            FROM layers JOIN below ON layers.chain = below.parent
        )
        SELECT chain, diff, parent, size FROM below ORDER BY depth DESC
        """,
        top,
    )
    return tuple(LayerRow(*row) for row in rows)


async def layers(transaction: Transaction) -> list[LayerRow]:
    rows = await transaction.all("SELECT chain, diff, parent, size FROM layers ORDER BY chain")
    return [LayerRow(*row) for row in rows]


async def stacks(transaction: Transaction) -> list[tuple[LayerRow, ...]]:
    """Every layer (sorted by chain ID) as the last of what stands below it, base first."""
    rows = {row.chain: row for row in await layers(transaction)}
    found: dict[str | None, tuple[LayerRow, ...]] = {None: ()}
    for top in rows:
        above: list[LayerRow] = []
        chain: str | None = top
        while chain is not None and chain not in found:
            above.append(rows[chain])
            chain = rows[chain].parent
        for row in reversed(above):
            found[row.chain] = (*found[row.parent], row)
    return [found[chain] for chain in rows]


async def layer(transaction: Transaction, chain: str) -> LayerRow | None:
    row = await transaction.one("SELECT chain, diff, parent, size FROM layers WHERE chain = ?", chain)
    return LayerRow(*row) if row else None


async def layers_like(transaction: Transaction, column: str, prefix: str) -> list[LayerRow]:
    """Layers whose chain ID or diff ID begins with `prefix`, at most ten."""
    assert column in ("chain", "diff")
    rows = await transaction.all(
        f"SELECT chain, diff, parent, size FROM layers WHERE {column} >= ? AND {column} < ? ORDER BY {column} LIMIT 10",
        prefix,
        prefix + "g",
    )
    return [LayerRow(*row) for row in rows]


async def add_layer(transaction: Transaction, row: LayerRow) -> None:
    await transaction.run("INSERT INTO layers VALUES (?, ?, ?, ?)", row.chain, row.diff, row.parent, row.size)


async def unreferenced_layers(transaction: Transaction) -> list[LayerRow]:
    """Layers that no image and no container stands on, each before its parent."""
    rows = await transaction.all(
        """
        WITH RECURSIVE live (chain) AS (
            SELECT top FROM configs WHERE top IS NOT NULL
            UNION
            SELECT layers.parent FROM layers JOIN live ON layers.chain = live.chain WHERE layers.parent IS NOT NULL
        ), dead (chain, diff, parent, size, height) AS (
            SELECT chain, diff, parent, size, 0 FROM layers
            WHERE chain NOT IN live AND chain NOT IN (SELECT parent FROM layers WHERE parent IS NOT NULL)
            UNION
            SELECT layers.chain, layers.diff, layers.parent, layers.size, height + 1
            FROM layers JOIN dead ON layers.chain = dead.parent WHERE layers.chain NOT IN live
        )
        SELECT chain, diff, parent, size FROM dead GROUP BY chain ORDER BY max(height)
        """
    )
    return [LayerRow(*row) for row in rows]


async def has_children(transaction: Transaction, chain: str) -> bool:
    return await transaction.one("SELECT 1 FROM layers WHERE parent = ? LIMIT 1", chain) is not None


async def forget_layer(transaction: Transaction, chain: str) -> None:
    await transaction.run("DELETE FROM layers WHERE chain = ?", chain)


# Images

_IMAGE = "SELECT images.id, configs.data, configs.top FROM images JOIN configs ON configs.id = images.id"


async def _image(transaction: Transaction, row: Row) -> ImageRow:
    names = await transaction.all("SELECT repository, tag FROM names WHERE image = ? ORDER BY repository, tag", row[0])
    return ImageRow(row[0], row[1], tuple(Reference(*name) for name in names), await layers_below(transaction, row[2]))


async def images(transaction: Transaction) -> list[ImageRow]:
    """Every image but those that are only a step to another one: without a name, and built on."""
    rows = await transaction.all(
        f"""
        {_IMAGE} WHERE EXISTS (SELECT 1 FROM names WHERE image = images.id)
            OR NOT EXISTS (SELECT 1 FROM steps WHERE parent = images.id)
        ORDER BY images.id
        """
    )
    return [await _image(transaction, row) for row in rows]


async def steps(transaction: Transaction) -> list[ImageRow]:
    """The images that `images` leaves out."""
    rows = await transaction.all(
        f"""
        {_IMAGE} WHERE NOT EXISTS (SELECT 1 FROM names WHERE image = images.id)
            AND EXISTS (SELECT 1 FROM steps WHERE parent = images.id)
        ORDER BY images.id
        """
    )
    return [await _image(transaction, row) for row in rows]


async def unneeded_images(transaction: Transaction) -> list[str]:
    """IDs of images without a name that no container uses, and on which nothing was made that has a name or is used."""
    rows = await transaction.all(
        """
        WITH RECURSIVE needed (id) AS (
            SELECT image FROM names
            UNION SELECT config FROM containers
            UNION SELECT steps.parent FROM steps JOIN needed ON steps.image = needed.id WHERE steps.parent IS NOT NULL
        )
        SELECT id FROM images WHERE id NOT IN (SELECT id FROM needed) ORDER BY id
        """
    )
    return [row[0] for row in rows]


async def image(transaction: Transaction, identity: str) -> ImageRow | None:
    row = await transaction.one(f"{_IMAGE} WHERE images.id = ?", identity)
    return await _image(transaction, row) if row else None


async def image_named(transaction: Transaction, repository: str, tag: str) -> str | None:
    """The ID of the image with that name."""
    row = await transaction.one("SELECT image FROM names WHERE repository = ? AND tag = ?", repository, tag)
    return row[0] if row else None


async def images_like(transaction: Transaction, prefix: str) -> list[str]:
    """IDs that begin with `prefix`, at most ten."""
    rows = await transaction.all(
        "SELECT id FROM images WHERE id >= ? AND id < ? ORDER BY id LIMIT 10", prefix, prefix + "g"
    )
    return [row[0] for row in rows]


async def tags(transaction: Transaction, repository: str) -> list[tuple[str, str]]:
    """(tag, image ID) of a repository, sorted by tag."""
    rows = await transaction.all("SELECT tag, image FROM names WHERE repository = ? ORDER BY tag", repository)
    return [(row[0], row[1]) for row in rows]


async def add_image(transaction: Transaction, identity: str, data: bytes, top: str | None) -> None:
    """Adds the image unless it is there."""
    await transaction.run("INSERT INTO configs VALUES (?, ?, ?) ON CONFLICT DO NOTHING", identity, data, top)
    await transaction.run("INSERT INTO images VALUES (?) ON CONFLICT DO NOTHING", identity)


async def point_name(transaction: Transaction, name: Reference, identity: str) -> str | None:
    """Lets the name mean that image; the ID of the other image that had it, None if nobody had."""
    assert name.tag is not None
    before = await image_named(transaction, name.repository, name.tag)
    await transaction.run(
        "INSERT INTO names VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET image = excluded.image",
        name.repository,
        name.tag,
        identity,
    )
    return before if before != identity else None


async def forget_name(transaction: Transaction, name: Reference) -> None:
    await transaction.run("DELETE FROM names WHERE repository = ? AND tag = ?", name.repository, name.tag)


async def forget_image(transaction: Transaction, identity: str) -> None:
    """Removes the image and its names; its configuration stays while a container needs it."""
    await transaction.run("DELETE FROM names WHERE image = ?", identity)
    await transaction.run("DELETE FROM images WHERE id = ?", identity)
    await forget_config(transaction, identity)


async def add_step(transaction: Transaction, image: str, parent: str | None, key: str | None) -> None:
    """Notes what an image was made on, and, with a key, that it is found in the build cache."""
    await transaction.run("INSERT INTO steps VALUES (?, ?) ON CONFLICT DO NOTHING", image, parent)
    if key is not None:
        await transaction.run(
            "INSERT INTO cache VALUES (?, ?) ON CONFLICT DO UPDATE SET image = excluded.image", key, image
        )


async def cached(transaction: Transaction, key: str) -> ImageRow | None:
    """The image that was made under this key."""
    row = await transaction.one("SELECT image FROM cache WHERE key = ?", key)
    return await image(transaction, row[0]) if row else None


async def fetched(transaction: Transaction, key: str) -> FetchedRow | None:
    """The version of a file from a URL that was fetched last."""
    row = await transaction.one("SELECT etag, name, hash FROM fetched WHERE key = ?", key)
    return FetchedRow(*row) if row else None


async def note_fetched(transaction: Transaction, key: str, row: FetchedRow) -> None:
    await transaction.run("INSERT OR REPLACE INTO fetched VALUES (?, ?, ?, ?)", key, row.etag, row.name, row.hash)


async def forget_fetched(transaction: Transaction) -> None:
    """Files from URLs are fetched anew from now on."""
    await transaction.run("DELETE FROM fetched")


async def step_below(transaction: Transaction, image: str) -> str | None:
    """The image that this one was made on, if that is itself no more than a step: made on another one, without a name,
    and needed by no other image and no container."""
    row = await transaction.one(
        """
        SELECT below.image FROM steps JOIN steps AS below ON below.image = steps.parent
        WHERE steps.image = ?1
            AND NOT EXISTS (SELECT 1 FROM names WHERE image = below.image)
            AND NOT EXISTS (SELECT 1 FROM containers WHERE config = below.image)
            AND NOT EXISTS (SELECT 1 FROM steps AS other WHERE other.parent = below.image AND other.image <> ?1)
        """,
        image,
    )
    return row[0] if row else None


async def forget_config(transaction: Transaction, identity: str) -> None:
    """Removes a configuration that neither an image nor a container uses."""
    await transaction.run(
        """
        DELETE FROM configs WHERE id = ?1
            AND NOT EXISTS (SELECT 1 FROM images WHERE id = ?1)
            AND NOT EXISTS (SELECT 1 FROM containers WHERE config = ?1)
        """,
        identity,
    )


# Containers

_CONTAINER = """
    SELECT containers.id, name, config, data, image_name, created, configs.top
    FROM containers JOIN configs ON configs.id = containers.config
"""


async def _container(transaction: Transaction, row: Row) -> ContainerRow:
    identity, name, config, data, image_name, created, top = row
    layers = await layers_below(transaction, top)
    return ContainerRow(identity, name, config, data, image_name, created, layers)


async def containers(transaction: Transaction) -> list[ContainerRow]:
    rows = await transaction.all(f"{_CONTAINER} ORDER BY name")
    return [await _container(transaction, row) for row in rows]


async def container(transaction: Transaction, column: str, value: str) -> ContainerRow | None:
    assert column in ("id", "name")
    row = await transaction.one(f"{_CONTAINER} WHERE containers.{column} = ?", value)
    return await _container(transaction, row) if row else None


async def containers_like(transaction: Transaction, prefix: str) -> list[str]:
    """IDs that begin with `prefix`, at most ten."""
    rows = await transaction.all(
        "SELECT id FROM containers WHERE id >= ? AND id < ? ORDER BY id LIMIT 10", prefix, prefix + "g"
    )
    return [row[0] for row in rows]


async def containers_of(transaction: Transaction, image: str) -> list[str]:
    """Names of the containers made from an image."""
    return [
        row[0] for row in await transaction.all("SELECT name FROM containers WHERE config = ? ORDER BY name", image)
    ]


async def add_container(transaction: Transaction, row: ContainerRow) -> None:
    """Conflict if the name is taken."""
    if await container(transaction, "name", row.name) is not None:
        raise Conflict(f"a container named {row.name!r} exists already: remove it or choose another name")
    await transaction.run(
        "INSERT INTO containers (id, name, config, image_name, created) VALUES (?, ?, ?, ?, ?)",
        row.id,
        row.name,
        row.config,
        row.image_name,
        row.created,
    )


async def forget_container(transaction: Transaction, identity: str, config: str) -> None:
    await transaction.run("DELETE FROM containers WHERE id = ?", identity)
    await forget_config(transaction, config)
