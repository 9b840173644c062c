"""Whether a payload contains a JSON object, as SQL: what PostgreSQL calls `@>`, and the same for SQLite.

An object contains another if it has all of its keys, each with a value that contains the other's; an array, if for
each of the other's elements it has one that contains it, in whatever order; a scalar, if it is equal: 1 is 1.0, and
is neither true nor "1". Pure: statements are made here, and run in `reader`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Boolean, ColumnElement, and_, case, cast, func, literal, select, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["MAX_OBJECT_CHARACTERS", "MAX_OBJECT_DEPTH", "MAX_OBJECT_VALUES", "contains", "read_object"]

MAX_OBJECT_CHARACTERS = 4096
MAX_OBJECT_DEPTH = 8
MAX_OBJECT_VALUES = 64

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def read_object(text: str) -> dict[str, Any]:
    """The object to look for.

    Raises:
        ValueError: It is no JSON object, or is out of the bounds above; the sentence says which.
    """
    try:
        wanted = _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        raise ValueError('This is not a JSON object, such as {"to_ring":0}.') from None
    layer: list[Any] = [wanted]
    values = 0
    for _ in range(MAX_OBJECT_DEPTH):
        values += len(layer)
        if values > MAX_OBJECT_VALUES + 1:  # the object itself is none
            raise ValueError(f"The object has more than {MAX_OBJECT_VALUES} values.")
        for value in layer:
            _check(value)
        layer = [one for value in layer for one in _inner(value)]
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
    """The condition that a column with the text of a JSON object contains `wanted`, which `read_object` gave."""

    type = Boolean()
    # It is compiled anew each time: its SQL depends on the object.
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
    # JSONB can't hold U+0000, and would refuse the whole statement; another character stands for it.
    holds_nul = func.strpos(text, literal(_NUL)) > 0
    without = func.regexp_replace(text, literal(_ESCAPED_NUL), literal(r"\1\ufffd"), literal("g"))
    wanted = cast(literal(msgspec.json.encode(element.wanted).decode()), JSONB)
    found = cast(case((holds_nul, without), else_=text), JSONB).contains(wanted)
    return compiler.process(found.self_group(), **options)


_NUL = r"\u0000"
# Not where the backslash is itself escaped.
_ESCAPED_NUL = r"(?<!\\)((?:\\\\)*)\\u0000"


def _object_in(text: ColumnElement[Any], wanted: Mapping[str, Any]) -> ColumnElement[bool]:
    found: list[ColumnElement[bool]] = []
    for key, value in wanted.items():
        member = _each(text)
        found.append(select(1).select_from(member).where(member.c.key == key, _value_is(member, value)).exists())
    return and_(true(), *found)


def _value_is(one: Any, wanted: Any) -> ColumnElement[bool]:
    kind, atom = one.c.type, one.c.atom
    if isinstance(wanted, dict):
        return and_(kind == "object", _object_in(_inside(one, "object"), wanted))
    if isinstance(wanted, list):
        found: list[ColumnElement[bool]] = []
        for value in wanted:
            element = _each(_inside(one, "array"))
            found.append(select(1).select_from(element).where(_value_is(element, value)).exists())
        return and_(kind == "array", *found)
    if wanted is None or isinstance(wanted, bool):
        return kind == msgspec.json.encode(wanted).decode()  # type: ignore[no-any-return]
    kinds = ["text"] if isinstance(wanted, str) else ["integer", "real"]
    return and_(kind.in_(kinds), atom == wanted)


def _each(text: ColumnElement[Any]) -> Any:
    # Named by SQLAlchemy, each anew: they stand inside one another.
    return func.json_each(text).table_valued("key", "type", "atom", "value").alias()


def _inside(one: Any, kind: str) -> ColumnElement[Any]:
    """The text of what is inside; nothing where it isn't of that kind, whose text would be no JSON."""
    return case((one.c.type == kind, one.c.value), else_="[]")
