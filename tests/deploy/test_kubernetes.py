"""The manifests: accepted by Kubernetes' own schemas, whole in themselves, no privilege more than said, and settings
with which streamer really starts."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from support import certificates, confined, images
from support.confined import BOTH
from support.docker_roots import DockerRoot
from support.manifests import documents, pods, streamer, variables

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


class Pod:
    """The node's container as its manifest has it, with another store, started on this machine: Secrets are laid out as
    kubelet lays them out."""

    def __init__(self, place: Path) -> None:
        (pod,) = pods("node")
        container = streamer(pod)
        self.tokens, self.tls = place / "tokens", place / "tls"
        leaf = certificates.leaf("streamer.streamer.svc")
        certificate, key = certificates.write(place, leaf)[:2]
        self.secret(self.tokens, {"tokens.toml": b""})
        self.secret(self.tls, {"tls.crt": Path(certificate).read_bytes(), "tls.key": Path(key).read_bytes()})
        made = images.image(images.layer(images.file("a", b"a")), names=["a:1"])
        store = DockerRoot(place / "docker").add(made)
        environment = variables(container)
        moved = {"/etc/streamer/tokens": str(self.tokens), "/etc/streamer/tls": str(self.tls)}
        for name, value in environment.items():
            for there, here in moved.items():
                value = value.replace(there, here)
            environment[name] = value
        environment |= {
            "STREAMER_STORES": f"docker=docker:{store.path}",
            "STREAMER_STATE": str(place / "state"),
            "STREAMER_LISTEN": environment["STREAMER_LISTEN"].replace(":8443", ":0"),
        }
        added = [each.lower() for each in container["securityContext"]["capabilities"]["add"]]
        self.process = subprocess.Popen(
            confined.command(confined.streamer(*container["args"]), 0, added),
            env=confined.environment(**environment),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
        )
        assert self.process.stderr is not None
        said = b""
        for line in self.process.stderr:
            said += line
            if b'"serving"' in line:
                self.port = int(json.loads(line)["addresses"][0].rpartition(":")[2])
                break
        else:
            raise AssertionError(said.decode())
        self.context = certificates.client()
        self.context.check_hostname = False  # probes do not look, monitoring gives the name

    def secret(self, place: Path, files: dict[str, bytes]) -> None:
        """A new version of a Secret in a volume: files in a directory of their own, and a link that is replaced."""
        version = place / f"..version-{len(list(place.iterdir())) if place.exists() else 0}"
        version.mkdir(parents=True)
        for name, data in files.items():
            (version / name).write_bytes(data)
            (version / name).chmod(0o400)
            if not (place / name).is_symlink():
                (place / name).symlink_to(f"..data/{name}")
        (place / "..new").symlink_to(version.name)
        os.replace(place / "..new", place / "..data")

    def status(self, path: str, token: str = "", host: str = "") -> int:
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        if host:
            request.add_header("Host", host)
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def end(self) -> int:
        self.process.terminate()
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.mark.root
def test_the_nodes_container_starts(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    try:
        container = streamer(pods("node")[0])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["scheme"] == "HTTPS"
            assert pod.status(asked["path"]) == 200
        assert pod.status("/v1/images") == 401  # with no token in the Secret, nobody gets in
        assert pod.status("/metrics", host="streamer.streamer.svc") == 401
        issued = subprocess.run(
            confined.streamer("token", "new", "prometheus", "--kinds", "metrics"),
            env=confined.environment(), capture_output=True, check=True,
        )  # fmt: skip
        token = issued.stderr.decode().split()[-1]
        pod.secret(pod.tokens, {"tokens.toml": issued.stdout})  # as kubelet does once the Secret was changed
        end = time.monotonic() + 10
        while pod.status("/metrics", token, "streamer.streamer.svc") == 401 and time.monotonic() < end:
            time.sleep(0.1)
        assert pod.status("/metrics", token, "streamer.streamer.svc") == 200
        assert pod.status("/metrics", token, "elsewhere.example") == 403
        assert pod.status("/v1/images", token) == 403
    finally:
        assert pod.end() == 0
