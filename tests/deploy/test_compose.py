"""The compose file: accepted by the Compose Specification, and its SeaweedFS and its secrets taken for what they are:
an export ends in the bucket with the very flags and credentials that are in there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from support import confined, images
from support.confined import BOTH
from support.docker_roots import DockerRoot
from support.manifests import ROOT, program
from support.ports import ports

from streamer.settings import Settings

COMPOSE = ROOT / "deploy/compose"
TEXT = (COMPOSE / "compose.yaml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
NOT_FOUND = 3
"""How `streamer export` ends where there is no such bucket."""


def checked(text: str) -> None:
    compose_spec.compose_spec.PyCompose.from_yaml(text).validate()


def test_specification() -> None:
    checked(TEXT)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("condition: service_healthy", "condition: healthy"),
        ("read_only: true\n    environment", "readonly: true\n    environment"),
        ("networks: [front, storage]", "networks: [front, other]"),
        ("secrets: [tokens, aws]", "secrets: [tokens, other]"),
        ("stop_grace_period: 60s", "stop_grace_period: 60x"),
    ],
)
def test_mistakes_would_be_found(right: str, wrong: str) -> None:
    assert TEXT.count(right) == 1
    with pytest.raises(ValueError, match=r"."):
        checked(TEXT.replace(right, wrong))


def test_whole_in_itself() -> None:
    for service in FILE["services"].values():
        for volume in service["volumes"]:
            if volume["type"] == "volume":
                assert volume["source"] in FILE["volumes"]
    streamer = FILE["services"]["streamer"]
    assert (COMPOSE / streamer["build"]["context"] / streamer["build"]["dockerfile"]).is_file()
    for value in streamer["environment"].values():
        if value.startswith("/run/secrets/"):
            assert value.removeprefix("/run/secrets/") in streamer["secrets"]
    (bind,) = (volume for volume in streamer["volumes"] if volume["type"] == "bind")
    assert (bind["source"], bind["read_only"], bind["bind"]) == (bind["target"], True, {"propagation": "rslave"})


def test_no_privilege_more() -> None:
    streamer = FILE["services"]["streamer"]
    assert streamer["cap_drop"] == ["ALL"]
    assert [each.lower() for each in streamer["cap_add"]] == list(BOTH)
    assert streamer["read_only"] is True
    assert "no-new-privileges:true" in streamer["security_opt"]
    assert not {"privileged", "pid", "network_mode"} & streamer.keys()
    assert all(port.startswith("127.0.0.1:") for port in streamer["ports"])
    assert FILE["networks"]["storage"] == {"internal": True}
    assert FILE["services"]["seaweedfs"]["networks"] == ["storage"]
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    needed = defaults["drain_timeout"] + 2 * defaults["release_timeout"] + 5
    assert int(streamer["stop_grace_period"].removesuffix("s")) >= needed


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What secrets.sh makes."""
    shutil.copy(COMPOSE / "secrets.sh", tmp_path)
    command = " ".join(confined.streamer())
    made: list[dict[str, str]] = []
    for _ in range(2):
        done = subprocess.run(
            [tmp_path / "secrets.sh"],
            env={**confined.environment(), "STREAMER": command},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        made.append({each.name: each.read_text() for each in (tmp_path / "secrets").iterdir()})
    assert made[0] == made[1]  # the second time replaces nothing
    for each in (tmp_path / "secrets").iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    return tmp_path / "secrets"


def test_all_secrets_are_made(secrets: Path) -> None:
    named = {Path(each["file"]).name for each in FILE["secrets"].values()}
    assert {each.name for each in secrets.iterdir()} == named | {"token"}
    assert (secrets / "token").read_text().startswith("streamer_")


@pytest.fixture
def free() -> Iterator[list[int]]:
    with ports(8) as found:
        yield found


def test_the_bucket_takes_an_export(secrets: Path, free: list[int], tmp_path: Path) -> None:
    """SeaweedFS with the flags of the compose file, streamer with its environment: paths and ports apart."""
    weed = program("weed")
    seaweedfs, streamer = FILE["services"]["seaweedfs"], FILE["services"]["streamer"]
    moved = {
        "-dir=/data": f"-dir={tmp_path / 'objects'}",
        "-s3.port=8333": f"-s3.port={free[0]}",
        "-s3.config=/run/secrets/s3": f"-s3.config={secrets / 's3.json'}",
        "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
    }
    assert moved.keys() <= set(seaweedfs["command"])
    assert seaweedfs["entrypoint"] == ["weed"]
    (tmp_path / "objects").mkdir()
    # Of its own in a container, but not on the machine of the tests.
    further = [f"-{name}={port}" for name, port in zip(
        ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
         "s3.port.grpc"), free[1:], strict=True)]  # fmt: skip
    server = subprocess.Popen(
        [weed, *(moved.get(each, each) for each in seaweedfs["command"]), *further],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with ExitStack() as stack:
        stack.callback(server.wait, 60)
        stack.callback(server.kill)
        (health,) = (part for part in seaweedfs["healthcheck"]["test"] if part.startswith("http"))
        healthy(health.replace("8333", str(free[0])))
        environment = {
            name: value.replace("http://seaweedfs:8333", f"http://127.0.0.1:{free[0]}").replace(
                "/run/secrets/aws", str(secrets / "aws")
            )
            for name, value in streamer["environment"].items()
            if name.startswith("AWS_")
        }
        large = os.urandom(1 << 20) * 12  # several parts
        made = images.image(images.layer(images.file("large", large)), names=["a:1"])
        layout = tmp_path / "layout"
        layout.mkdir()
        images.unpack_to(images.oci(made), layout)
        mine = ("--store", f"it=oci-layout:{layout}")
        export = confined.streamer("export", "image", "a:1", *mine, "-o")
        outcomes = {}
        for destination, more in {
            "s3://exports/a.tar": {},
            "s3://other/a.tar": {},
            "s3://exports/b.tar": {"AWS_SHARED_CREDENTIALS_FILE": os.devnull},
        }.items():
            end = time.monotonic() + 90
            while True:
                done = subprocess.run(
                    [*export, destination],
                    env=confined.environment(**{**environment, "STREAMER_PART_SIZE": "5", **more}),
                    capture_output=True,
                    timeout=120,
                    check=False,
                )
                # Its bucket comes a moment after it says that it is healthy.
                if done.returncode != NOT_FOUND or time.monotonic() > end:
                    break
            outcomes[destination] = done.returncode
        assert outcomes == {"s3://exports/a.tar": 0, "s3://other/a.tar": 8, "s3://exports/b.tar": 8}


@pytest.mark.root
def test_streamer_starts_with_its_environment(secrets: Path, tmp_path: Path) -> None:
    """With another store and port. The token that was made lets in; none, or another, does not."""
    streamer = FILE["services"]["streamer"]
    made = images.image(images.layer(images.file("a", b"a")), names=["a:1"])
    store = DockerRoot(tmp_path / "docker").add(made)
    environment = streamer["environment"] | {
        "STREAMER_STORES": streamer["environment"]["STREAMER_STORES"].replace("/var/lib/docker", str(store.path)),
        "STREAMER_TOKENS": str(secrets / "tokens.toml"),
        "STREAMER_LISTEN": streamer["environment"]["STREAMER_LISTEN"].replace(":8080", ":0"),
        "STREAMER_STATE": str(tmp_path / "state"),
    }
    with confined.serving(streamer["command"], 0, BOTH, **environment) as (address,):
        url = f"http://127.0.0.1:{address.rpartition(':')[2]}/v1/images/a:1/archive"
        token = (secrets / "token").read_text().strip()
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.read()
        for headers in ({}, {"Authorization": f"Bearer {token}x"}):
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
            refused.value.close()


def healthy(url: str) -> None:
    end = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30):
                return
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.05)
