"""An ordinary user gets the same bytes from the layers as root does from a mount of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import overlays
from support.trees import Append, Dir, File, Link, Remove, Set, Symlink, make

pytestmark = pytest.mark.root

USER = 12345
PROGRAM = """
import anyio, hashlib, os, sys
from dataclasses import replace
from pathlib import Path
from support.stores import DirectoryStore
from streamer.errors import StreamerError
from streamer.export.container import plan_container, plan_rootfs
from streamer.export.diff import plan_diff
from streamer.export.exporter import exporter
from streamer.export.plan import Options
from streamer.mounts import features
from streamer.mounts.mount import Ids
from streamer.oci import config as configs
from streamer.stores.base import Image, Layer
from streamer.tar.entry import Profile

user, userxattr, *paths = sys.argv[1:]
box = DirectoryStore().add("box", *map(Path, paths))
ids = Ids(((0, 12345, 1),), ((0, 12345, 1),))
snapshot, parent = (replace(one, userxattr=userxattr == "True", ids=ids) for one in (box.snapshot, box.parent))
box = replace(box, snapshot=snapshot, parent=parent)
config = configs.for_rootfs("sha256:" + "0" * 64, "2026-01-01T00:00:00Z", "test")
layer = Layer("memory", config.diff_ids[0], config.diff_ids[0], parent, replace(parent, lowers=parent.lowers[1:]))
image = Image("memory", config, (), (layer,))

async def main(profile):
    plans = [plan_container(box, Options(profile=profile)), plan_rootfs(image, "image", Options(profile=profile))]
    plans.append(plan_container(box, Options(profile=profile, path=b"link/inner/../file")))
    plans.append(plan_diff(box, Options(profile=profile)))
    async with exporter() as exports:
        for plan in plans:
            digest, size = hashlib.sha256(), 0
            try:
                async with exports.open(plan) as stream:
                    async for chunk in stream:
                        digest.update(chunk)
                        size += len(chunk)
            except StreamerError as error:
                print(type(error).__name__)
            else:
                print(size, digest.hexdigest())

if user != "0":  # import everything first: the interpreter may lie where only root can read it
    output, sys.stdout = sys.stdout, open(os.devnull, "w")
    anyio.run(main, Profile.DOCKER)
    sys.stdout = output
    features._probed.clear()
    os.setgroups([])
    os.setresgid(int(user), int(user), int(user))
    os.setresuid(int(user), int(user), int(user))
for profile in Profile:
    anyio.run(main, profile)
"""


def exported(user: int, userxattr: bool, layers: list[Path]) -> list[str]:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", PROGRAM, str(user), str(userxattr), *map(str, layers)]
    done = subprocess.run(
        command, env={"PYTHONPATH": f"{root}:{root / 'tests'}"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    """Four layers of the user's, topmost first, with the marks of its own overlays."""
    for folder in [tmp_path, *tmp_path.parents][:-1]:
        folder.chmod(folder.stat().st_mode | 0o011)
    paths = [tmp_path / name for name in "3210"]
    for path in paths:
        path.mkdir()
    make(paths[3], Dir("a", Dir("inner", File("x")), File("file", "1"), File("gone")), Dir("o", File("old")), File("t"))
    steps = [
        [Append("a/file", "2"), Remove("a/gone"), File("long/" + "n" * 200, b"\1" * 300_000), Link("hard", "t")],
        [Remove("o"), Dir("o", File("new")), Symlink("link", "/a"), Set("a", mode=0o700)],
        [Remove("t"), Dir("t", File("t")), Remove("long"), File("a/inner/more", xattrs={"user.note": b"x"})],
    ]
    for number, items in enumerate(steps):
        with overlays.mounted(
            [*map(bytes, paths[3 - number :])], bytes(paths[2 - number]), options="userxattr"
        ) as merged:
            make(merged, *items)
    subprocess.run(["chown", "-Rh", f"{USER}:{USER}", *paths], check=True)
    return paths


def test_the_same_bytes(layers: list[Path]) -> None:
    mounted = exported(0, True, layers)
    assert len(set(mounted)) == 8, mounted
    assert exported(USER, True, layers) == mounted


def test_marks_that_only_root_sees(layers: list[Path]) -> None:
    """Never a tree in which the deleted is back."""
    assert exported(USER, False, layers) == ["NotPermitted"] * 8
