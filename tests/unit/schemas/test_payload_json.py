import base64
import json
import sys
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType
from uuid import UUID

import pytest

from hypervisor_schemas.events import EventType
from hypervisor_schemas.wire.payload_json import to_json


class Colour(Enum):
    RED = "red"
    BOTH = ("red", "blue")


class Level(IntEnum):
    HIGH = 3


class Unwritable:
    def __str__(self):
        raise RuntimeError("no text today")


class Masked:
    @property
    def __class__(self):
        raise RuntimeError("no class today")


class Broken(Mapping):
    def __getitem__(self, key):
        raise RuntimeError("no items today")

    def __iter__(self):
        raise RuntimeError("no items today")

    def __len__(self):
        return 1


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (2**70, 2**70),
        (-1.5, -1.5),
        ("snow ☃ 雪 \U0001f600 \x00", "snow ☃ 雪 \U0001f600 \x00"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (datetime(2025, 1, 15, 10, 30, tzinfo=UTC), "2025-01-15T10:30:00+00:00"),
        (datetime(2025, 1, 15, 10, tzinfo=timezone(timedelta(hours=-5))), "2025-01-15T10:00:00-05:00"),
        (date(2025, 1, 15), "2025-01-15"),
        (time(10, 30), "10:30:00"),
        (Colour.RED, "red"),
        (Colour.BOTH, ["red", "blue"]),
        (Level.HIGH, 3),
        (EventType.RING_ASSIGNED, "ring.assigned"),
        (b"\x00\xff", base64.b64encode(b"\x00\xff").decode()),
        (bytearray(b"abc"), "YWJj"),
        (memoryview(b"abc"), "YWJj"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ((1, (2, 3)), [1, [2, 3]]),
        ({7}, [7]),
        (frozenset("x"), ["x"]),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": {"b": [float("nan")]}}), {"a": {"b": ["NaN"]}}),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (10**5000, "<int that can't be written as text>"),
        (Unwritable(), "<Unwritable that can't be written as text>"),
        (Masked(), "<Masked that can't be written as text>"),
        (Broken(), "<Broken that can't be written as text>"),
        ([1, Unwritable(), 2], [1, "<Unwritable that can't be written as text>", 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_value_is_written_as_documented_at_any_depth(value, written):
    assert json.loads(to_json({"v": value})) == {"v": written}
    assert json.loads(to_json({"a": [{"v": value}]})) == {"a": [{"v": written}]}


@pytest.mark.parametrize(
    ("key", "written"),
    [
        (1, "1"),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ("\ud800", "?"),
        (Colour.RED, "red"),
        (Level.HIGH, "3"),
        ((1, 2), "(1, 2)"),
        (b"x", "eA=="),
        (date(2025, 1, 15), "2025-01-15"),
        (Unwritable(), "<Unwritable that can't be written as text>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_key_that_is_no_string_becomes_one(key, written):
    assert json.loads(to_json({key: 0})) == {written: 0}
    assert json.loads(to_json({"a": {key: 0.5}})) == {"a": {written: 0.5}}


@pytest.mark.parametrize(
    ("payload", "written"),
    [
        (None, {}),
        ({}, {}),
        ([1, 2], {"value": [1, 2]}),
        ("text", {"value": "text"}),
        (7, {"value": 7}),
        (Broken(), {"value": "<Broken that can't be written as text>"}),
        (Masked(), {"value": "<Masked that can't be written as text>"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_the_payload_is_the_text_is_one_json_object(payload, written):
    assert json.loads(to_json(payload)) == written


def test_the_text_is_compact_and_keeps_the_order_of_keys():
    assert to_json({"b": 1, "a": [1.5, "x"]}) == '{"b":1,"a":[1.5,"x"]}'


def test_the_plain_and_the_careful_way_write_plain_values_alike():
    plain = {"s": "é☃\n", "i": -5, "t": True, "n": None}
    careful = to_json(plain | {"f": 0.5})
    assert careful == to_json(plain)[:-1] + ',"f":0.5}'


def test_a_container_inside_itself_is_remarked_and_the_rest_is_kept():
    parent = {"name": "parent", "children": []}
    parent["children"] += [{"name": "child", "parent": parent} for _ in range(2)]
    child = {"name": "child", "parent": "<dict that contains itself>"}
    assert json.loads(to_json(parent)) == {"name": "parent", "children": [child, child]}


def test_a_container_that_occurs_twice_is_written_twice():
    shared = [1.5]
    assert json.loads(to_json({"a": shared, "b": shared})) == {"a": [1.5], "b": [1.5]}


def test_nesting_deeper_than_64_is_remarked():
    nested: object = "bottom"
    for _ in range(sys.getrecursionlimit() * 2):
        nested = [nested]
    assert "<list below 64 others>" in to_json({"a": nested})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("depth", [40, 200])
def test_a_payload_that_doubles_at_each_level_ends(depth):
    value: object = 0.5
    for _ in range(depth):
        value = [value, value]
    assert json.loads(to_json({"a": value})).keys() == {"a"}


@pytest.mark.timeout(60)
def test_containers_that_all_refer_to_each_other_end():
    peers: list[dict[str, object]] = [{} for _ in range(30)]
    for peer in peers:
        peer["peers"] = peers
    assert json.loads(to_json({"peers": peers})).keys() == {"peers"}


def test_a_payload_that_another_thread_changes_meanwhile_costs_only_the_part_it_changes():
    class Growing(dict):
        def items(self):
            for item in super().items():
                self[len(self)] = 1
                yield item

    assert json.loads(to_json({"kept": 1.5, "odd": Growing(a=1)})) == {
        "kept": 1.5,
        "odd": "<Growing that can't be written as text>",
    }
