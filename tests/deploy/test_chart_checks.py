"""Values that can't work are refused: unknown keys by the schema, impossible combinations by a sentence."""

from __future__ import annotations

import pytest

from tests.deploy.chart import refusal, rendered

SENTENCES = {
    ("minimal", "services.eventIndex.replicas=2"): (
        "services.eventIndex keeps events in SQLite, which has one writer; set services.eventIndex.replicas to 1, "
        "or database.type to postgresql."
    ),
    ("minimal", "defaults.autoscaling.type=keda"): (
        "services.eventIndex keeps events in SQLite, which has one writer, so it can't be scaled; set "
        "services.eventIndex.autoscaling.type to none, or database.type to postgresql."
    ),
    ("minimal", "services.ringMetrics.replicas=13"): (
        "services.ringMetrics: replicas is 13, but topics have 12 partitions; a copy more than that would get none."
        " (Have the topics more? Set kafka.partitions.)"
    ),
    ("hpa", "services.sagaSpans.autoscaling.maxReplicas=13"): (
        "services.sagaSpans: autoscaling.maxReplicas is 13, but topics have 12 partitions; a copy more than that "
        "would get none."
    ),
    ("hpa", "defaults.autoscaling.minReplicas=7"): (
        "services.ringMetrics: autoscaling.minReplicas is above autoscaling.maxReplicas."
    ),
    ("minimal", "api.token="): (
        "services.eventIndex serves /v1 on 0.0.0.0 and needs a token; set api.existingSecret.name or api.token."
    ),
    ("metrics", "services.sagaSpans.enabled=true"): (
        "services.sagaSpans serves /v1 on 0.0.0.0 and needs a token; set api.existingSecret.name or api.token."
    ),
    ("minimal", "kafka.bootstrapServers="): (
        "kafka.bootstrapServers is not set; give the addresses of your Kafka as host:port[,host:port]."
    ),
    ("minimal", "image.repository="): "image.repository is empty; name the registry and path of your image.",
    ("minimal", "kafka.securityProtocol=SASL_SSL"): (
        "kafka.securityProtocol is SASL_SSL without a password; set kafka.sasl.existingSecret.name or "
        "kafka.sasl.password."
    ),
    ("strimzi", "kafka.sasl.username="): (
        "kafka.securityProtocol is SASL_SSL without a user; set kafka.sasl.username, or "
        "kafka.sasl.existingSecret.usernameKey."
    ),
    ("minimal", "kafka.sasl.username=telemetry"): (
        "kafka.sasl is set, but kafka.securityProtocol is PLAINTEXT, which knows no users; set SASL_SSL or "
        "SASL_PLAINTEXT."
    ),
    ("inline", "kafka.securityProtocol=SASL_PLAINTEXT"): (
        "kafka.tls is set, but kafka.securityProtocol is SASL_PLAINTEXT, which has no TLS; set SSL or SASL_SSL."
    ),
    ("inline", "kafka.tls.key="): (
        "kafka.tls.certificate and kafka.tls.key belong together; one of them is missing."
    ),
    ("full", "topics.minInsyncReplicas=4"): (
        "topics.minInsyncReplicas is above topics.replicationFactor; nothing could be written then."
    ),
    ("inline", "services.eventIndex.database.url="): (
        "services.eventIndex.database is postgresql without an address; set database.existingSecret.name or "
        "database.url."
    ),
    ("minimal", "services.eventIndex.database.url=postgresql+psycopg://a@b/c"): (
        "services.eventIndex.database.url is PostgreSQL's address; set database.type to postgresql."
    ),
    ("minimal", "services.ringMetrics.preStopSeconds=25"): (
        "services.ringMetrics: terminationGracePeriodSeconds must be 10 above preStopSeconds at least; a drain "
        "takes up to 10 s."
    ),
    ("full", "kafka.sasl.mechanism=OAUTHBEARER"): (
        "services.eventIndex is scaled by KEDA, which needs a TriggerAuthentication of your own for OAUTHBEARER; "
        "name it in autoscaling.authenticationRef."
    ),
    ("full", "services.eventIndex.enabled=false"): (
        "ingress leads to event-index, which is off; turn services.eventIndex on, or ingress off."
    ),
    ("full", "ingress.host="): "ingress.host is empty; name the host under which the API is reached.",
    ("minimal", "host=127.0.0.1"): (
        "host is 127.0.0.1, where neither probes nor Prometheus reach the services; set 0.0.0.0, or ::."
    ),
}


@pytest.mark.parametrize(("name", "setting"), SENTENCES)
def test_an_impossible_combination_is_refused_with_a_sentence(name: str, setting: str):
    assert f"\n- {SENTENCES[name, setting]}" in refusal(name, setting)


def test_a_lease_as_long_as_the_session_is_refused():
    said = refusal("minimal", "kafka.settings.session\\.timeout\\.ms=6000", "defaults.settings.TELEMETRY_LEASE=6")

    assert "TELEMETRY_LEASE must be less than kafka.settings' session.timeout.ms" in said
    rendered("minimal", "kafka.settings.session\\.timeout\\.ms=6000", "defaults.settings.TELEMETRY_LEASE=5")


def test_all_that_is_wrong_is_told_at_once():
    said = refusal("minimal", "api.token=", "kafka.bootstrapServers=", "services.eventIndex.replicas=2")

    assert said.count("\n- ") == 4


def test_everything_off_is_refused():
    services = ("ringMetrics", "sagaSpans", "eventIndex", "governanceMetrics")
    said = refusal("minimal", *(f"services.{each}.enabled=false" for each in services))

    assert "\n- Every service is off; turn one on with services.<service>.enabled." in said


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("kafak.bootstrapServers=x", "kafak"),
        ("kafka.bootstrapServer=x", "bootstrapServer"),
        ("services.ringMetric.replicas=1", "ringMetric"),
        ("services.ringMetrics.replica=1", "replica"),
        ("services.ringMetrics.database.type=sqlite", "database"),
        ("defaults.autoscaling.enabled=true", "enabled"),
        ("defaults.settings.TELEMETRY_SERIES_TTLS=1", "TELEMETRY_SERIES_TTLS"),
        ("defaults.settings.TELEMETRY_API_TOKEN=abc", "TELEMETRY_API_TOKEN"),
        ("defaults.settings.TELEMETRY_TOPIC_PREFIX=abc", "TELEMETRY_TOPIC_PREFIX"),
        ("services.sagaSpans.settings.OTEL_EXPORTER_OTLP_HEADERS=abc", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("kafka.settings.sasl\\.password=abc", "sasl.password"),
        ("kafka.settings.isolation\\.level=abc", "isolation.level"),
    ],
)
def test_an_unknown_key_is_refused_by_name(setting: str, key: str):
    said = refusal("minimal", setting)

    assert "values don't meet the specifications of the schema" in said
    assert key in said


@pytest.mark.parametrize(
    "setting",
    [
        "defaults.autoscaling.minReplicas=0",
        "defaults.autoscaling.type=both",
        "api.token=short",
        "kafka.securityProtocol=TLS",
        "services.eventIndex.database.volume.accessModes[0]=ReadWriteMany",
    ],
)
def test_a_value_that_makes_no_sense_is_refused(setting: str):
    assert "values don't meet the specifications of the schema" in refusal("minimal", setting)
