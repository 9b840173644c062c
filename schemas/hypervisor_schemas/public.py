"""Public names say that they live in `hypervisor_telemetry`, from where users import them."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, TypeVar

__all__ = ["PUBLIC_MODULE", "public"]

PUBLIC_MODULE = "hypervisor_telemetry"

T = TypeVar("T")


def public(thing: T) -> T:
    """Mark a class or function as public: tracebacks, `repr` and pickles then name `hypervisor_telemetry`.

    Libraries look up the names in a dataclass's annotations in the module that the class names. So its annotations
    are resolved here, where they can still be.
    """
    marked: Any = thing
    if dataclasses.is_dataclass(thing):
        marked.__annotations__ = typing.get_type_hints(thing, include_extras=True)
        for field in dataclasses.fields(thing):
            field.type = marked.__annotations__[field.name]
    marked.__module__ = PUBLIC_MODULE
    return thing
