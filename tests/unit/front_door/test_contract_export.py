"""The contract as files: each is valid for what it is, says what the tables say, and is the same every time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from typer.testing import CliRunner

from hypervisor_schemas.agent_rings import AgentRing
from hypervisor_schemas.events import EventType, GovernanceEventType
from hypervisor_schemas.topics import TOPICS, event_topic
from hypervisor_schemas.typed_payloads import TYPED_PAYLOADS, json_schema
from hypervisor_schemas.wire.codec import schema_text
from hypervisor_telemetry.cli.app import app
from hypervisor_telemetry.schema_tools.export import contract_files

TYPES = [member.value for kind in (EventType, GovernanceEventType) for member in kind]
FILES = contract_files("hypervisor.")
DOCUMENT = json.loads(FILES["asyncapi.json"])


def resolved(reference: str) -> Any:
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_export_writes_every_file_and_the_same_bytes_again(tmp_path: Path):
    folder = tmp_path / "deep" / "contract"
    result = CliRunner().invoke(app, ["schemas", "export", str(folder)])

    assert result.exit_code == 0
    assert result.output.splitlines() == [str(folder / name) for name in FILES]
    written = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert written == {name: text.encode() for name, text in FILES.items()}

    (folder / "mine").write_text("stays")
    assert CliRunner().invoke(app, ["schemas", "export", str(folder)]).exit_code == 0
    again = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert again == {**written, "mine": b"stays"}


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["schemas", "export", str(tmp_path / "file")])

    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: DIRECTORY {tmp_path}/file can't be written to: ")


def test_the_avro_schema_is_the_one_on_the_wire():
    assert FILES["avro/hypervisor.telemetry.HypervisorEvent.avsc"] == schema_text()


@pytest.mark.parametrize("kind", [*TYPED_PAYLOADS, AgentRing], ids=lambda kind: kind.__name__)
def test_a_json_schema_is_valid_and_complete_in_itself(kind: type[msgspec.Struct]):
    schema = json.loads(FILES[f"json-schema/{kind.__name__}.json"])

    jsonschema.Draft202012Validator.check_schema(schema)
    assert "$ref" not in FILES[f"json-schema/{kind.__name__}.json"]
    assert list(schema["properties"]) == [field.encode_name for field in msgspec.structs.fields(kind)]
    assert schema.get("x-event-types", []) == list(TYPED_PAYLOADS.get(kind, ()))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (kind, payload)
        for kind in TYPED_PAYLOADS
        for payload in (
            {},
            {"to_ring": 0, "ring": 3},
            {"to_ring": 4},
            {"ring": "1"},
            {"saga_id": 7, "step_id": "s", "branches": ["a"], "more": {"a": 1}},
            {"saga_id": True},
            {"step_action": 1},
            {"allowed": True, "evaluation_ms": 0.5, "tool_name": None},
            {"allowed": False, "evaluation_ms": -1},
            {"allowed": "yes"},
            {"score": 1000},
            {"score": 1000.5},
            {"score": None},
        )
    ],
)
def test_a_json_schema_takes_what_the_services_take(kind: type[msgspec.Struct], payload: dict[str, Any]):
    try:
        msgspec.convert(payload, kind)
    except msgspec.ValidationError:
        is_taken = False
    else:
        is_taken = True
    assert jsonschema.Draft202012Validator(json_schema(kind)).is_valid(payload) is is_taken


def test_every_reference_of_the_asyncapi_document_leads_somewhere():
    references = re.findall(r'"\$ref": "([^"]+)"', FILES["asyncapi.json"])
    assert len(references) > 100
    for reference in references:
        assert isinstance(resolved(reference), dict), reference


def test_the_asyncapi_document_has_every_topic_as_the_table_has_it():
    channels = DOCUMENT["channels"]
    assert list(channels) == [topic.name for topic in TOPICS]
    for topic in TOPICS:
        binding = channels[topic.name]["bindings"]["kafka"]
        assert channels[topic.name]["address"] == binding["topic"] == f"hypervisor.{topic.name}"
        assert binding["partitions"] == topic.partitions
        told = {
            key: ",".join(value) if isinstance(value, list) else str(value)
            for key, value in binding["topicConfiguration"].items()
        }
        assert told == dict(topic.config)


def test_the_asyncapi_document_has_every_event_type_on_its_topic_with_its_payload():
    payload_of = {event_type: kind.__name__ for kind, types in TYPED_PAYLOADS.items() for event_type in types}
    for event_type in TYPES:
        name = event_topic("", event_type)
        message = resolved(DOCUMENT["channels"][name]["messages"][event_type]["$ref"])
        assert resolved(message["payload"]["$ref"])["schema"] == json.loads(schema_text())
        told = message.get("x-payload-field", {}).get("$ref")
        assert told == (f"#/components/schemas/{payload_of[event_type]}" if event_type in payload_of else None)
        assert DOCUMENT["operations"][f"send.{name}"]["action"] == "send"


def test_topics_are_exported_with_the_prefix_that_is_set():
    document = json.loads(contract_files("test.")["asyncapi.json"])
    assert {channel["address"] for channel in document["channels"].values()} == {f"test.{it.name}" for it in TOPICS}
