"""Whose files are: the same Dockerfile on the same base makes the same layers in an ordinary user's store as in root's.

On the disk of the former everything is the user's; what the image says is in the tars of its layers alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.confined import USER

pytestmark = pytest.mark.root

PROGRAM = """
import anyio, hashlib, io, json, os, sys, tarfile
from contextlib import closing
from pathlib import Path
import encodings.idna, streamer.mounts.kernel
from support import images
from support.images import directory, file, layer, link, opaque, symlink, whiteout
from streamer.build import contexts
from streamer.build.builder import Options
from streamer.build.building import build
from streamer.build.order import Order, names
from streamer.build.workshop import LocalWorkshop
from streamer.context.tree import Hashing
from streamer.errors import StreamerError
from streamer.export.exporter import exporter
from streamer.stores.local.store import LocalStore

user, place, *texts = sys.argv[1:]
CAPABLE = {"SCHILY.xattr.security.capability": "\\x01\\0\\0\\x02\\0\\x20" + "\\0" * 14}
BASE = images.image(
    layer(
        directory("./", mode=0o751, uid=5, gid=6),
        directory("var/", mode=0o555),
        directory("var/www/", mode=0o2750, uid=33, gid=34),
        directory("var/www/html/", mode=0o700, uid=33),
        directory("usr/"),
        directory("usr/lib/", uid=1),
        directory("usr/lib/below/", uid=6, gid=7, mode=0o1777),
        symlink("lib", "usr/lib", uid=3),
        directory("lib/inner/", mode=0o500, uid=2),
        file("lib/program", b"p", mode=0o4755, uid=7, gid=8),
        link("usr/lib/other", "lib/program", uid=1, mode=0o600),
        file("secret", b"s", mode=0o000, uid=7, gid=8),
        file("capable", b"c", mode=0o755, pax_headers=CAPABLE),
        file("replaced", b"r", uid=7),
        file("replaced", b"rr", uid=8, mode=0o2711),
        directory("hidden/", uid=9),
        directory("emptied/", uid=9),
        file("emptied/old", b"o", uid=9),
        directory("gone/", uid=9),
        file("plain", b"x"),
        directory("nobody/", mode=0o000, uid=4),
    ),
    layer(
        file("var/www/html/index", b"i", uid=33, gid=34),
        file("usr/lib/below/more", b"m", uid=10),
        whiteout("gone"),
        whiteout("hidden"),
        directory("hidden/", mode=0o711, uid=11),
        opaque("emptied"),
        directory("emptied/", mode=0o710, gid=12),
        file("lib/late", b"l", uid=12),
        symlink("plain", "nowhere", uid=13),
    ),
    layer(file("gone/new", b"n", mode=0o640, gid=14), directory("usr/", gid=15), file("empty", uid=16)),
    names=["base:1"],
)

async def main():
    place_ = Path(place)
    (place_ / "context").mkdir()
    (place_ / "context" / "x").write_text("x")
    (place_ / "context" / "x").chmod(0o644)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("in")
        info.size, info.uid = 1, 20
        archive.addfile(info, io.BytesIO(b"i"))
    (place_ / "context" / "x.tar").write_bytes(made.getvalue())
    os.utime(place_ / "context" / "x", (1, 1))
    async with LocalStore.open(place_ / "state") as store, exporter() as exports:
        await store.import_archive(images.Bytes(images.pack(images.docker(BASE))))
        for text in texts:
            told = []
            try:
                opened = contexts.entered(lambda: contexts.of_directory(
                    os.fsencode(place_ / "context"), text.encode(), Hashing.DOCKER_24))
                async with opened as given:
                    workshop = LocalWorkshop(store, exports.mounts, given.tree, Hashing.DOCKER_24)
                    async def say(line):
                        pass
                    image = await build(Order(names([])), given.dockerfile, given.name, workshop=workshop,
                        look_up=store.image, naming=store, say=say)
                told = [step.get("created_by") for step in image.config.value["history"]]
                for each in image.layers:
                    with closing(each.assemble()) as chunks:
                        data = b"".join(chunks)
                    untimed = bytearray(data)
                    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                        for m in archive:
                            told.append([m.name, m.type.decode(), oct(m.mode), m.uid, m.gid, m.size, m.linkname])
                            untimed[m.offset_data - 376 : m.offset_data - 356] = bytes(20)  # mtime and checksum
                    told.append(hashlib.sha256(untimed).hexdigest())
            except StreamerError as error:
                told.append([type(error).__name__, str(error)])
            assert exports.mounts.statistics().leases == 0
            print(json.dumps([text, told]))

if user != "0":
    os.setgroups([])
    os.setresgid(int(user), int(user), int(user))
    os.setresuid(int(user), int(user), int(user))
anyio.run(main)
"""

BUILDS = {
    "into a directory of somebody's": "FROM base:1\nCOPY x /var/www/html/\n",
    "below a new directory": "FROM base:1\nCOPY x /var/www/new/\n",
    "through a link": "FROM base:1\nCOPY x /lib/inner/\n",
    "into one that a later layer implies": "FROM base:1\nCOPY x /usr/lib/below/\n",
    "into one that nobody may enter": "FROM base:1\nCOPY x /nobody/\n",
    "into one that came again": "FROM base:1\nCOPY x /hidden/\nCOPY x /emptied/\nCOPY x /gone/\n",
    "an archive": "FROM base:1\nADD x.tar /var/www/\n",
    "a working directory": "FROM base:1\nWORKDIR /var/www/n/m\nWORKDIR /lib/inner/n\n",
    "onto one's own layer": "FROM base:1\nCOPY --chown=33:34 --chmod=4755 x /n/x\nCOPY x /n/y\n",
    "a directory of an image": "FROM base:1 AS a\nFROM scratch\nCOPY --from=a /var /v/\n",
    "a program of somebody's": "FROM base:1 AS a\nFROM scratch\nCOPY --from=a /lib/program /lib/other /\n",
    "files of an image": "FROM scratch\nCOPY --from=base:1 /secret /capable /replaced /empty /\n",
    "what a link leads to": "FROM scratch\nCOPY --from=base:1 /lib /l\n",
    "a whole image": "FROM scratch\nCOPY --from=base:1 / /\n",
    "a whole image that becomes somebody's": "FROM scratch\nCOPY --from=base:1 --chown=1:2 / /\n",
    "wildcards": "FROM scratch\nCOPY --from=base:1 /s* /usr/*/p* /x/\n",
    "an earlier stage": "FROM base:1 AS a\nCOPY --chown=5 x /n/\nCOPY --chown=6 x /n/m/\n"
    "FROM base:1\nCOPY --from=a /n /n/\n",
}
"""With a base of three layers, so that nothing would do without a mount if the layers were not read one by one."""


def built(place: Path, user: int) -> dict[str, list[object]]:
    place.mkdir()
    os.chown(place, user, user)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(user), str(place), *BUILDS.values()],
        env={"PYTHONPATH": f"{root}:{root / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, list[object]], dict[str, list[object]]]:
    # Not where pytest has its directories: it closes them to others whenever another run of it begins.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o711)
        return built(Path(place, "root"), 0), built(Path(place, "user"), USER)


@pytest.mark.parametrize("name", BUILDS)
def test_the_same_layers_as_in_a_store_of_root(
    both: tuple[dict[str, list[object]], dict[str, list[object]]], name: str
) -> None:
    of_root, of_user = (each[BUILDS[name]] for each in both)
    assert of_user == of_root
    assert len(of_root) > len(BUILDS[name].splitlines()) - 1, "something was built"
