"""The document: valid by itself, the same as the routes, and true to what the handlers answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from support.sites import TWO, Site

from streamer.web.openapi import document
from streamer.web.routes import ROUTES

EXAMPLES = 10
"""Per operation and phase; more find nothing new and take longer."""

NOT_CHECKED = "positive_data_acceptance"
"""A name or a pattern may be a string, as the schema has it, and yet not be well-formed: then 400 is right."""


def test_the_document_is_valid() -> None:
    OpenAPIV31SpecValidator(document()).validate()  # type: ignore[arg-type]


def test_the_document_is_served(site: Site) -> None:
    answer = site.ask("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == document()


def test_every_route_is_documented_and_nothing_else() -> None:
    documented = {(path, method) for path, operations in document()["paths"].items() for method in operations}
    expected = {(route.path, route.method.lower()) for route in ROUTES}
    expected |= {("/openapi.json", "get"), ("/openapi.json", "head")}
    expected |= {(route.path, "head") for route in ROUTES if route.method == "GET"}
    assert documented == expected


def test_every_parameter_has_a_description_and_every_answer_a_schema() -> None:
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                assert parameter["in"] == "path" or parameter["description"], (path, parameter)
            for status, answer in operation["responses"].items():
                assert answer["description"]
                assert method == "head" or status == "304" or answer["content"], (path, method, status)


REAL = {
    "container": "box",
    "image": "two",
    "digest": TWO.diff_ids[0],
    "query.name": "two",
    "query.store": "local",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("names", ["any names", pytest.param("names that are there", marks=pytest.mark.root)])
def test_answers_are_as_documented(site: Site, names: str, tmp_path: Path) -> None:
    """schemathesis: statuses, content types, headers and bodies of whatever it asks are those of the document."""
    config = tmp_path / "schemathesis.toml"
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in REAL.items()]
    config.write_text("\n".join(["[parameters]", *lines]) if names == "names that are there" else "")
    done = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis",
            f"--config-file={config}",
            "run",
            f"http://127.0.0.1:{site.port}/openapi.json",
            "--phases=examples,coverage,fuzzing",
            "--checks=all",
            f"--exclude-checks={NOT_CHECKED}",
            f"--max-examples={EXAMPLES}",
            "--generation-deterministic",
            "--mode=all",
            "--no-color",
            # How long data takes to be made, or an answer to come, says something of the machine only.
            "--suppress-health-check=too_slow",
            "--request-timeout=60",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5000:]
