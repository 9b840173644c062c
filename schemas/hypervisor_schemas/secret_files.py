"""Secrets from files: `<SETTING>_FILE` names a file that holds the value of `<SETTING>`.

Container platforms provide secrets as files; an environment is visible in `docker inspect` and in every child. Our
own secret settings are in `settings`. Those of other software that are read here too are in the tables below.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hypervisor_schemas.errors import SettingError

__all__ = ["KAFKA_SECRETS", "OTHER_SECRETS", "SUFFIX", "secret_text"]

SUFFIX = "_FILE"

KAFKA_SECRETS = (
    "KAFKA_SASL_USERNAME",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_SASL_OAUTHBEARER_CLIENT_ID",
    "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET",
    "KAFKA_SSL_KEY_PASSWORD",
    "KAFKA_SSL_KEYSTORE_PASSWORD",
)
"""Secret properties of librdkafka. Keys and certificates are files for it anyway (`KAFKA_SSL_CA_LOCATION` …)."""

OTHER_SECRETS = ("SCHEMA_REGISTRY_URL", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")


def secret_text(environ: Mapping[str, str], name: str) -> str:
    """The value of `name` in this environment, or its file's content without the line end; "" if neither is set.

    Raises:
        SettingError: Both are set, or the file can't be read, is empty or is no text. Its content is never shown.
    """
    text, path = environ.get(name, ""), environ.get(name + SUFFIX, "").strip()
    if not path:
        return text
    if text.strip():
        raise SettingError(name + SUFFIX, f"is set, and so is {name}; set one of them.")
    try:
        content = Path(path).read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingError(name + SUFFIX, f"names {path}, which can't be read: {error.strerror}.") from None
    except ValueError:
        raise SettingError(name + SUFFIX, f"names {path}, which is not text in UTF-8.") from None
    if not content.strip():
        raise SettingError(name + SUFFIX, f"names {path}, which is empty.")
    return content
