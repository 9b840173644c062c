"""Settings for reaching Kafka and the registry: `KAFKA_<PROPERTY>` sets librdkafka's `<property>`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cache

import confluent_kafka

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.secret_files import KAFKA_SECRETS, SUFFIX, secret_text

__all__ = ["kafka_settings", "registry_url"]

log = logging.getLogger(__name__)

OURS = frozenset({"isolation.level", "partitioner", "enable.auto.commit", "enable.idempotence", "transactional.id"})
"""Properties that the guarantees depend on; the environment can't change them."""

_FILES = frozenset(name + SUFFIX for name in KAFKA_SECRETS)


def kafka_settings(environ: Mapping[str, str], bootstrap_servers: str | None = None) -> dict[str, str]:
    """librdkafka's settings from the environment; an explicit `bootstrap_servers` wins.

    A `KAFKA_*` variable for which librdkafka has no property is ignored and logged at debug: Kubernetes injects
    `KAFKA_PORT` for a Service named kafka, and shells carry `KAFKA_HEAP_OPTS`. Secrets may come from files.

    Raises:
        SettingError: `KAFKA_BOOTSTRAP_SERVERS` is missing, a property has a value that librdkafka refuses, or a
            secret's file can't be used.
    """
    settings: dict[str, str] = {}
    secrets = {name: secret_text(environ, name) for name in KAFKA_SECRETS}
    for variable, value in {**environ, **secrets}.items():
        if not variable.startswith("KAFKA_") or not value or variable in _FILES:
            continue
        name = variable.removeprefix("KAFKA_").lower().replace("_", ".")
        refusal = _refusal(name, value)
        if refusal == _UNKNOWN:
            log.debug("%s is passed over: librdkafka has no property %s", variable, name)
        elif name in OURS:
            log.warning("%s is passed over: %s is not for the environment to set", variable, name)
        elif refusal:
            raise SettingError(
                variable, f"has a value that librdkafka refuses for {name}; see its CONFIGURATION.md."
            )
        else:
            settings[name] = value
    if bootstrap_servers:
        settings["bootstrap.servers"] = bootstrap_servers
    if not settings.get("bootstrap.servers"):
        raise SettingError(
            "KAFKA_BOOTSTRAP_SERVERS",
            "is not set; give the addresses of your Kafka as host:port[,host:port], "
            "or start one here with `hypervisor-telemetry kafka`.",
        )
    return settings


def registry_url(environ: Mapping[str, str]) -> str | None:
    """The value of `SCHEMA_REGISTRY_URL`; None without a registry. As it may hold a password, a file may hold it.

    Raises:
        SettingError: The file can't be used.
    """
    return secret_text(environ, "SCHEMA_REGISTRY_URL").strip() or None


# Properties that confluent-kafka takes for itself, as Python objects, before librdkafka sees them.
_OBJECTS = frozenset({"logger", "default.topic.config"})

_UNKNOWN = "unknown"
_NO_SUCH_PROPERTY = "no.such.property"


@cache
def _refusal(name: str, value: str) -> str:
    """librdkafka's objection to this property: none (""), "unknown" property, or a bad "value".

    Properties are set in order before anything starts. A second property that doesn't exist makes sure that no
    client is made.
    """
    if name in _OBJECTS:
        return _UNKNOWN
    try:
        confluent_kafka.Producer({name: value, _NO_SUCH_PROPERTY: ""})
    except confluent_kafka.KafkaException as error:
        # The property that is complained of makes the difference. The text is never shown: it may hold a value.
        complaint = str(error.args[0])
        if f'No such configuration property: "{_NO_SUCH_PROPERTY}"' in complaint:
            return ""
        return _UNKNOWN if re.search(r"No such configuration property", complaint) else "value"
    raise AssertionError("librdkafka took a property that doesn't exist")
