"""The number of copies: by lag and CPU (KEDA), by CPU alone (HPA), or as in the values; never by two of them."""

from __future__ import annotations

import pytest

from hypervisor_schemas.topics import TOPICS
from tests.deploy.chart import COMMANDS, KEYS, NAME, ci_values, rendered


@pytest.mark.parametrize("name", ci_values())
def test_a_deployment_is_scaled_by_one_thing_or_has_replicas(name: str):
    chart = rendered(name)
    scaled = [each["spec"]["scaleTargetRef"]["name"] for each in chart.all("ScaledObject")]
    scaled += [each["spec"]["scaleTargetRef"]["name"] for each in chart.all("HorizontalPodAutoscaler")]

    assert len(scaled) == len(set(scaled))
    for each in chart.all("Deployment"):
        assert ("replicas" in each["spec"]) != (each["metadata"]["name"] in scaled)


def test_keda_scales_by_the_lag_of_the_group_and_by_cpu_up_to_the_partitions():
    chart = rendered("full")
    sources = {topic.name for topic in TOPICS}

    for command in COMMANDS:
        spec = chart.one("ScaledObject", command)["spec"]
        lag, cpu = spec["triggers"]
        assert spec["scaleTargetRef"] == {"name": f"{NAME}-{command}"}
        assert spec["minReplicaCount"] == 2
        assert lag["type"] == "kafka"
        assert lag["metadata"]["consumerGroup"] == f"production.{command}"
        assert (lag["metadata"]["allowIdleConsumers"], lag["metadata"]["offsetResetPolicy"]) == (
            "false",
            "earliest",
        )
        assert (cpu["type"], cpu["metricType"]) == ("cpu", "Utilization")
        assert "cpu" in chart.container(command)["resources"]["requests"]
        if command != "event-index":
            assert lag["metadata"]["topic"].removeprefix("production.") in sources
            assert spec["maxReplicaCount"] == 24
    # All that the group reads, together.
    index = chart.one("ScaledObject", "event-index")["spec"]
    assert "topic" not in index["triggers"][0]["metadata"]
    assert index["maxReplicaCount"] == 6


def test_the_topic_whose_lag_scales_a_service_is_the_one_that_it_reads():
    chart = rendered("full")
    read_by = {topic.name: topic.read_by for topic in TOPICS}

    for command in COMMANDS:
        topic = chart.one("ScaledObject", command)["spec"]["triggers"][0]["metadata"].get("topic")
        if topic is not None:
            assert command in read_by[topic.removeprefix("production.")]


def test_keda_reaches_kafka_as_the_services_do():
    chart = rendered("full")
    metadata = chart.one("ScaledObject", "ring-metrics")["spec"]["triggers"][0]["metadata"]
    environ = chart.environ(chart.container("ring-metrics"))

    assert metadata["bootstrapServers"] == environ["KAFKA_BOOTSTRAP_SERVERS"]
    assert (metadata["tls"], metadata["sasl"]) == ("enable", "scram_sha512")
    places = {
        each["parameter"]: (each["name"], each["key"])
        for each in chart.one("TriggerAuthentication", "kafka")["spec"]["secretTargetRef"]
    }
    assert places["username"] == environ["KAFKA_SASL_USERNAME"]
    assert places["password"] == environ["KAFKA_SASL_PASSWORD"]
    assert places["keyPassword"] == environ["KAFKA_SSL_KEY_PASSWORD"]
    assert places["ca"] == ("kafka-ca", "ca.crt")
    assert (places["cert"], places["key"]) == (("telemetry-client", "tls.crt"), ("telemetry-client", "tls.key"))
    reference = chart.one("ScaledObject", "ring-metrics")["spec"]["triggers"][0]["authenticationRef"]
    assert reference == {"name": chart.one("TriggerAuthentication", "kafka")["metadata"]["name"]}


def test_secrets_that_stand_in_the_values_are_kedas_too():
    chart = rendered("inline")
    secret = chart.one("Secret")

    for each in chart.one("TriggerAuthentication", "kafka")["spec"]["secretTargetRef"]:
        assert each["name"] == secret["metadata"]["name"]
        assert each["key"] in secret["stringData"]


def test_without_sasl_and_tls_keda_needs_no_secret():
    chart = rendered("hpa", "defaults.autoscaling.type=keda")

    assert not chart.all("TriggerAuthentication")
    trigger = chart.one("ScaledObject", "saga-spans")["spec"]["triggers"][0]
    assert (trigger["metadata"]["tls"], trigger["metadata"]["sasl"]) == ("disable", "none")
    assert "authenticationRef" not in trigger


def test_an_authentication_of_your_own_is_used():
    chart = rendered(
        "full",
        "defaults.autoscaling.authenticationRef.name=mine",
        "defaults.autoscaling.authenticationRef.kind=ClusterTriggerAuthentication",
        "kafka.sasl.mechanism=OAUTHBEARER",
    )

    assert not chart.all("TriggerAuthentication")
    trigger = chart.one("ScaledObject", "saga-spans")["spec"]["triggers"][0]
    assert trigger["authenticationRef"] == {"name": "mine", "kind": "ClusterTriggerAuthentication"}
    assert trigger["metadata"]["sasl"] == "oauthbearer"


def test_the_plain_autoscaler_goes_by_the_cpu_of_the_service():
    chart = rendered("hpa")

    for command in set(COMMANDS) - {"event-index"}:
        spec = chart.one("HorizontalPodAutoscaler", command)["spec"]
        assert spec["scaleTargetRef"] == {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": f"{NAME}-{command}",
        }
        assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
        [metric] = spec["metrics"]
        assert metric["containerResource"] == {
            "name": "cpu",
            "container": command,
            "target": {"type": "Utilization", "averageUtilization": 60},
        }
    assert chart.one("Deployment", "event-index")["spec"]["replicas"] == 1


@pytest.mark.parametrize("kind", ["keda", "hpa"])
def test_copies_go_one_by_one(kind: str):
    chart = rendered("hpa", f"defaults.autoscaling.type={kind}")
    if kind == "keda":
        spec = chart.one("ScaledObject", "ring-metrics")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    else:
        spec = chart.one("HorizontalPodAutoscaler", "ring-metrics")["spec"]

    assert spec["behavior"]["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]


def test_services_are_scaled_each_in_its_own_way():
    own = f"services.{KEYS['ring-metrics']}.autoscaling.type"
    chart = rendered("hpa", f"{own}=keda", "services.sagaSpans.autoscaling.type=none")

    assert [each["metadata"]["name"] for each in chart.all("ScaledObject")] == [f"{NAME}-ring-metrics"]
    assert [each["metadata"]["name"] for each in chart.all("HorizontalPodAutoscaler")] == [
        f"{NAME}-governance-metrics"
    ]
    assert chart.one("Deployment", "saga-spans")["spec"]["replicas"] == 2
