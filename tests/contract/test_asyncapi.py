"""The exported document against AsyncAPI's own JSON Schema."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hypervisor_telemetry.schema_tools.asyncapi import VERSION, asyncapi_document

pytestmark = pytest.mark.full

# As npm has it: the package's checksum is compared by npm itself with the registry's, and here with this one.
SPECS = "@asyncapi/specs@6.11.1"
INTEGRITY = "sha512-A3WBLqAKGoJ2+6FWFtpjBlCQ1oFCcs4GxF7zsIGvNqp/klGUHjlA3aAcZ9XMMpLGE8zPeYDz2x9FmO6DSuKraQ=="


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> jsonschema.Draft7Validator:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("missing tool: npm, which has AsyncAPI's schema")
    folder = tmp_path_factory.mktemp("asyncapi")
    done = subprocess.run(
        [npm, "pack", "--json", SPECS], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    [packed] = json.loads(done.stdout)
    assert packed["integrity"] == INTEGRITY
    with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
        schema: Any = json.load(archive.extractfile(f"package/schemas/{VERSION}.json"))  # type: ignore[arg-type]
    return jsonschema.Draft7Validator(schema)


def test_the_document_is_valid(validator: jsonschema.Draft7Validator):
    document = asyncapi_document("1.2.3", "hypervisor.")
    assert [error.message for error in validator.iter_errors(document)] == []


@pytest.mark.parametrize(
    "path",
    [
        ("asyncapi",),
        ("info", "version"),
        ("channels", "events.ring", "bindings", "kafka", "partitions"),
        ("operations", "send.events.ring", "action"),
        ("components", "schemas", "RingPayload", "type"),
    ],
)
def test_a_document_with_a_mistake_is_not(validator: jsonschema.Draft7Validator, path: tuple[str, ...]):
    document = copy.deepcopy(asyncapi_document("1.2.3", "hypervisor."))
    inner: Any = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = {"no": "such"}
    assert list(validator.iter_errors(document))
