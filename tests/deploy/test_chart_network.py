"""Network policies: the clients of the services, and their own destinations."""

from __future__ import annotations

import pytest

from tests.deploy.chart import COMMANDS, NAME, rendered


def test_every_pod_has_a_policy_and_is_reached_on_its_port_alone():
    chart = rendered("minimal")

    for command in COMMANDS:
        spec = chart.one("NetworkPolicy", command)["spec"]
        assert spec["podSelector"] == chart.one("Deployment", command)["spec"]["selector"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert spec["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
        assert spec["egress"] == [{}]
    for job in ("topics", "check"):
        spec = chart.one("NetworkPolicy", job)["spec"]
        labels = chart.one("Job", job)["spec"]["template"]["metadata"]["labels"]
        assert spec["podSelector"]["matchLabels"].items() <= labels.items()
        assert "ingress" not in spec


def test_who_may_connect_can_be_said():
    [rule] = rendered("full").one("NetworkPolicy", "event-index")["spec"]["ingress"]

    assert [each["namespaceSelector"]["matchLabels"] for each in rule["from"]] == [
        {"kubernetes.io/metadata.name": "monitoring"},
        {"kubernetes.io/metadata.name": "ingress-nginx"},
    ]


def test_where_the_pods_may_connect_to_can_be_limited():
    chart = rendered("full", "kafka.bootstrapServers=a:9093\\,b:9094\\,c")
    dns, kafka, own = chart.one("NetworkPolicy", "ring-metrics")["spec"]["egress"]

    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert [port["port"] for port in kafka["ports"]] == [9093, 9094, 9092]
    assert [port["port"] for port in own["ports"]] == [5432, 8081, 4318]
    others = rendered("full", "networkPolicy.egress.kafkaPorts=[19092]")
    assert others.one("NetworkPolicy", "topics")["spec"]["egress"][1]["ports"] == [
        {"port": 19092, "protocol": "TCP"}
    ]
    # `helm test` asks the index.
    assert "event-index" in str(chart.one("NetworkPolicy", "check")["spec"]["egress"])


def test_policies_can_be_off():
    assert not rendered("minimal", "networkPolicy.enabled=false").all("NetworkPolicy")


def test_the_ingress_leads_to_the_api_of_the_index_and_nowhere_else():
    chart = rendered("full")
    spec = chart.one("Ingress", "event-index")["spec"]

    assert spec["ingressClassName"] == "nginx"
    assert spec["tls"] == [{"hosts": ["telemetry.example.com"], "secretName": "telemetry-example-com"}]
    [rule] = spec["rules"]
    [path] = rule["http"]["paths"]
    assert (rule["host"], path["path"], path["pathType"]) == ("telemetry.example.com", "/v1", "Prefix")
    assert path["backend"]["service"] == {"name": f"{NAME}-event-index", "port": {"name": "http"}}
    assert not rendered("minimal").all("Ingress")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_services_listen_where_probes_reach_them(host: str):
    for command in COMMANDS:
        args = rendered("minimal", f"host={host}").container(command)["args"]
        assert args[args.index("--host") + 1] == host
