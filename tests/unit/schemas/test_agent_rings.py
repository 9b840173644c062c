"""The public table agent-rings: its records, byte for byte, and what is refused."""

import json
from importlib.resources import files

import pytest

from hypervisor_schemas.agent_rings import (
    TOPIC,
    AgentRing,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    partition_key,
)
from hypervisor_schemas.errors import UndecodableRecord
from hypervisor_schemas.topics import TOPICS, partition_of

GOLDEN = json.loads((files("hypervisor_schemas") / "examples" / "agent_rings.json").read_text("utf-8"))
each = pytest.mark.parametrize("record", GOLDEN["records"], ids=lambda record: record["case"])


@each
def test_a_golden_record_is_what_the_code_makes_of_its_row(record):
    row = AgentRing(**record["row"])
    assert encode_key(row.agent_did, row.session_id).decode() == record["key"]
    assert encode_value(row).decode() == record["value"]
    assert partition_of(partition_key(row.agent_did), GOLDEN["partitions"]) == record["partition"]
    assert GOLDEN["topic"] == f"hypervisor.{TOPIC}"
    [topic] = [topic for topic in TOPICS if topic.name == TOPIC]
    assert GOLDEN["partitions"] == topic.partitions


@each
def test_its_bytes_are_read_to_its_row(record):
    row = AgentRing(**record["row"])
    assert decode_key(record["key"].encode()) == (row.agent_did, row.session_id)
    assert decode_value(record["value"].encode()) == row


@each
def test_any_json_reader_reads_the_same(record):
    assert json.loads(record["key"]) == [record["row"]["agent_did"], record["row"]["session_id"]]
    assert json.loads(record["value"]) == record["row"]


def test_all_rows_of_an_agent_have_one_partition_and_each_a_key_of_its_own():
    assert encode_key("a", "s") != encode_key("a", "t")
    assert partition_key("a") == b"a"
    assert partition_key("ü") == "ü".encode()


def test_names_with_quotes_and_commas_are_told_apart():
    odd = [('a","b', "c"), ("a", 'b","c'), ("a,b", "c"), ("[", "]"), ("\\", '"'), ("", "\n")]
    keys = [encode_key(*who) for who in odd]
    assert len(set(keys)) == len(odd)
    assert [decode_key(key) for key in keys] == odd


def test_a_row_that_names_no_more_than_its_agent_and_session_is_read():
    assert decode_value(b'{"session_id":"s","agent_did":"a"}') == AgentRing("a", "s")


def test_fields_of_a_later_version_are_passed_over():
    row = AgentRing("a", "s", 0, 1, "e")
    value = json.loads(encode_value(row)) | {"moved_by": {"any": "thing"}}
    assert decode_value(json.dumps(value).encode()) == row


@pytest.mark.parametrize(
    "key", [None, b"", b"a", b'["a"]', b'["a","s","t"]', b'["a",1]', b'{"a":"s"}', b'["\xff","s"]']
)
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(UndecodableRecord, match=r"key.*\[\"agent\",\"session\"\]"):
        decode_key(key)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b'{"agent_did":"a"}',
        b'{"agent_did":"a","session_id":null}',
        b'{"agent_did":"a","session_id":"s","ring":4}',
        b'{"agent_did":"a","session_id":"s","ring":"1"}',
        b'{"agent_did":"a","session_id":"s","changed_at":"2026-01-01"}',
        b'{"agent_did":"\xff","session_id":"s"}',
        b'{"agent_did":"a","session_id":"s"} and more',
    ],
)
def test_a_value_that_is_none_is_refused(value):
    with pytest.raises(UndecodableRecord, match="value"):
        decode_value(value)
