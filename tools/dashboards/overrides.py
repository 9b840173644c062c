"""How single columns and series of a panel differ from the others: their links, colours and thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.models.dashboard import (
    DynamicConfigValue,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)

__all__ = ["colour", "coloured_from", "links", "mappings", "painted", "unit"]


def colour(shade: str) -> DynamicConfigValue:
    """Always this colour."""
    return DynamicConfigValue("color", {"mode": "fixed", "fixedColor": shade})


def coloured_from(*steps: tuple[float | None, str]) -> DynamicConfigValue:
    """Thresholds: from which value on, and the colour; the first value is None."""
    return DynamicConfigValue(
        "thresholds", {"mode": "absolute", "steps": [{"value": value, "color": shade} for value, shade in steps]}
    )


def painted(kind: str = "color-background") -> DynamicConfigValue:
    """The cell (or its text: "color-text") in the colour of its value."""
    return DynamicConfigValue("custom.cellOptions", {"type": kind})


def links(leading_to: Sequence[Mapping[str, str | bool]]) -> DynamicConfigValue:
    """Where a click leads."""
    return DynamicConfigValue("links", list(leading_to))


def unit(name: str) -> DynamicConfigValue:
    """Another unit than the panel's."""
    return DynamicConfigValue("unit", name)


def mappings(names: Mapping[int, tuple[str, str]]) -> list[ValueMapping]:
    """Values under their names, in their colours."""
    return [
        ValueMap(
            {
                str(value): ValueMappingResult(text=name, color=shade, index=place)
                for place, (value, (name, shade)) in enumerate(names.items())
            }
        )
    ]
