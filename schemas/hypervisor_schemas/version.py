"""The version of this distribution. It stands in `pyproject.toml` alone."""

from __future__ import annotations

from functools import cache

__all__ = ["DISTRIBUTION", "our_version", "user_agent"]

DISTRIBUTION = "hypervisor-telemetry"


@cache
def our_version() -> str:
    """The version that is installed, such as "1.2.3"."""
    from importlib.metadata import version  # noqa: PLC0415 - 20 ms that an agent need not spend

    return version(DISTRIBUTION)


def user_agent() -> str:
    """The product and version by which our clients of HTTP and gRPC name themselves."""
    return f"{DISTRIBUTION}/{our_version()}"
