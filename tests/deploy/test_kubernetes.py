"""The manifests: accepted by Kubernetes' own schemas, whole in themselves, no privilege more than said, and settings
with which streamer really starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from support import certificates, confined, images
from support.confined import BOTH, ROOT
from support.docker_roots import DockerRoot
from support.manifests import KUBERNETES, documents, pods, streamer, variables

from streamer.settings import Settings

DIRECTORIES = ("node", "node-cri-o", "example")
VERSIONS = ("1.33", "1.37")
"""The oldest and the newest that the manifests are for."""

SERVICE_MONITOR = {
    # Of the custom resource as the Prometheus Operator defines it, what is used here, and nothing else.
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "spec": {
            "type": "object",
            "required": ["selector", "endpoints"],
            "additionalProperties": False,
            "properties": {
                "jobLabel": {"type": "string"},
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["matchLabels"],
                    "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
                },
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string", "pattern": "^/"},
                            "scheme": {"enum": ["http", "https"]},
                            "interval": {"type": "string", "pattern": "^[0-9]+s$"},
                            "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+s$"},
                            "authorization": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {"credentials": {"$ref": "#/definitions/key"}},
                            },
                            "tlsConfig": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {
                                    "ca": {"type": "object", "properties": {"secret": {"$ref": "#/definitions/key"}}},
                                    "serverName": {"type": "string"},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
    "definitions": {
        "key": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "key"],
            "properties": {"name": {"type": "string"}, "key": {"type": "string"}},
        }
    },
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("directory", DIRECTORIES)
def test_schemas(directory: str, version: str) -> None:
    made = documents(directory)
    assert made
    for each in made:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_schemas_would_find_a_mistake() -> None:
    daemonset = next(each for each in documents("node") if each["kind"] == "DaemonSet")
    daemonset["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(daemonset, VERSIONS[-1], strict=True)


def test_the_monitor_selects_the_service() -> None:
    (monitor,) = documents("monitoring")
    jsonschema.validate(monitor, SERVICE_MONITOR)
    selected = [each for each in documents("node") if each["kind"] == "Service" and _has(each, monitor)]
    assert [each["metadata"]["name"] for each in selected] == ["streamer-nodes"]
    (service,), (endpoint,) = selected, monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "streamer"  # the job of deploy/alerts.yaml
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    (pod,) = pods("node")
    assert endpoint["tlsConfig"]["serverName"] in variables(streamer(pod))["STREAMER_HOSTS"].split(",")


def _has(service: dict[str, Any], monitor: dict[str, Any]) -> bool:
    return monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()


ALL = [pytest.param(pod, id=f"{name}-{number}") for name in DIRECTORIES for number, pod in enumerate(pods(name))]


@pytest.mark.parametrize("pod", ALL)
def test_whole_in_itself(pod: dict[str, Any]) -> None:
    container = streamer(pod)
    volumes = [each["name"] for each in pod["volumes"]]
    mounted = [each["name"] for each in container["volumeMounts"]]
    assert sorted(mounted) == sorted(volumes)
    assert len({each["mountPath"] for each in container["volumeMounts"]}) == len(mounted)
    for each in pod["volumes"]:
        if "hostPath" in each:
            (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == each["name"])
            assert mount["mountPath"] == each["hostPath"]["path"], "engines name paths of the node"
            if each["name"] != "state":
                assert mount["readOnly"]
                assert mount["mountPropagation"] == "HostToContainer"
    # The places that settings name are mounted.
    for value in variables(container).values():
        for path in value.replace("#", ":").replace("+", ":").split(":"):
            if path.startswith("/"):
                assert any(path.startswith(mount["mountPath"]) for mount in container["volumeMounts"]), path


@pytest.mark.parametrize("pod", ALL)
def test_no_privilege_more(pod: dict[str, Any]) -> None:
    container = streamer(pod)
    security = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"]["drop"] == ["ALL"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "privileged" not in security
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    if security["capabilities"].get("add"):
        assert [each.lower() for each in security["capabilities"]["add"]] == list(BOTH)
        assert security["runAsUser"] == 0
    else:
        assert security["runAsNonRoot"] is True
        assert not any("hostPath" in each for each in pod["volumes"])
        assert security.get("appArmorProfile") is None
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    covered = any(each["mountPath"] == token for each in container["volumeMounts"])
    assert covered or pod["automountServiceAccountToken"] is False
    assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("pod", ALL)
def test_there_is_time_to_drain(pod: dict[str, Any]) -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    needed = defaults["drain_timeout"] + 2 * defaults["release_timeout"] + 5
    waited = streamer(pod).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] >= needed + waited


def test_sidecars_start_first_and_end_last() -> None:
    for pod in pods("example"):
        (sidecar,) = pod["initContainers"]
        assert sidecar["restartPolicy"] == "Always"
        assert "startupProbe" in sidecar


def test_the_network_policy_is_about_the_pods() -> None:
    made = documents("node")
    (policy,) = (each for each in made if each["kind"] == "NetworkPolicy")
    (daemonset,) = (each for each in made if each["kind"] == "DaemonSet")
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    (rule,) = policy["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == [
        each["name"] for each in daemonset["spec"]["template"]["spec"]["containers"][0]["ports"]
    ]
    for service in (each for each in made if each["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()


def secret(place: Path, files: dict[str, bytes]) -> Path:
    """A new version of a Secret in a volume, as kubelet lays it out: a directory, and a link that is replaced."""
    version = place / f"..version-{len(list(place.iterdir())) if place.exists() else 0}"
    version.mkdir(parents=True)
    for name, data in files.items():
        (version / name).write_bytes(data)
        (version / name).chmod(0o400)
        if not (place / name).is_symlink():
            (place / name).symlink_to(f"..data/{name}")
    (place / "..new").symlink_to(version.name)
    os.replace(place / "..new", place / "..data")
    return place


def status(address: str, path: str, token: str = "", host: str = "") -> int:
    """What a request is answered with. As a probe, it does not look at the certificate's name."""
    context = certificates.client()
    context.check_hostname = False
    request = urllib.request.Request(f"https://127.0.0.1:{address.rpartition(':')[2]}{path}")
    for name, value in (("Authorization", token and f"Bearer {token}"), ("Host", host)):
        if value:
            request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def moved(container: dict[str, Any], places: dict[str, str]) -> dict[str, str]:
    """The variables of a container, with other places for what they name."""
    found = variables(container)
    for there, here in places.items():
        found = {name: value.replace(there, here) for name, value in found.items()}
    return found


@pytest.mark.root
def test_the_nodes_container_starts(tmp_path: Path) -> None:
    """As its manifest has it, with another store, on this machine."""
    container = streamer(pods("node")[0])
    chain, key = certificates.write(tmp_path, certificates.leaf("streamer.streamer.svc"))
    tls = secret(tmp_path / "tls", {"tls.crt": Path(chain).read_bytes(), "tls.key": Path(key).read_bytes()})
    tokens = secret(tmp_path / "tokens", {"tokens.toml": (KUBERNETES / "node/tokens.toml").read_bytes()})
    made = images.image(images.layer(images.file("a", b"a")), names=["a:1"])
    store = DockerRoot(tmp_path / "docker").add(made)
    environment = moved(
        container, {"/etc/streamer/tls": str(tls), "/etc/streamer/tokens": str(tokens), "0.0.0.0:8443": "0.0.0.0:0"}
    )
    environment |= {"STREAMER_STORES": f"docker=docker:{store.path}", "STREAMER_STATE": str(tmp_path / "state")}
    added = [each.lower() for each in container["securityContext"]["capabilities"]["add"]]
    with confined.serving(container["args"], 0, added, **environment) as (address,):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["scheme"] == "HTTPS"
            assert status(address, asked["path"]) == 200
        assert status(address, "/v1/images") == 401  # with no token in the Secret, nobody gets in
        assert status(address, "/metrics", host="streamer.streamer.svc") == 401
        issued = confined.run(confined.streamer("token", "new", "prometheus", "--kinds", "metrics"))
        token = issued.stderr.decode().split()[-1]
        secret(tokens, {"tokens.toml": issued.stdout})
        end = time.monotonic() + 60
        while status(address, "/metrics", token, "streamer.streamer.svc") == 401 and time.monotonic() < end:
            time.sleep(0.1)
        assert status(address, "/metrics", token, "streamer.streamer.svc") == 200
        assert status(address, "/metrics", token, "elsewhere.example") == 403
        assert status(address, "/v1/images", token) == 403


@pytest.mark.root
def test_the_sidecar_starts_before_there_is_an_image() -> None:
    """With no privilege at all, and its probe as the image has it."""
    container = next(found for found in map(streamer, pods("example")) if "runAsNonRoot" in found["securityContext"])
    security = container["securityContext"]
    with tempfile.TemporaryDirectory(prefix="sidecar-", dir="/tmp") as name:
        shared = Path(name)
        shared.chmod(0o755)
        environment = moved(container, {"/shared": str(shared), ":8080": ":0"}) | {"STREAMER_STATE": f"{name}/state"}
        (shared / "state").mkdir()
        os.chown(shared / "state", security["runAsUser"], security["runAsGroup"])
        with confined.serving(container["args"], security["runAsUser"], (), **environment) as (address,):

            def probed(*path: str) -> int:
                program = [sys.executable, ROOT / "deploy/image/healthy", *path]
                listening = {"STREAMER_LISTEN": address.removeprefix("http://")}
                return subprocess.run(program, env=listening, capture_output=True, check=False).returncode

            for probe in ("startupProbe", "livenessProbe"):
                command, *path = container[probe]["exec"]["command"]
                assert command == "streamer-healthy"
                assert probed(*path) == 0
            assert probed("/readyz") == 1
            made = images.image(images.layer(images.file("a", b"a")), names=["a:1"])
            images.unpack_to(images.oci(made), shared)  # the application writes its image
            assert probed("/readyz") == 0
            with urllib.request.urlopen(f"{address}/v1/images/a:1/archive", timeout=60) as answer:
                assert answer.read()
