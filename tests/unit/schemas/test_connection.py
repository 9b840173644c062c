import logging

import confluent_kafka
import pytest

from hypervisor_schemas.connection import kafka_settings
from hypervisor_schemas.errors import SettingError

SERVERS = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:9092"}


def test_kafka_variables_set_the_properties_of_librdkafka():
    environ = SERVERS | {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "agent",
        "KAFKA_SASL_PASSWORD": "hunter2",
        "KAFKA_SOCKET_KEEPALIVE_ENABLE": "true",
    }
    assert kafka_settings(environ) == {
        "bootstrap.servers": "localhost:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "agent",
        "sasl.password": "hunter2",
        "socket.keepalive.enable": "true",
    }


def test_a_client_takes_what_comes_out():
    settings = kafka_settings({"KAFKA_CLIENT_ID": "agent-7", "KAFKA_LINGER_MS": "5"}, "127.0.0.1:1")
    assert isinstance(confluent_kafka.Producer(settings), confluent_kafka.Producer)


def test_explicit_servers_win_over_the_environment():
    assert kafka_settings(SERVERS, "other:1") == {"bootstrap.servers": "other:1"}
    assert kafka_settings({}, "other:1") == {"bootstrap.servers": "other:1"}


@pytest.mark.parametrize("environ", [{}, {"KAFKA_BOOTSTRAP_SERVERS": ""}, {"KAFKA_CLIENT_ID": "a"}])
def test_missing_servers_are_one_sentence_that_says_what_to_do(environ):
    with pytest.raises(SettingError, match=r"^KAFKA_BOOTSTRAP_SERVERS is not set; .*hypervisor-telemetry kafka"):
        kafka_settings(environ)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ("KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("KAFKA_HEAP_OPTS", "-Xmx1G"),
        ("KAFKA_HOME", "/opt/kafka"),
        ("KAFKA_LOG_DIRS", "/data"),
        ("KAFKA_", "x"),
        ("KAFKA_LOGGER", "x"),
        ("KAFKA_DEFAULT_TOPIC_CONFIG", "x"),
    ],
)
def test_what_librdkafka_has_no_property_for_is_passed_over_and_listed_at_debug(variable, value, caplog):
    with caplog.at_level(logging.DEBUG, logger="hypervisor_schemas.connection"):
        assert kafka_settings(SERVERS | {variable: value}) == {"bootstrap.servers": "localhost:9092"}
    assert [(record.levelname, variable in record.getMessage()) for record in caplog.records] == [("DEBUG", True)]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KAFKA_ISOLATION_LEVEL", "read_uncommitted"),
        ("KAFKA_PARTITIONER", "random"),
        ("KAFKA_PARTITIONER", "nonsense"),
        ("KAFKA_ENABLE_AUTO_COMMIT", "true"),
        ("KAFKA_ENABLE_IDEMPOTENCE", "false"),
        ("KAFKA_TRANSACTIONAL_ID", "mine"),
    ],
)
def test_what_the_promises_rest_on_is_not_for_the_environment_to_set(variable, value, caplog):
    assert kafka_settings(SERVERS | {variable: value}) == {"bootstrap.servers": "localhost:9092"}
    assert [(record.levelname, variable in record.getMessage()) for record in caplog.records] == [("WARNING", True)]


def test_a_value_that_librdkafka_refuses_names_the_variable_and_never_shows_the_value():
    with pytest.raises(SettingError) as caught:
        kafka_settings(SERVERS | {"KAFKA_SECURITY_PROTOCOL": "hunter2"})
    assert caught.value.setting == "KAFKA_SECURITY_PROTOCOL"
    assert "security.protocol" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_secret_reaches_the_log(caplog):
    with caplog.at_level(logging.DEBUG):
        kafka_settings(SERVERS | {"KAFKA_SASL_PASSWORD": "hunter2", "KAFKA_KEY_STORE_PASSWORD": "hunter3"})
    assert "KAFKA_KEY_STORE_PASSWORD" in caplog.text
    assert "hunter" not in caplog.text


def test_other_variables_and_empty_ones_do_not_matter():
    assert kafka_settings(SERVERS | {"MY_KAFKA_CLIENT_ID": "a", "KAFKA_CLIENT_ID": ""}) == {
        "bootstrap.servers": "localhost:9092"
    }
