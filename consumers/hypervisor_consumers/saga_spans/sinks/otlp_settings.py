"""`OTEL_EXPORTER_OTLP_*`, as OpenTelemetry's specification of exporters defines them.

Every variable has a twin for traces (`OTEL_EXPORTER_OTLP_TRACES_…`) that wins. The timeout is in milliseconds: so
says the specification; the Python SDK, alone among them, takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hypervisor_consumers.saga_spans.sinks.endpoints import Endpoint, parse_endpoint
from hypervisor_consumers.saga_spans.sinks.otel_environment import read_pairs
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.secret_files import secret_text

__all__ = ["OtlpSettings", "TlsFiles", "otlp_settings", "timeout_seconds_of"]

_BASE = "OTEL_EXPORTER_OTLP_"
_HTTP, _GRPC = "http/protobuf", "grpc"
_PATH = "/v1/traces"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The paths of PEM files; None where no file is named."""

    certificate: str | None = None
    """The authorities to trust, in place of the system's."""
    client_key: str | None = None
    client_certificate: str | None = None

    def readable(self) -> dict[str, bytes]:
        """The contents of the files, by field.

        Raises:
            SettingError: A file can't be read, or only one of the client's two is named.
        """
        if (self.client_key is None) != (self.client_certificate is None):
            raise SettingError(
                _BASE + ("CLIENT_KEY" if self.client_key is None else "CLIENT_CERTIFICATE"),
                "is not set; a client's key and its certificate are needed together.",
            )
        contents: dict[str, bytes] = {}
        for name in ("certificate", "client_key", "client_certificate"):
            path = getattr(self, name)
            if path is None:
                continue
            try:
                with open(path, "rb") as file:  # noqa: PTH123 - a path as the user wrote it
                    contents[name] = file.read()
            except OSError as error:
                raise SettingError(_BASE + name.upper(), f"{path} can't be read: {error.strerror}.") from None
        return contents


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """The settings to reach an OTLP receiver. Headers are secrets; they are in no `repr`."""

    is_grpc: bool
    url: str
    """The whole URL for HTTP; for gRPC the target, as gRPC writes it."""
    redacted_url: str
    is_secure: bool
    headers: Mapping[str, str] = field(repr=False)
    """The headers by their names in lower case."""
    tls: TlsFiles
    is_compressed: bool
    timeout_seconds: float
    """The longest that one request may take."""


def otlp_settings(environ: Mapping[str, str], endpoint: str = "") -> OtlpSettings:
    """The settings in this environment.

    Args:
        environ: The environment.
        endpoint: An address that wins over the variables. For HTTP `/v1/traces` is added, unless it ends so.

    Raises:
        SettingError: A variable has a value that can't be used, in a sentence without the value of a secret.
    """
    protocol = _value(environ, "PROTOCOL")[1] or _HTTP
    if protocol not in {_HTTP, _GRPC}:
        raise SettingError(
            _value(environ, "PROTOCOL")[0],
            f"can't be {protocol!r}; give {_HTTP} or {_GRPC}. Every receiver of OTLP takes one of them.",
        )
    is_grpc = protocol == _GRPC
    if is_grpc:
        url, redacted, is_secure, authorization = _grpc_target(environ, endpoint)
    else:
        url, redacted, authorization = _http_endpoint(environ, endpoint)
        is_secure = url.startswith("https:")
    headers = _headers(environ, _GRPC_NAME if is_grpc else _HTTP_NAME)
    if authorization is not None:
        headers.setdefault("authorization", authorization)
    variable, compression = _value(environ, "COMPRESSION")
    if compression not in {"", "gzip", "none"}:
        raise SettingError(variable, f"can't be {compression!r}; give gzip or none.")
    return OtlpSettings(
        is_grpc=is_grpc,
        url=url,
        redacted_url=redacted,
        is_secure=is_secure,
        headers=headers,
        tls=TlsFiles(
            certificate=_value(environ, "CERTIFICATE")[1] or None,
            client_key=_value(environ, "CLIENT_KEY")[1] or None,
            client_certificate=_value(environ, "CLIENT_CERTIFICATE")[1] or None,
        ),
        is_compressed=compression == "gzip",
        timeout_seconds=timeout_seconds_of(*_value(environ, "TIMEOUT")),
    )


def timeout_seconds_of(variable: str, text: str) -> float:
    """The seconds of a timeout that is written in milliseconds; 10 for an empty text.

    Raises:
        SettingError: It is no number above 0, or more than an hour.
    """
    if not text:
        return 10.0
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3_600_000:
        raise SettingError(variable, f"can't be {text!r}: it must be milliseconds, above 0 and at most an hour.")
    return value / 1000


def _value(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that counts, and its text; an empty one counts as not set."""
    for variable in (f"{_BASE}TRACES_{name}", _BASE + name):
        text = secret_text(environ, variable) if name == "HEADERS" else environ.get(variable, "")
        if text := text.strip():
            return variable, text
    return _BASE + name, ""


def _endpoint(environ: Mapping[str, str], option: str) -> tuple[str, str, bool]:
    """The setting that names the endpoint, its text, and whether the text is taken as it is."""
    if option:
        return "--sink otlp:URL", option, urlsplit(option).path.endswith(_PATH)
    variable, text = _value(environ, "ENDPOINT")
    return variable, text, variable.startswith(f"{_BASE}TRACES_")


def _http_endpoint(environ: Mapping[str, str], option: str) -> Endpoint:
    variable, text, is_whole = _endpoint(environ, option)
    text = text or "http://localhost:4318"
    parse_endpoint(variable, text)
    if not is_whole:
        parts = urlsplit(text)
        text = parts._replace(path=parts.path.rstrip("/") + _PATH).geturl()
    return parse_endpoint(variable, text)


def _grpc_target(environ: Mapping[str, str], option: str) -> tuple[str, str, bool, str | None]:
    """The target, the same for people, whether it is reached by TLS, and the authorization."""
    variable, text, _ = _endpoint(environ, option)
    text = text or "http://localhost:4317"
    if "://" not in text or text.startswith(("dns:", "unix:", "ipv4:", "ipv6:")):
        # A target in gRPC's own form; a variable of its own says whether to use TLS.
        if "@" in text or any(character.isspace() for character in text):
            raise SettingError(variable, "must be http://host:port, https://host:port or host:port.")
        insecure_variable, insecure = _value(environ, "INSECURE")
        if insecure.lower() not in {"", "true", "false"}:
            raise SettingError(insecure_variable, f"can't be {insecure!r}; give true or false.")
        return text, text, insecure.lower() != "true", None
    parsed = parse_endpoint(variable, text)
    parts = urlsplit(parsed.url)
    is_secure = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return (
        f"{host}:{parts.port or (443 if is_secure else 80)}",
        parsed.redacted_url,
        is_secure,
        parsed.authorization,
    )


_HTTP_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_GRPC_NAME = re.compile(r"[a-z0-9_.-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


def _headers(environ: Mapping[str, str], legal_name: re.Pattern[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    # The list for traces replaces the general one as a whole.
    variable, text = _value(environ, "HEADERS")
    for name, value in read_pairs(variable, {variable: text}).items():
        if not legal_name.fullmatch(name.lower()) or not _HEADER_VALUE.fullmatch(value):
            raise SettingError(variable, "has a name or a value that no header may have; it is not shown here.")
        headers[name.lower()] = value
    return headers
