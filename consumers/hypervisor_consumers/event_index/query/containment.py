"""The SQL condition that a payload contains a JSON object: PostgreSQL's `@>`, and the same for SQLite.

- An object contains another if it has all of its keys, each with a value that contains the other's value.
- An array contains another if, for each of the other's elements, it has an element that contains it, in any order.
- A scalar contains an equal one: 1 equals 1.0, and equals neither true nor "1".

Pure: statements are made here and executed in `reader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Boolean, ColumnElement, and_, case, cast, func, literal, select, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from hypervisor_consumers.event_index.key_text import ESCAPED_NUL

__all__ = ["MAX_OBJECT_CHARACTERS", "MAX_OBJECT_DEPTH", "MAX_OBJECT_VALUES", "contains", "read_object"]

MAX_OBJECT_CHARACTERS = 4096
MAX_OBJECT_DEPTH = 8
MAX_OBJECT_VALUES = 64

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def read_object(text: str) -> dict[str, Any]:
    """The JSON object of a filter.

    Raises:
        ValueError: The text is no JSON object, or exceeds the limits above; the sentence says which.
    """
    try:
        wanted = _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        raise ValueError('This is not a JSON object, such as {"to_ring":0}.') from None
    layer: list[Any] = [wanted]
    values = 0
    for _ in range(MAX_OBJECT_DEPTH):
        values += len(layer)
        if values > MAX_OBJECT_VALUES + 1:  # the object itself doesn't count
            raise ValueError(f"The object has more than {MAX_OBJECT_VALUES} values.")
        for value in layer:
            _check(value)
        layer = [inner for value in layer for inner in _inner(value)]
        if not layer:
            return wanted
    raise ValueError(f"The object is deeper than {MAX_OBJECT_DEPTH}.")


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _check(value: Any) -> None:
    texts = list(value) if isinstance(value, dict) else [value] if isinstance(value, str) else []
    if any("\0" in text for text in texts):
        raise ValueError("No text with the character U+0000 can be looked for.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("No whole number of more than 64 bits can be looked for.")


class contains(ColumnElement[bool]):  # noqa: N801 - named as a function of SQL
    """The condition that a column with the text of a JSON object contains `wanted`, a result of `read_object`."""

    type = Boolean()
    # SQLAlchemy must not cache the compiled SQL: it depends on the object.
    inherit_cache = False

    def __init__(self, column: ColumnElement[Any], wanted: Mapping[str, Any]) -> None:
        self.column = column
        self.wanted = wanted


@compiles(contains)
def _on_sqlite(element: contains, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(_object_in(element.column, element.wanted).self_group(), **options)


@compiles(contains, "postgresql")
def _on_postgres(element: contains, compiler: SQLCompiler, **options: Any) -> str:
    text = element.column
    # JSONB can't hold U+0000 and would refuse the whole statement, so another character replaces it.
    holds_nul = func.strpos(text, literal(_NUL)) > 0
    without = func.regexp_replace(text, literal(ESCAPED_NUL), literal(r"\1\ufffd"), literal("g"))
    wanted = cast(literal(msgspec.json.encode(element.wanted).decode()), JSONB)
    found = cast(case((holds_nul, without), else_=text), JSONB).contains(wanted)
    return compiler.process(found.self_group(), **options)


_NUL = r"\u0000"


def _object_in(text: ColumnElement[Any], wanted: Mapping[str, Any]) -> ColumnElement[bool]:
    return and_(true(), *(_has_element(text, value, key) for key, value in wanted.items()))


def _has_element(text: ColumnElement[Any], wanted: Any, key: str | None = None) -> ColumnElement[bool]:
    """The condition that a member of the object, or an element of the array, contains `wanted`."""
    # SQLAlchemy names each use of json_each anew, because they are nested.
    element: Any = func.json_each(text).table_valued("key", "type", "atom", "value").alias()
    is_key = [] if key is None else [element.c.key == key]
    return select(1).select_from(element).where(*is_key, _contains_value(element, wanted)).exists()


def _contains_value(element: Any, wanted: Any) -> ColumnElement[bool]:
    kind, atom = element.c.type, element.c.atom
    if isinstance(wanted, dict):
        return and_(kind == "object", _object_in(_inner_text(element, "object"), wanted))
    if isinstance(wanted, list):
        array = _inner_text(element, "array")
        return and_(kind == "array", *(_has_element(array, value) for value in wanted))
    if wanted is None or isinstance(wanted, bool):
        return kind == msgspec.json.encode(wanted).decode()  # type: ignore[no-any-return]
    kinds = ["text"] if isinstance(wanted, str) else ["integer", "real"]
    return and_(kind.in_(kinds), atom == wanted)


def _inner_text(element: Any, kind: str) -> ColumnElement[Any]:
    """The JSON text of an element of this kind; an empty array for any other kind, whose text may be no JSON."""
    return case((element.c.type == kind, element.c.value), else_="[]")
