"""The SQL condition of containment is compared with a definition in a few lines of Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, insert, select

from hypervisor_consumers.event_index.query.containment import contains, read_object
from hypervisor_consumers.event_index.tables import events, metadata
from hypervisor_schemas.wire.payload_json import to_json

KEYS = st.sampled_from(["a", "b", 'q"$.[0]\\', "ä\n", ""])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([2**53 + 1, -(2**63), 2**63 - 1, 0.1, -0.0, 1.0, 1e300, 1.5]),
    st.sampled_from(["", "a", "1", "true", "null", "[]", "{}", "ä😀", '"\\']),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=3)


def is_contained(wanted: Any, there: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            key in there and is_contained(value, there[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(there, list) and all(any(is_contained(one, its) for its in there) for one in wanted)
    if isinstance(wanted, bool) or isinstance(there, bool) or wanted is None:
        return wanted is there
    return not isinstance(there, (dict, list)) and there == wanted


@st.composite
def parts(draw: st.DrawFn, of: Any) -> Any:
    """A value that `of` contains, or nearly contains."""
    if isinstance(of, dict):
        return {key: draw(parts(value)) for key, value in of.items() if draw(st.booleans())}
    if isinstance(of, list):
        return [draw(parts(value)) for value in draw(st.permutations(of)) if draw(st.booleans())]
    return of if draw(st.integers(0, 7)) else draw(SCALARS)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def found(engine: Engine, payloads: list[dict[str, Any]], wanted: dict[str, Any]) -> list[int]:
    with engine.connect() as connection:
        connection.execute(
            insert(events),
            [
                {
                    "event_id": str(number),
                    "event_type": "x",
                    "timestamp": number,
                    "payload": to_json(payload),
                    "topic": "t",
                    "partition": 0,
                    "offset": number,
                }
                for number, payload in enumerate(payloads)
            ],
        )
        fits = contains(events.c.payload, read_object(json.dumps(wanted)))
        numbers = connection.execute(select(events.c.offset).where(fits).order_by(events.c.offset)).scalars().all()
        connection.rollback()
    return list(numbers)


@given(st.lists(OBJECTS, min_size=1, max_size=4), st.data())
def test_what_is_contained_is_found_and_nothing_else(
    engine: Engine, payloads: list[dict[str, Any]], data: st.DataObject
) -> None:
    wanted = data.draw(st.one_of(parts(payloads[0]), OBJECTS))
    assert found(engine, payloads, wanted) == [
        number for number, payload in enumerate(payloads) if is_contained(wanted, payload)
    ]


@pytest.mark.parametrize(
    ("wanted", "payload", "is_found"),
    [
        ({"to_ring": 0}, {"to_ring": 0, "from_ring": 3}, True),
        ({"to_ring": 0}, {"to_ring": False}, False),
        ({"to_ring": 0}, {"to_ring": "0"}, False),
        ({"ok": True}, {"ok": 1}, False),
        ({"ok": None}, {}, False),
        ({"a": [1, 1, 1]}, {"a": [2, 1]}, True),
        ({"a": [[1]]}, {"a": [1]}, False),
        ({"a": {"b": {}}}, {"a": {"b": {"c": 1}}}, True),
        ({"a": {}}, {"a": []}, False),
        ({"a": []}, {"a": {}}, False),
        ({"a": 1}, {"a": [1]}, False),
        ({"a": [{"b": 1}, {"c": 2}]}, {"a": [{"c": 2, "b": 1}]}, True),
        ({"text": "x"}, {"text": "x", "binary": "a\0b", "path": "\\u0000"}, True),
        ({"path": "\\u0000"}, {"binary": "a\0b", "path": "\\u0000"}, True),
    ],
)
def test_as_in_postgresql(engine: Engine, wanted: dict[str, Any], payload: dict[str, Any], is_found: bool) -> None:
    assert found(engine, [payload], wanted) == ([0] if is_found else [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"a":NaN}', "not a JSON object"),
        ('{"a":1e999}', "not a JSON object"),
        ("{'a':1}", "not a JSON object"),
        ("[" * 5000, "not a JSON object"),
        ('{"a":' * 5000, "not a JSON object"),
        ('{"a":"\\u0000"}', "U+0000"),
        ('{"\\u0000":1}', "U+0000"),
        ('{"a":9223372036854775808}', "64 bits"),
        ('{"a":' * 8 + "1" + "}" * 8, "deeper than 8"),
        (json.dumps({"a": list(range(64))}), "more than 64 values"),
    ],
)
def test_what_cannot_be_looked_for_is_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("+", r"\+")):
        read_object(text)


@pytest.mark.parametrize("text", ["{}", '{"a":' * 7 + "1" + "}" * 7, json.dumps({"a": list(range(63))})])
def test_what_is_within_the_bounds_can_be_looked_for(engine: Engine, text: str) -> None:
    assert found(engine, [json.loads(text)], read_object(text)) == [0]
