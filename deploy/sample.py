"""`make run`: an embedded store with something in it, served, and the lines to try it with.

On the first start it imports an image of two layers and creates a container in which one file was added, one changed
and one deleted. Everything here goes through the same doors as any other image; only the container's changes are
written straight into its upper directory, so that an ordinary user, who may not mount, sees them as well.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import anyio

from streamer.errors import NotFound, StreamerError
from streamer.service import serve, service
from streamer.settings import load

IMAGE = "sample:latest"
CONTAINER = "demo"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    arguments = parser.parse_args()
    settings = load(state=arguments.state.absolute(), listen=arguments.listen, discover=False, log_level="warning")
    try:
        return anyio.run(run, settings)
    except StreamerError as error:
        print(f"streamer: {error}", file=sys.stderr)
        if error.code == "conflict":
            print("choose another address: STREAMER_LISTEN=127.0.0.1:9000 make run", file=sys.stderr)
        return 1


async def run(settings) -> int:  # type: ignore[no-untyped-def]
    async with service(settings) as opened:
        try:
            await opened.local.container(CONTAINER)
        except NotFound:
            await opened.local.import_archive(io.BytesIO(archive()), name=None)
            container = await opened.local.create(IMAGE, CONTAINER)
            change(container.snapshot.upper)
            print(f"made a sample image and a container under {settings.state}")
        layers = (await opened.local.image(IMAGE)).layers
    return await serve(settings, ready=lambda addresses: announce(addresses[0], layers[0].diff_id))


def announce(address: str, layer: str) -> None:
    """The lines to paste. `address` is the first one served."""
    curl, base = "curl -sSf", address
    if address.startswith("unix:"):
        curl, base = f"curl -sSf --unix-socket {address.removeprefix('unix:')}", "http://localhost"
    print(f"\nserving on {address}; try, in another terminal:\n")
    lines = [
        ("what changed in the container", f"{curl} {base}/v1/containers/{CONTAINER}/changes"),
        ("its changes as a layer", f"{curl} {base}/v1/containers/{CONTAINER}/diff | tar -tv"),
        ("one layer, byte for byte", f"{curl} {base}/v1/layers/{layer}/archive | tar -tv"),
        ("the saved image", f"{curl} {base}/v1/images/{IMAGE}/archive | tar -tv"),
        ("the whole container", f"{curl} {base}/v1/containers/{CONTAINER}/archive | tar -tv"),
        ("the same, compressed", f"{curl} '{base}/v1/containers/{CONTAINER}/archive?compression=zstd' -o demo.tar.zst"),
        ("the image's file system", f"{curl} {base}/v1/images/{IMAGE}/rootfs | tar -tv"),
    ]
    for title, line in lines:
        print(f"  # {title}\n  {line}\n")
    print("Ctrl-C ends the server.", flush=True)


def change(upper: bytes | None) -> None:
    """One file added, one changed, one deleted, as an overlay would have written it."""
    assert upper is not None
    root = Path(os.fsdecode(upper))
    (root / "etc").mkdir(mode=0o755)
    (root / "etc/motd").write_text("This line was changed in the container.\n")
    (root / "srv").mkdir(mode=0o755)
    (root / "srv/added.txt").write_text("This file was added in the container.\n")
    os.mknod(root / "etc/obsolete.conf", 0o600 | 0o020000, os.makedev(0, 0))  # a whiteout: any user may make one


def archive() -> bytes:
    """A docker-archive of one image with two small layers, always the same bytes."""
    layers = [
        layer(
            {
                "etc": None,
                "etc/hostname": b"sample\n",
                "etc/motd": b"Welcome.\n",
                "etc/obsolete.conf": b"retired = true\n",
                "usr": None,
                "usr/share": None,
                "usr/share/words": b"".join(b"word %d\n" % number for number in range(20_000)),
            }
        ),
        layer({"opt": None, "opt/app": None, "opt/app/run": b"#!/bin/sh\necho hello\n", "etc": None}),
    ]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Cmd": ["/opt/app/run"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]},
        }
    ).encode()
    members = {f"{hashlib.sha256(config).hexdigest()}.json": config}
    members |= {f"{number}/layer.tar": data for number, data in enumerate(layers)}
    manifest = [
        {"Config": next(iter(members)), "RepoTags": [IMAGE], "Layers": [f"{n}/layer.tar" for n in range(len(layers))]}
    ]
    return layer({"manifest.json": json.dumps(manifest).encode(), **members})


def layer(files: dict[str, bytes | None]) -> bytes:
    """A tar of files; None makes a directory. Times are fixed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.mtime = 1_767_225_600
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            else:
                info.size, info.mode = len(data), 0o755 if name.endswith("/run") else 0o644
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
