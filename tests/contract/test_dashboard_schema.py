"""The dashboards' JSON is what Grafana's schema says, as its SDKs carry it: Python's types, Go's strict reader."""

from __future__ import annotations

import enum
import json
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.go_tools import go
from tools.dashboards.__main__ import FOLDER
from tools.dashboards.dashboard_files import FILES

READER = Path(__file__).parent.parent / "dashboard_schema"


def type_errors(value: Any, hint: Any, where: str) -> Iterator[str]:
    """A place where a value, read by the SDK, is not of the declared type."""
    if get_origin(hint) in {Union, types.UnionType}:
        kinds = [one for one in get_args(hint) if value is None or one is not types.NoneType]
        tried = [list(type_errors(value, one, where)) for one in kinds]
        if all(tried):
            # The kind that fits furthest is the one that was meant.
            yield from max(tried, key=lambda found: len(found[0].partition(":")[0]))
    elif hint in {Any, object}:
        if hasattr(value, "to_json"):
            yield from type_errors(value, type(value), where)
    elif get_origin(hint) is Literal:
        if value not in get_args(hint):
            yield f"{where}: {value!r} is none of {get_args(hint)}"
    elif get_origin(hint) in {list, dict}:
        if not isinstance(value, get_origin(hint)):
            yield f"{where}: {value!r} is no {hint}"
            return
        for place, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from type_errors(one, get_args(hint)[-1], f"{where}[{place}]")
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in {member.value for member in hint}:
            yield f"{where}: {value!r} is no {hint.__name__}"
    elif hint is float or hint is int:
        if isinstance(value, bool) or not isinstance(value, (int, float) if hint is float else int):
            yield f"{where}: {value!r} is no {hint.__name__}"
    elif isinstance(value, dict) and hasattr(hint, "from_json"):
        read = hint.from_json(value)
        yield from type_errors(read, hint, where)
        # What the SDK doesn't know it leaves out, and what is missing it puts in.
        if json.loads(json.dumps(read, cls=JSONEncoder)) != value:
            yield f"{where}: {value!r} is not the same when it was read and written again"
    elif not isinstance(value, hint):
        yield f"{where}: {value!r} is no {hint}"
    elif hasattr(value, "to_json"):
        for name, inner in get_type_hints(type(value)).items():
            yield from type_errors(getattr(value, name), inner, f"{where}.{name}")


def schema_errors(raw: dict[str, Any]) -> list[str]:
    """List the errors of a dashboard by the SDK's types."""
    register_default_plugins()
    return list(type_errors(raw, Dashboard, "dashboard"))


def committed(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text("utf-8"))
    for link in content["links"]:
        # Optional in the schema, and left out; Python's types know no link without it.
        assert "placement" not in link
        link["placement"] = "inControlsMenu"
    return content


@pytest.fixture
def raw() -> dict[str, Any]:
    return committed("agent-observability.json")


@pytest.mark.parametrize("name", FILES)
def test_it_has_the_types_of_the_sdk(name: str) -> None:
    assert schema_errors(committed(name)) == []


def test_a_field_of_a_wrong_type_is_told(raw: dict[str, Any]) -> None:
    raw["panels"][0]["options"]["legend"]["showLegend"] = "yes"
    assert schema_errors(raw) == ["dashboard.panels[0].options.legend.show_legend: 'yes' is no <class 'bool'>"]


def test_a_value_that_an_enumeration_does_not_have_is_told(raw: dict[str, Any]) -> None:
    raw["panels"][1]["options"]["graphMode"] = "circle"
    assert schema_errors(raw) == ["dashboard.panels[1].options.graph_mode: 'circle' is no BigValueGraphMode"]


def test_an_unknown_field_is_told(raw: dict[str, Any]) -> None:
    raw["panels"][0]["options"]["legend"]["colour"] = "red"
    assert [one.rpartition(" is ")[2] for one in schema_errors(raw)] == [
        "not the same when it was read and written again"
    ]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_grafanas_strict_reader_finds_no_fault(tmp_path: Path, raw: dict[str, Any]) -> None:
    reader = tmp_path / "reader"
    subprocess.run([go(), "build", "-o", str(reader), "."], cwd=READER, check=True)
    raw["panels"][0]["options"]["legend"]["colour"] = "red"
    del raw["panels"][0]["options"]["tooltip"]["mode"]
    (tmp_path / "faulty.json").write_text(json.dumps(raw), "utf-8")

    def read(*files: Path) -> list[str]:
        done = subprocess.run([str(reader), *map(str, files)], check=True, capture_output=True, text=True)
        return sorted(done.stdout.replace(f"{tmp_path}/", "").splitlines())

    assert read(*(FOLDER / name for name in FILES)) == []
    assert len(read(tmp_path / "faulty.json")) == 2
