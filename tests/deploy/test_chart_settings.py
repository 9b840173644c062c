"""The processes' settings: every variable is a setting, every argument an option, every secret in a Secret."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
import typer

from hypervisor_consumers.saga_spans.sinks.factory import make_span_sink
from hypervisor_schemas.connection import kafka_settings
from hypervisor_schemas.settings import SETTINGS
from hypervisor_telemetry.cli.app import app
from tests.deploy.chart import COMMANDS, NAME, Rendered, ci_values, rendered

BY_NAME = {setting.name: setting for setting in SETTINGS}


def option_values(args: list[str]) -> dict[str, Any]:
    """Parse these arguments with the real command, without running it."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, args = command.commands[args[0]], args[1:]
    parameters: dict[str, Any] = command.make_context(command.name, list(args)).params
    return parameters


def own_secrets(chart: Rendered) -> dict[tuple[str, str], str]:
    return {
        (each["metadata"]["name"], key): text
        for each in chart.all("Secret")
        for key, text in each["stringData"].items()
    }


@pytest.mark.parametrize("name", ci_values())
def test_every_argument_is_one_of_the_command(name: str):
    for owner, pod in rendered(name).pods():
        for container in pod["containers"]:
            assert "command" not in container, owner
            options = option_values(container["args"])
            if container["args"][0] in COMMANDS:
                assert options["host"] == "0.0.0.0"
                assert options["port"] == container["ports"][0]["containerPort"]
                assert container["args"][0] == container["name"]


@pytest.mark.parametrize("name", ci_values())
def test_every_variable_is_a_setting_that_the_services_know_and_can_read(
    name: str, caplog: pytest.LogCaptureFixture
):
    chart = rendered(name)
    secrets = own_secrets(chart)
    for owner, pod in chart.pods():
        for container in pod["containers"]:
            # Of a Secret that isn't the chart's, only the place is known; any text stands for it.
            environ = {
                key: value if isinstance(value, str) else secrets.get(value, "x" * 16)
                for key, value in chart.environ(container).items()
            }
            with caplog.at_level(logging.DEBUG, "hypervisor_schemas.connection"):
                of_kafka = kafka_settings(environ)
            assert not caplog.records, owner
            for variable, text in environ.items():
                if variable.startswith("KAFKA_"):
                    assert of_kafka[variable.removeprefix("KAFKA_").lower().replace("_", ".")] == text
                elif variable.startswith("TELEMETRY_"):
                    BY_NAME[variable].of(environ)
                else:
                    assert variable == "SCHEMA_REGISTRY_URL" or variable.startswith("OTEL_")


@pytest.mark.parametrize("name", ci_values())
def test_every_key_of_a_secret_of_the_charts_own_is_there_and_none_is_left_over(name: str):
    chart = rendered(name)
    there = own_secrets(chart)
    used: set[tuple[str, str]] = set()
    for _, pod in chart.pods():
        for container in pod["containers"]:
            used |= {value for value in chart.environ(container).values() if isinstance(value, tuple)}
        for volume in pod["volumes"]:
            for source in volume.get("projected", {}).get("sources", ()):
                used |= {(source["secret"]["name"], item["key"]) for item in source["secret"]["items"]}
    own = {place for place in used if place[0].startswith(NAME)}

    assert own == there.keys()


def test_the_environment_of_a_fleet_is_what_the_values_say():
    chart = rendered("full")
    told = chart.environ(chart.container("event-index"))

    assert told == {
        "KAFKA_BOOTSTRAP_SERVERS": "kafka-0.example.com:9093,kafka-1.example.com:9093,kafka-2.example.com:9093",
        "KAFKA_FETCH_WAIT_MAX_MS": "250",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_PASSWORD": ("telemetry-kafka", "password"),
        "KAFKA_SASL_USERNAME": ("telemetry-kafka", "username"),
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SOCKET_KEEPALIVE_ENABLE": "true",
        "KAFKA_SSL_CA_LOCATION": "/etc/hypervisor-telemetry/kafka/ca.crt",
        "KAFKA_SSL_CERTIFICATE_LOCATION": "/etc/hypervisor-telemetry/kafka/tls.crt",
        "KAFKA_SSL_KEY_LOCATION": "/etc/hypervisor-telemetry/kafka/tls.key",
        "KAFKA_SSL_KEY_PASSWORD": ("telemetry-client", "tls.password"),
        "SCHEMA_REGISTRY_URL": ("telemetry-registry", "url"),
        "TELEMETRY_API_TOKEN": ("telemetry-api", "token"),
        "TELEMETRY_DATABASE_URL": ("telemetry-database", "url"),
        "TELEMETRY_INDEX_RETENTION": "30d",
        "TELEMETRY_MAX_SERIES": "1000000",
        "TELEMETRY_TOPIC_PREFIX": "production.",
    }


def test_certificates_are_files_where_the_settings_say_they_are():
    chart = rendered("full")
    container = chart.container("ring-metrics")
    [folder] = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "kafka-tls"]
    [volume] = [volume for volume in chart.pod("ring-metrics")["volumes"] if volume["name"] == "kafka-tls"]
    files = {
        f"{folder}/{item['path']}": (source["secret"]["name"], item["key"])
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }

    environ = chart.environ(container)
    assert files == {
        environ["KAFKA_SSL_CA_LOCATION"]: ("kafka-ca", "ca.crt"),
        environ["KAFKA_SSL_CERTIFICATE_LOCATION"]: ("telemetry-client", "tls.crt"),
        environ["KAFKA_SSL_KEY_LOCATION"]: ("telemetry-client", "tls.key"),
    }


def test_a_secret_of_the_values_is_nowhere_but_in_secrets():
    chart = rendered("inline")
    texts = ["first-secret", "second-secret", "third-secret", "a-token-of-the-example", "Bearer%20abc", "its key"]

    for text in texts:
        holders = {each["kind"] for each in chart.objects if text in str(each)}
        assert holders == {"Secret"}, text
        assert not any(base64.b64encode(text.encode()).decode() in str(each) for each in chart.objects)


def test_the_sinks_of_spans_are_those_of_the_values():
    chart = rendered("inline", 'services.sagaSpans.sinks=["zipkin:http://zipkin:9411/api/v2/spans", "null"]')
    place = chart.environ(chart.container("saga-spans"))["TELEMETRY_SPAN_SINKS"]

    text = own_secrets(chart)[place]
    assert text == "zipkin:http://zipkin:9411/api/v2/spans,null"
    make_span_sink((), {"TELEMETRY_SPAN_SINKS": text}).close()


@pytest.mark.parametrize(
    "setting",
    ["kafka.settings.linger\\.ms=7", "kafka.bootstrapServers=other:9092", "api.token=another-token-of-it"],
)
def test_a_setting_that_changes_starts_the_copies_anew(setting: str):
    def checksums(chart: Rendered) -> dict[str, str]:
        return {
            command: chart.one("Deployment", command)["spec"]["template"]["metadata"]["annotations"][
                "checksum/config"
            ]
            for command in COMMANDS
        }

    before = checksums(rendered("minimal"))
    after = checksums(rendered("minimal", setting))
    assert all(before[command] != after[command] for command in COMMANDS)


def test_large_numbers_are_written_as_people_write_them():
    chart = rendered("minimal", "defaults.settings.TELEMETRY_DUPLICATE_WINDOW=100000000")

    assert chart.environ(chart.container("ring-metrics"))["TELEMETRY_DUPLICATE_WINDOW"] == "100000000"


def test_more_of_ones_own_comes_along():
    chart = rendered(
        "minimal",
        'defaults.env=[{"name": "OTEL_SERVICE_NAME", "value": "x"}]',
        'defaults.volumes=[{"name": "extra", "emptyDir": {}}]',
        'defaults.volumeMounts=[{"name": "extra", "mountPath": "/extra"}]',
    )

    container = chart.container("saga-spans")
    assert chart.environ(container)["OTEL_SERVICE_NAME"] == "x"
    assert container["volumeMounts"][-1] == {"name": "extra", "mountPath": "/extra"}
    assert chart.pod("saga-spans")["volumes"][-1] == {"name": "extra", "emptyDir": {}}
