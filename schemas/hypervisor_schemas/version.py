"""The version of this distribution. It stands in `pyproject.toml` alone."""

from __future__ import annotations

from functools import cache

__all__ = ["DISTRIBUTION", "our_version"]

DISTRIBUTION = "hypervisor-telemetry"


@cache
def our_version() -> str:
    """The version that is installed, such as "1.2.3"."""
    from importlib.metadata import version  # noqa: PLC0415 - 20 ms that an agent need not spend

    return version(DISTRIBUTION)
