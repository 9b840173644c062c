"""`OTEL_EXPORTER_OTLP_*`, as OpenTelemetry's specification of exporters defines them.

Every variable has a twin for traces (`OTEL_EXPORTER_OTLP_TRACES_…`) that wins. The timeout is in milliseconds: so
says the specification; the Python SDK, alone among them, takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hypervisor_consumers.saga_spans.sinks.endpoints import Address, read_address
from hypervisor_consumers.saga_spans.sinks.otel_environment import read_pairs
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.secret_files import secret_text

__all__ = ["OtlpSettings", "TlsFiles", "milliseconds", "otlp_settings"]

_BASE = "OTEL_EXPORTER_OTLP_"
_HTTP, _GRPC = "http/protobuf", "grpc"
_PATH = "/v1/traces"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files; None where none is named."""

    certificate: str | None = None
    """Of the authorities to trust, in place of the system's."""
    client_key: str | None = None
    client_certificate: str | None = None

    def readable(self) -> dict[str, bytes]:
        """Their contents by field.

        Raises:
            SettingError: One can't be read, or only one of the client's two is named.
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
    """How to reach an OTLP receiver. Headers are secrets; they are in no `repr`."""

    is_grpc: bool
    url: str
    """Of HTTP: the whole; of gRPC: the target as gRPC writes it."""
    shown: str
    is_secure: bool
    headers: Mapping[str, str] = field(repr=False)
    """By names in lower case."""
    tls: TlsFiles
    is_compressed: bool
    timeout: float
    """Seconds that one request may take."""


def otlp_settings(environ: Mapping[str, str], endpoint: str = "") -> OtlpSettings:
    """The settings in this environment.

    Args:
        environ: The environment.
        endpoint: Wins over the variables that name one. For HTTP `/v1/traces` is added, unless it ends so.

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
        url, address_shown, is_secure, authorization = _grpc_target(environ, endpoint)
    else:
        address = _http_address(environ, endpoint)
        url, address_shown, authorization = address
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
        shown=address_shown,
        is_secure=is_secure,
        headers=headers,
        tls=TlsFiles(
            certificate=_value(environ, "CERTIFICATE")[1] or None,
            client_key=_value(environ, "CLIENT_KEY")[1] or None,
            client_certificate=_value(environ, "CLIENT_CERTIFICATE")[1] or None,
        ),
        is_compressed=compression == "gzip",
        timeout=milliseconds(*_value(environ, "TIMEOUT")),
    )


def milliseconds(variable: str, text: str) -> float:
    """A timeout in seconds; 10 where there is none.

    Raises:
        SettingError: It is no number above 0.
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
    """The variable that holds, and its text; an empty one counts as not set."""
    for variable in (f"{_BASE}TRACES_{name}", _BASE + name):
        text = secret_text(environ, variable) if name == "HEADERS" else environ.get(variable, "")
        if text := text.strip():
            return variable, text
    return _BASE + name, ""


def _endpoint(environ: Mapping[str, str], given: str) -> tuple[str, str, bool]:
    """What names it, its text, and whether that is whole, so that nothing is added."""
    if given:
        return "--sink otlp:URL", given, urlsplit(given).path.endswith(_PATH)
    variable, text = _value(environ, "ENDPOINT")
    return variable, text, variable.startswith(f"{_BASE}TRACES_")


def _http_address(environ: Mapping[str, str], given: str) -> Address:
    variable, text, is_whole = _endpoint(environ, given)
    text = text or "http://localhost:4318"
    read_address(variable, text)
    if not is_whole:
        parts = urlsplit(text)
        text = parts._replace(path=parts.path.rstrip("/") + _PATH).geturl()
    return read_address(variable, text)


def _grpc_target(environ: Mapping[str, str], given: str) -> tuple[str, str, bool, str | None]:
    """Target, the same for people, whether by TLS, and the authorization."""
    variable, text, _ = _endpoint(environ, given)
    text = text or "http://localhost:4317"
    if "://" not in text or text.startswith(("dns:", "unix:", "ipv4:", "ipv6:")):
        # gRPC's own ways to write it; the variable says whether by TLS.
        if "@" in text or any(character.isspace() for character in text):
            raise SettingError(variable, "must be http://host:port, https://host:port or host:port.")
        insecure_variable, insecure = _value(environ, "INSECURE")
        if insecure.lower() not in {"", "true", "false"}:
            raise SettingError(insecure_variable, f"can't be {insecure!r}; give true or false.")
        return text, text, insecure.lower() != "true", None
    address = read_address(variable, text)
    parts = urlsplit(address.url)
    is_secure = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if is_secure else 80)}", address.shown, is_secure, address.authorization


_HTTP_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_GRPC_NAME = re.compile(r"[a-z0-9_.-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


def _headers(environ: Mapping[str, str], legal_name: re.Pattern[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    # Of the two lists the traces' one holds, whole.
    variable, text = _value(environ, "HEADERS")
    for name, value in read_pairs(variable, {variable: text}).items():
        if not legal_name.fullmatch(name.lower()) or not _HEADER_VALUE.fullmatch(value):
            raise SettingError(variable, "has a name or a value that no header may have; it is not shown here.")
        headers[name.lower()] = value
    return headers
