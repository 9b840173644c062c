"""Secrets that come from files: every one that is read, and what is said when a file is of no use."""

from pathlib import Path

import pytest

from hypervisor_consumers.saga_spans.sinks.otlp_settings import otlp_settings
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.connection import kafka_settings, registry_url
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.secret_files import KAFKA_SECRETS, OTHER_SECRETS, secret_text
from hypervisor_schemas.settings import SETTINGS, Settings

SERVERS = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
SECRET = [setting for setting in SETTINGS if setting.secret]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("hunter2\n")
    return file


@pytest.mark.parametrize("setting", SECRET, ids=lambda setting: setting.name)
def test_every_secret_setting_of_ours_may_come_from_a_file(setting, secret):
    assert setting.of({f"{setting.name}_FILE": str(secret)}) == setting.of({setting.name: "hunter2"})


@pytest.mark.parametrize("name", KAFKA_SECRETS)
def test_every_secret_of_kafka_may_come_from_a_file(name, secret):
    by_file = kafka_settings({**SERVERS, f"{name}_FILE": str(secret)})

    assert by_file == kafka_settings({**SERVERS, name: "hunter2"})
    assert "hunter2" in by_file.values()


def test_the_registrys_address_may_come_from_a_file(secret):
    secret.write_text("https://user:hunter2@registry\r\n")

    assert registry_url({"SCHEMA_REGISTRY_URL_FILE": str(secret)}) == "https://user:hunter2@registry"
    assert registry_url({}) is None


@pytest.mark.parametrize("name", [name for name in OTHER_SECRETS if name.startswith("OTEL")])
def test_the_headers_of_otlp_may_come_from_a_file(name, secret):
    secret.write_text("authorization=Bearer%20hunter2\n")

    assert otlp_settings({f"{name}_FILE": str(secret)}).headers == {"authorization": "Bearer hunter2"}


def test_a_setting_that_is_no_secret_has_no_file(secret):
    assert Settings.TOPIC_PREFIX.of({"TELEMETRY_TOPIC_PREFIX_FILE": str(secret)}) == "hypervisor."


def test_only_the_end_of_the_line_is_left_out(secret):
    secret.write_text(" two words \n\n")

    assert secret_text({"A_FILE": str(secret)}, "A") == " two words "


def test_without_a_file_the_setting_itself_holds(secret):
    assert secret_text({"A": "hunter2", "A_FILE": " "}, "A") == "hunter2"
    assert secret_text({"A": " ", "A_FILE": str(secret)}, "A") == "hunter2"
    assert secret_text({}, "A") == ""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "TELEMETRY_API_TOKEN_FILE names {path}, which can't be read: No such file or directory."),
        (b"", "TELEMETRY_API_TOKEN_FILE names {path}, which is empty."),
        (b" \n", "TELEMETRY_API_TOKEN_FILE names {path}, which is empty."),
        (b"\xff\xfe", "TELEMETRY_API_TOKEN_FILE names {path}, which is not text in UTF-8."),
    ],
)
def test_a_file_of_no_use_is_a_sentence(content, sentence, tmp_path):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SettingError) as caught:
        Settings.API_TOKEN.of({"TELEMETRY_API_TOKEN_FILE": str(path)})
    assert str(caught.value) == sentence.format(path=path)


def test_a_folder_is_no_secret(tmp_path):
    with pytest.raises(SettingError, match="can't be read: Is a directory"):
        secret_text({"A_FILE": str(tmp_path)}, "A")


@pytest.mark.parametrize("read", [kafka_settings, lambda environ: EventPublisher(environ=environ)])
def test_both_set_is_refused_and_neither_is_shown(read, secret):
    environ = {**SERVERS, "KAFKA_SASL_PASSWORD": "hunter1", "KAFKA_SASL_PASSWORD_FILE": str(secret)}

    with pytest.raises(SettingError) as caught:
        read(environ)
    assert str(caught.value) == "KAFKA_SASL_PASSWORD_FILE is set, and so is KAFKA_SASL_PASSWORD; set one of them."
