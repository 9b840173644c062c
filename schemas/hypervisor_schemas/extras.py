"""One sentence for whoever uses something whose extra is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["importing_extra", "needs_extra"]

_PACKAGES = {
    "hypervisor": "agent-hypervisor",
    "opentelemetry": "the OpenTelemetry SDK",
    "prometheus_client": "prometheus-client",
}
"""Names of packages that differ from those of their modules."""

_OURS = ("hypervisor_schemas", "hypervisor_producers", "hypervisor_consumers", "hypervisor_telemetry")


@contextmanager
def importing_extra(extra: str, user: str) -> Iterator[None]:
    """Stand around the imports of packages that `extra` installs; `user` is the name or command that needs them.

    Raises:
        ImportError: A package is missing. The sentence names the user, the package and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in _OURS:
            raise
        raise ImportError(f"{user} {needs_extra(module, extra)}") from error


def needs_extra(module: str, extra: str) -> str:
    """The end of a sentence: `module` is needed, and `extra` installs it."""
    package = _PACKAGES.get(module, module)
    return f"needs {package}; install it with: pip install 'hypervisor-telemetry[{extra}]'"
