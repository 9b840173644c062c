"""OpenTelemetry's own environment variables: lists of pairs, and the resource that spans belong to."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.version import __version__ as sdk_version

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.version import our_version

__all__ = ["DEFAULT_SERVICE_NAME", "SERVICE_NAME", "read_pairs", "resource_of"]

SERVICE_NAME = "service.name"
DEFAULT_SERVICE_NAME = "agent-hypervisor"
"""The name of the agents' hypervisor, whose spans they are; not this service's own."""


def read_pairs(variable: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The pairs of a variable that is written `name=value,name=value`; values are percent-decoded.

    Raises:
        SettingError: A part has no name or no `=`. The text is not shown: it may be a list of secrets.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in environ.get(variable, "").split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise SettingError(
                variable, "must be name=value pairs, separated by commas, values percent-encoded; a part is none."
            )
        pairs[unquote(name.strip())] = unquote(value.strip())
    return pairs


def resource_of(environ: Mapping[str, str]) -> Resource:
    """The resource that `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` describe.

    Raises:
        SettingError: `OTEL_RESOURCE_ATTRIBUTES` is no list of pairs.
    """
    attributes = {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": sdk_version,
        "telemetry.distro.name": "hypervisor-telemetry",
        "telemetry.distro.version": our_version(),
        SERVICE_NAME: DEFAULT_SERVICE_NAME,
        **read_pairs("OTEL_RESOURCE_ATTRIBUTES", environ),
    }
    if name := environ.get("OTEL_SERVICE_NAME", "").strip():
        attributes[SERVICE_NAME] = name
    return Resource(attributes)
