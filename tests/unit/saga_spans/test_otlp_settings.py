"""OTEL_EXPORTER_OTLP_*: the specification's rules, and sentences for what can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypervisor_consumers.saga_spans.sinks.endpoints import parse_endpoint, redacted_url
from hypervisor_consumers.saga_spans.sinks.otlp_settings import OtlpSettings, TlsFiles, otlp_settings
from hypervisor_schemas.errors import SettingError

BASE, TRACES = "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"


def settings(given: str = "", **variables: str) -> OtlpSettings:
    return otlp_settings({BASE + name: text for name, text in variables.items()}, given)


def test_without_a_variable_it_is_http_to_this_machine():
    found = settings()
    assert (found.is_grpc, found.url, found.is_secure) == (False, "http://localhost:4318/v1/traces", False)
    assert (found.timeout_seconds, found.is_compressed, found.headers, found.tls) == (10.0, False, {}, TlsFiles())


@pytest.mark.parametrize(
    ("variables", "given", "url"),
    [
        ({"ENDPOINT": "http://c:4318"}, "", "http://c:4318/v1/traces"),
        ({"ENDPOINT": "http://c:4318/"}, "", "http://c:4318/v1/traces"),
        ({"ENDPOINT": "https://c/otlp/"}, "", "https://c/otlp/v1/traces"),
        ({"ENDPOINT": "https://c/v1/traces"}, "", "https://c/v1/traces/v1/traces"),
        ({"TRACES_ENDPOINT": "https://c/own", "ENDPOINT": "http://other"}, "", "https://c/own"),
        ({"TRACES_ENDPOINT": "https://c"}, "", "https://c"),
        ({"ENDPOINT": "http://c?key=1"}, "", "http://c/v1/traces?key=1"),
        ({"TRACES_ENDPOINT": "https://other"}, "http://c:1", "http://c:1/v1/traces"),
        ({}, "http://c:1/v1/traces", "http://c:1/v1/traces"),
        ({"ENDPOINT": " "}, "", "http://localhost:4318/v1/traces"),
    ],
)
def test_a_base_address_gets_the_path_and_the_traces_own_is_taken_as_it_is(
    variables: dict[str, str], given: str, url: str
):
    assert settings(given, **variables).url == url


@pytest.mark.parametrize(
    ("variables", "given", "target", "is_secure"),
    [
        ({}, "", "localhost:4317", False),
        ({"ENDPOINT": "http://c:4317"}, "", "c:4317", False),
        ({"ENDPOINT": "https://c:4317/ignored"}, "", "c:4317", True),
        ({"ENDPOINT": "https://c"}, "", "c:443", True),
        ({"ENDPOINT": "http://[::1]:4317"}, "", "[::1]:4317", False),
        ({"ENDPOINT": "c:4317"}, "", "c:4317", True),
        ({"ENDPOINT": "c:4317", "INSECURE": "TRUE"}, "", "c:4317", False),
        ({"ENDPOINT": "c:4317", "INSECURE": "true", "TRACES_INSECURE": "false"}, "", "c:4317", True),
        ({"ENDPOINT": "https://c:1", "INSECURE": "true"}, "", "c:1", True),
        ({"TRACES_ENDPOINT": "dns:///c:4317"}, "", "dns:///c:4317", True),
        ({"ENDPOINT": "http://other:1"}, "http://c:2", "c:2", False),
    ],
)
def test_of_grpc_the_scheme_says_whether_by_tls_and_without_one_the_variable(
    variables: dict[str, str], given: str, target: str, is_secure: bool
):
    found = settings(given, PROTOCOL="grpc", **variables)
    assert (found.is_grpc, found.url, found.is_secure) == (True, target, is_secure)


def test_every_variable_of_the_traces_wins():
    found = otlp_settings(
        {
            BASE + "HEADERS": "a=1,b=2",
            TRACES + "HEADERS": "Api-Key=x%20y%3D%2C , c = 3",
            BASE + "COMPRESSION": "gzip",
            TRACES + "COMPRESSION": "none",
            BASE + "TIMEOUT": "1",
            TRACES + "TIMEOUT": "2500",
            BASE + "PROTOCOL": "grpc",
            TRACES + "PROTOCOL": "http/protobuf",
            BASE + "CERTIFICATE": "ca",
            TRACES + "CERTIFICATE": "traces-ca",
            BASE + "CLIENT_KEY": "key",
            TRACES + "CLIENT_CERTIFICATE": "client",
        }
    )
    assert found.headers == {"api-key": "x y=,", "c": "3"}
    assert (found.is_compressed, found.timeout_seconds, found.is_grpc) == (False, 2.5, False)
    assert found.tls == TlsFiles("traces-ca", "key", "client")
    assert settings(COMPRESSION="gzip").is_compressed


def test_user_and_password_of_an_address_become_a_header_and_are_never_shown():
    found = settings(ENDPOINT="https://me:s%40cret@c:4318/x?key=s@cret")
    assert found.url == "https://c:4318/x/v1/traces?key=s@cret"
    assert found.headers == {"authorization": "Basic bWU6c0BjcmV0"}
    assert found.redacted_url == "https://c:4318/x/v1/traces"
    for text in (repr(found), repr(parse_endpoint("X", "https://me:hidden@c?key=hidden"))):
        assert "cret" not in text.replace(found.url, "")
        assert "hidden" not in text
    own = settings(ENDPOINT="https://me:pw@c", HEADERS="Authorization=Bearer%20t")
    assert own.headers == {"authorization": "Bearer t"}
    grpc = settings(PROTOCOL="grpc", ENDPOINT="https://me:pw@c:1")
    assert grpc.headers == {"authorization": "Basic bWU6cHc="}
    assert (grpc.url, grpc.redacted_url) == ("c:1", "https://c:1")


@pytest.mark.parametrize(
    ("text", "people_see"),
    [
        ("https://me:pw@c:1/p?key=x#f", "https://c:1/p"),
        ("console", "console"),
        ("otlp:me:pw@c", "otlp:…"),
        ("https://me:pw@", "https:…"),
    ],
)
def test_people_see_no_secret_of_any_text(text: str, people_see: str):
    assert redacted_url(text) == people_see


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL can't be 'http/json'; give http/protobuf or grpc. "
            "Every receiver of OTLP takes one of them.",
        ),
        ({"TRACES_PROTOCOL": "x"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL can't be 'x'; give"),
        ({"COMPRESSION": "zstd"}, "OTEL_EXPORTER_OTLP_COMPRESSION can't be 'zstd'; give gzip or none."),
        ({"TIMEOUT": "10s"}, "OTEL_EXPORTER_OTLP_TIMEOUT can't be '10s': it must be milliseconds, above 0"),
        ({"TIMEOUT": "0"}, "OTEL_EXPORTER_OTLP_TIMEOUT can't be '0': it must be milliseconds, above 0"),
        ({"TIMEOUT": "nan"}, "OTEL_EXPORTER_OTLP_TIMEOUT can't be 'nan': it must be milliseconds, above 0"),
        (
            {"ENDPOINT": "c:secret"},
            "OTEL_EXPORTER_OTLP_ENDPOINT must be http://host[:port][/path] or https://….",
        ),
        ({"ENDPOINT": "ftp://secret"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be http://host"),
        ({"ENDPOINT": "http://c:secret"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be http://host"),
        ({"ENDPOINT": "http://c /secret"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be http://host"),
        ({"TRACES_ENDPOINT": "secret"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must be http://host"),
        ({"HEADERS": "secret"}, "OTEL_EXPORTER_OTLP_HEADERS must be name=value pairs"),
        ({"HEADERS": "a b=secret"}, "OTEL_EXPORTER_OTLP_HEADERS has a name or a value that no header may have"),
        ({"HEADERS": "a=%0D%0Asecret"}, "OTEL_EXPORTER_OTLP_HEADERS has a name or a value that no header may have"),
        (
            {"PROTOCOL": "grpc", "HEADERS": "a!=secret"},
            "OTEL_EXPORTER_OTLP_HEADERS has a name or a value that no header may have",
        ),
        ({"PROTOCOL": "grpc", "ENDPOINT": "me:secret@c"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be http://host:port"),
        (
            {"PROTOCOL": "grpc", "ENDPOINT": "c:1", "INSECURE": "yes"},
            "OTEL_EXPORTER_OTLP_INSECURE can't be 'yes'; give true or false.",
        ),
    ],
)
def test_what_cannot_be_used_is_one_sentence_without_a_secret(variables: dict[str, str], sentence: str):
    with pytest.raises(SettingError) as refusal:
        settings(**variables)
    assert str(refusal.value).startswith(sentence)
    assert "secret" not in str(refusal.value)


def test_files_of_tls_are_read_or_named_in_a_sentence(tmp_path: Path):
    (tmp_path / "ca").write_bytes(b"pem")
    assert TlsFiles(certificate=str(tmp_path / "ca")).readable() == {"certificate": b"pem"}
    with pytest.raises(SettingError, match=r"^OTEL_EXPORTER_OTLP_CERTIFICATE /nowhere/ca can't be read: No such"):
        TlsFiles(certificate="/nowhere/ca").readable()
    with pytest.raises(SettingError, match=r"^OTEL_EXPORTER_OTLP_CLIENT_KEY is not set; .* needed together\.$"):
        TlsFiles(client_certificate="x").readable()
    with pytest.raises(SettingError, match=r"^OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE is not set; "):
        TlsFiles(client_key="x").readable()
