"""Field overrides of panels: links, units, colours and thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.models.dashboard import (
    DynamicConfigValue,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)

__all__ = ["cell_colour", "data_links", "fixed_colour", "thresholds_at", "unit_override", "value_mappings"]


def fixed_colour(shade: str) -> DynamicConfigValue:
    """Set a fixed colour."""
    return DynamicConfigValue("color", {"mode": "fixed", "fixedColor": shade})


def thresholds_at(*steps: tuple[float | None, str]) -> DynamicConfigValue:
    """Set thresholds: the lowest value of each step, and its colour; the first value is None."""
    return DynamicConfigValue(
        "thresholds", {"mode": "absolute", "steps": [{"value": value, "color": shade} for value, shade in steps]}
    )


def cell_colour(kind: str = "color-background") -> DynamicConfigValue:
    """Show a cell (or its text: "color-text") in the colour of its value."""
    return DynamicConfigValue("custom.cellOptions", {"type": kind})


def data_links(targets: Sequence[Mapping[str, str | bool]]) -> DynamicConfigValue:
    """Set the links of a value."""
    return DynamicConfigValue("links", list(targets))


def unit_override(name: str) -> DynamicConfigValue:
    """Set another unit than the panel's."""
    return DynamicConfigValue("unit", name)


def value_mappings(names: Mapping[int, tuple[str, str]]) -> list[ValueMapping]:
    """Show values by their names, in their colours."""
    return [
        ValueMap(
            {
                str(value): ValueMappingResult(text=name, color=shade, index=index)
                for index, (value, (name, shade)) in enumerate(names.items())
            }
        )
    ]
