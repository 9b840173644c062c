"""The tables of schemas/README.md, between marks; the rest of it is written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypervisor_schemas.topics import EVENT_PARTITIONS, TOPICS
from hypervisor_schemas.typed_payloads import TYPED_PAYLOADS, json_schema
from hypervisor_schemas.wire.codec import ID_CHARACTERS, SINGLE_OBJECT, SUBJECT, schema_text
from tools.markdown import table

SCHEMAS = Path(__file__).parent.parent / "schemas"
EXAMPLES = SCHEMAS / "hypervisor_schemas" / "examples"


def contract() -> str:
    """Return the page as it has to be: the present one with its tables made anew."""
    text = (SCHEMAS / "README.md").read_text("utf-8")
    for name, made in TABLES.items():
        begin, end = f"<!-- {name}: made by `make docs` -->\n", f"<!-- end of {name} -->\n"
        if not text.count(begin) == text.count(end) == 1:
            raise ValueError(f"schemas/README.md has to name the table {name} once, by its two comments.")
        head, _, rest = text.partition(begin)
        text = head + begin + made() + end + rest.partition(end)[2]
    return text


def _record() -> str:
    rows = [
        (
            f"`{field['name']}`",
            _avro_type(field["type"]),
            "" if "default" not in field else f"`{json.dumps(field['default'])}`",
            field.get("doc", ""),
        )
        for field in json.loads(schema_text())["fields"]
    ]
    return table(("field, in this order", "type", "default", "meaning"), rows)


def _avro_type(kind: Any) -> str:
    if isinstance(kind, list):
        return " or ".join(_avro_type(branch) for branch in kind)
    return f"{kind['type']} ({kind['logicalType']})" if isinstance(kind, dict) else str(kind)


def _numbers() -> str:
    return table(
        ("constant", "value"),
        [
            ("the record's full name, and the registry's subject", f"`{SUBJECT}`"),
            ("single-object framing: the first 10 bytes", f"`{SINGLE_OBJECT.hex(' ')}`"),
            ("longest id, in characters", str(ID_CHARACTERS)),
            ("partitions of an event topic, when it is made", str(EVENT_PARTITIONS)),
            ("the largest batch that an event topic takes", f"{TOPICS[0].config['max.message.bytes']} bytes"),
        ],
    )


def _topics() -> str:
    rows = [(f"`hypervisor.{topic.name}`", topic.key) for topic in TOPICS if topic.written_by == "agents"]
    return table(("topic", "key: the first that is neither null nor empty"), rows)


def _payloads() -> str:
    parts = []
    for kind, types in TYPED_PAYLOADS.items():
        schema = json_schema(kind)
        rows = [
            (f"`{name}`", _json_type(field), "needed" if name in schema["required"] else "")
            for name, field in schema["properties"].items()
        ]
        names = ", ".join(f"`{value}`" for value in types)
        parts.append(f"**{kind.__name__}**: {names}\n\n" + table(("field", "type", ""), rows))
    return "\n".join(parts)


def _json_type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_json_type(branch) for branch in field["anyOf"])
    bounds = [str(field[key]) for key in ("minimum", "maximum") if key in field]
    limits = f" ({' to '.join(bounds)})" if len(bounds) == 2 else f" ({bounds[0]} or more)" if bounds else ""
    return str(field.get("type", "anything")) + limits


def _values() -> str:
    values = _example("payload_values.json")["values"]
    return table(("a value that is", "is written"), [(it["case"], f"`{it['json']}`") for it in values])


def _vectors() -> str:
    paths = sorted(EXAMPLES.glob("*.json"), key=lambda path: path.name)
    rows = [
        (f"[{path.stem}](hypervisor_schemas/examples/{path.name})", _example(path.name)["about"]) for path in paths
    ]
    return table(("file", "shows"), rows)


def _example(name: str) -> dict[str, Any]:
    return dict(json.loads((EXAMPLES / name).read_text("utf-8")))


TABLES = {
    "record": _record,
    "numbers": _numbers,
    "topics": _topics,
    "payloads": _payloads,
    "values": _values,
    "vectors": _vectors,
}
