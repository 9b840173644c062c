"""Every published version of the schema reads the records of every other version (FULL_TRANSITIVE).

Two checks that know nothing of each other: the rules of Avro's schema resolution, and real bytes written with one
version and read with the other. Avro lets logical types differ and fields be renamed by alias; here neither is
allowed: the first would change what a number means, the second breaks readers that go by name.
"""

import copy
import io
import itertools
import json
from importlib.resources import files

import fastavro
import pytest

from hypervisor_schemas.wire.codec import SINGLE_OBJECT, schema_fingerprint, schema_text

HISTORY = files("hypervisor_schemas") / "avro" / "history"
NAMES = sorted(entry.name for entry in HISTORY.iterdir())
VERSIONS = list(range(1, len(NAMES) + 1))

# A version that was published is on disks and in topics for ever. A new one gets a new line; no line changes.
PUBLISHED = {1: "bfb7248a7bd6ecfe"}

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
_VALUES = {
    "null": [None],
    "boolean": [True, False],
    "int": [0, -(2**31), 2**31 - 1],
    "long": [0, -(2**63), 2**63 - 1],
    "float": [0.0, -1.5],
    "double": [0.0, -1.5],
    "bytes": [b"", b"\xff"],
    "string": ["", "ring.assigned", "ünï☃"],
    "map": [{}, {"ring": "3"}],
}


def unreadable(writer, reader, where="record"):
    """List the objections of Avro's rules and ours to reading records of `writer` with `reader`."""
    if isinstance(writer, list):
        return [problem for branch in writer for problem in unreadable(branch, reader, where)]
    if isinstance(reader, list):
        answers = [unreadable(writer, branch, where) for branch in reader]
        return [] if [] in answers else [f"{where}: no branch of {json.dumps(reader)} takes {json.dumps(writer)}"]
    w, r = (node if isinstance(node, dict) else {"type": node} for node in (writer, reader))
    if w.get("logicalType") != r.get("logicalType"):
        return [f"{where}: the logical type differs"]
    if w["type"] == r["type"] == "record":
        return _unreadable_record(w, r, where)
    if w["type"] == r["type"] == "enum":
        missing = set(w["symbols"]) - set(r["symbols"])
        return [f"{where}: the reader has no symbol {min(missing)}"] if missing and "default" not in r else []
    if w["type"] == r["type"] and w["type"] in _VALUES:
        return []
    return (
        []
        if r["type"] in _PROMOTIONS.get(w["type"], ())
        else [f"{where}: {w['type']} can't be read as {r['type']}"]
    )


def _unreadable_record(writer, reader, where):
    names = [f"{schema.get('namespace', '')}.{schema['name']}" for schema in (writer, reader)]
    problems = [] if names[0] == names[1] else [f"{where}: {names[0]} is not {names[1]}"]
    written = {field["name"]: field for field in writer["fields"]}
    for field in reader["fields"]:
        if field["name"] in written:
            problems += unreadable(written[field["name"]]["type"], field["type"], field["name"])
        elif "default" not in field:
            problems.append(f"{field['name']}: the writer has no such field, and it has no default")
    return problems


def values_of(kind):
    if isinstance(kind, list):
        return [value for branch in kind for value in values_of(branch)]
    if isinstance(kind, dict):
        return list(kind["symbols"]) if kind["type"] == "enum" else values_of(kind["type"])
    return _VALUES[kind]


def records_of(schema):
    """Records that show every field with every kind of value, and every default left to the writer."""
    columns = {field["name"]: values_of(field["type"]) for field in schema["fields"]}
    for row in range(max(map(len, columns.values()))):
        record = {name: values[row % len(values)] for name, values in columns.items()}
        yield record
        yield {
            name: value
            for name, value in record.items()
            if not any(field["name"] == name and "default" in field for field in schema["fields"])
        }


def misread(writer, reader):
    """List the errors with real bytes: written with `writer`, read with `reader`."""
    plain = [without_logical_types(schema) for schema in (writer, reader)]
    problems = []
    for record in records_of(plain[0]):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(copy.deepcopy(plain[0])), record)
        out.seek(0)
        whole = {field["name"]: field["default"] for field in plain[0]["fields"] if "default" in field} | record
        expected = {field["name"]: field.get("default") for field in plain[1]["fields"]}
        expected |= {name: value for name, value in whole.items() if name in expected}
        try:
            read = fastavro.schemaless_reader(out, *(fastavro.parse_schema(copy.deepcopy(it)) for it in plain))
        except Exception as error:  # noqa: BLE001 - fastavro raises what it meets; here it is an answer
            problems.append(f"{record}: {type(error).__name__}: {error}")
        else:
            problems += [] if read == expected else [f"{record}: read as {read}"]
    return problems


def without_logical_types(schema):
    """Return the schema with plain numbers, so that every long can be tried."""
    if isinstance(schema, dict):
        return {key: without_logical_types(value) for key, value in schema.items() if key != "logicalType"}
    return [without_logical_types(item) for item in schema] if isinstance(schema, list) else schema


def version(number):
    return json.loads(schema_text(number))


def test_versions_are_numbered_without_a_gap():
    assert set(NAMES) == {f"v{number}.avsc" for number in VERSIONS}


def test_what_was_published_has_not_changed_since():
    assert {number: schema_fingerprint(schema_text(number)).hex() for number in VERSIONS} == PUBLISHED


def test_the_current_schema_is_the_newest_version():
    assert schema_text() == schema_text(VERSIONS[-1])


@pytest.mark.parametrize(("writer", "reader"), list(itertools.product(VERSIONS, repeat=2)))
def test_every_version_reads_what_every_version_writes(writer, reader):
    assert unreadable(version(writer), version(reader)) == []
    assert misread(version(writer), version(reader)) == []


def test_event_types_are_text_so_that_an_unknown_one_survives():
    kinds = {field["name"]: field["type"] for field in version(None)["fields"]}
    assert kinds["event_type"] == "string"
    assert kinds["timestamp"] == {"type": "long", "logicalType": "timestamp-micros"}


def changed(**fields):
    """The current schema with fields replaced (a type), added (a whole field) or removed (None)."""
    schema = version(None)
    kept = [field for field in schema["fields"] if fields.get(field["name"], "kept") is not None]
    for field in kept:
        if field["name"] in fields:
            field["type"] = fields.pop(field["name"])
            # It was the default of another type.
            field.pop("default", None)
    schema["fields"] = kept + [{"name": name} | field for name, field in fields.items() if field is not None]
    return schema


COMPATIBLE = {
    "an optional field more": changed(tenant={"type": ["null", "string"], "default": None}),
    "a field with a default more": changed(attempt={"type": "long", "default": 1}),
    "an optional field less": changed(parent_event_id=None),
    "the payload less, which has a default": changed(payload=None),
}

INCOMPATIBLE = {
    "a required field more": changed(tenant={"type": "string"}),
    "a required field less": changed(event_type=None),
    "an optional field made required": changed(session_id="string"),
    "a required field made optional": changed(event_id=["null", "string"]),
    "another type": changed(payload={"type": "map", "values": "string"}),
    "a promotion, which goes one way only": changed(timestamp={"type": "int"}),
    "one more type in a union": changed(session_id=["null", "string", "long"]),
    "an enum in place of text": changed(
        event_type={"type": "enum", "name": "EventType", "symbols": ["ring_assigned", "ring_elevated"]}
    ),
    "a field of another name": changed(session_id=None, session={"type": "string"}),
}


def both_ways(check, other):
    current = version(None)
    return check(current, other) + check(other, current)


@pytest.mark.parametrize("schema", COMPATIBLE.values(), ids=COMPATIBLE)
def test_a_compatible_change_passes_both_checks(schema):
    assert both_ways(unreadable, schema) == []
    assert both_ways(misread, schema) == []


@pytest.mark.parametrize("schema", INCOMPATIBLE.values(), ids=INCOMPATIBLE)
def test_an_incompatible_change_is_caught_by_the_rules_and_by_the_bytes(schema):
    assert both_ways(unreadable, schema)
    assert both_ways(misread, schema)


def test_seconds_in_place_of_microseconds_are_caught_though_avro_lets_them_pass():
    schema = changed(timestamp={"type": "long", "logicalType": "timestamp-millis"})
    assert both_ways(unreadable, schema)
    assert both_ways(misread, schema) == []


def test_another_record_name_is_caught():
    assert both_ways(unreadable, version(None) | {"name": "Event"})
    assert both_ways(unreadable, version(None) | {"namespace": "elsewhere"})


@pytest.mark.parametrize("number", [None, *VERSIONS])
def test_no_default_is_a_pair_of_braces_in_quotes_which_apicurio_refuses(number):
    """Apicurio removes the quotes (`"{}"` to `{}`) before it parses a schema; then the default is no string."""
    assert '"{}"' not in schema_text(number)
    assert json.loads({field["name"]: field for field in version(number)["fields"]}["payload"]["default"]) == {}


CANONICAL = (
    '{"name":"hypervisor.telemetry.HypervisorEvent","type":"record","fields":['
    '{"name":"event_id","type":"string"},'
    '{"name":"event_type","type":"string"},'
    '{"name":"timestamp","type":"long"},'
    '{"name":"session_id","type":["null","string"]},'
    '{"name":"agent_did","type":["null","string"]},'
    '{"name":"causal_trace_id","type":["null","string"]},'
    '{"name":"parent_event_id","type":["null","string"]},'
    '{"name":"payload","type":"string"}]}'
)


def crc_64_avro(data):
    """Compute the fingerprint as the Avro specification defines it, without its table."""
    fingerprint = empty = 0xC15D213AA4D7A795
    for byte in data:
        fingerprint ^= byte
        for _ in range(8):
            fingerprint = fingerprint >> 1 ^ (empty if fingerprint & 1 else 0)
    return fingerprint


def test_the_fingerprint_is_the_crc_of_the_canonical_form_written_out_by_hand():
    assert crc_64_avro(b'"int"') == 0x7275D51A3F395C8F
    assert schema_fingerprint('"int"') == (0x7275D51A3F395C8F).to_bytes(8, "little")
    assert b"\xc3\x01" + crc_64_avro(CANONICAL.encode()).to_bytes(8, "little") == SINGLE_OBJECT
