"""docs/api.md: the public names, and the errors that they raise, from their docstrings."""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Iterator

import hypervisor_telemetry
from hypervisor_schemas.errors import TelemetryError
from tools.markdown import table

__all__ = ["api", "raised_errors", "summary"]

_SECTION = re.compile(r"^(?:Raises|Every method raises):\n((?:[ ]{4}.*\n?|\n)*)", re.MULTILINE)
_ERRORS = re.compile(r"^[ ]{4}(\w+(?:, \w+)*):", re.MULTILINE)


def api() -> str:
    """The page."""
    errors = {name for name in hypervisor_telemetry.__all__ if _is_error(name)}
    others = [(f"`{name}`", summary(name)) for name in hypervisor_telemetry.__all__ if name not in errors]
    return (
        "# Public names\n\n<!-- Made by `make docs` from the code; edit it there. -->\n\n"
        "`from hypervisor_telemetry import …`. Names that are not here may change at any time.\n\n"
        + table(("name", "meaning"), others)
        + "\n## Errors\n\nCalls also raise Python's own `ValueError`, `TypeError` or `ImportError` where their "
        "docstrings say so. `EventPublisher.publish` raises nothing.\n\n"
        + table(("error", "meaning", "raised by"), [_error_row(name) for name in sorted(errors)])
    )


def summary(name: str) -> str:
    """The first sentence of a public name's docstring."""
    paragraph = " ".join(_documentation(getattr(hypervisor_telemetry, name)).partition("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph, maxsplit=1)[0]


def raised_errors(name: str) -> Iterator[tuple[str, str]]:
    """Each call of a public name, and an error that its docstring says it raises."""
    thing = getattr(hypervisor_telemetry, name)
    for member, text in [(name, _documentation(thing)), *_member_documentation(name, thing)]:
        for section in _SECTION.findall(text + "\n"):
            for errors in _ERRORS.findall(section):
                yield from ((member, error) for error in errors.split(", "))


def _member_documentation(name: str, thing: object) -> Iterator[tuple[str, str]]:
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        if member == "__init__":
            yield name, _documentation(value)
        elif not member.startswith("_"):
            yield f"{name}.{member}", _documentation(value)


def _documentation(thing: object) -> str:
    return inspect.getdoc(thing) or ""


def _is_error(name: str) -> bool:
    thing = getattr(hypervisor_telemetry, name)
    return inspect.isclass(thing) and issubclass(thing, TelemetryError)


def _error_row(error: str) -> tuple[str, str, str]:
    calls = [
        call for name in hypervisor_telemetry.__all__ for call, raised in raised_errors(name) if raised == error
    ]
    return f"`{error}`", summary(error), ", ".join(f"`{call}`" for call in dict.fromkeys(calls))


def is_builtin_error(name: str) -> bool:
    """Whether Python itself has an exception of this name."""
    thing = getattr(builtins, name, None)
    return inspect.isclass(thing) and issubclass(thing, BaseException)
