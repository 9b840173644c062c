"""Pods: a Deployment per service, its identity, its rights, its start and end."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime import process as runtime
from tests.deploy.chart import COMMANDS, KEYS, NAME, ci_values, rendered

PORTS = {"ring-metrics": 8000, "saga-spans": 8001, "event-index": 8002, "governance-metrics": 8003}


def test_there_is_a_deployment_and_a_service_per_service():
    chart = rendered("minimal")

    for command in COMMANDS:
        assert chart.container(command)["ports"] == [
            {"name": "http", "containerPort": PORTS[command], "protocol": "TCP"}
        ]
        spec = chart.one("Service", command)["spec"]
        assert [(port["port"], port["targetPort"]) for port in spec["ports"]] == [(PORTS[command], "http")]
        labels = chart.one("Deployment", command)["spec"]["template"]["metadata"]["labels"]
        assert spec["selector"].items() <= labels.items()
        assert chart.one("Deployment", command)["spec"]["selector"]["matchLabels"] == spec["selector"]
    assert len(chart.all("Deployment")) == len(chart.all("Service")) == len(COMMANDS)


@pytest.mark.parametrize("off", COMMANDS)
def test_each_service_can_be_off_with_all_that_is_its_own(off: str):
    chart = rendered("minimal", f"services.{KEYS[off]}.enabled=false")

    left = {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in chart.objects}
    assert left == {*COMMANDS, "settings", "topics", "check"} - {off}


def test_what_is_set_for_a_service_wins_over_the_defaults_also_if_it_is_nothing():
    chart = rendered(
        "minimal",
        "defaults.replicas=3",
        "services.ringMetrics.replicas=4",
        "services.ringMetrics.podDisruptionBudget.enabled=false",
        "services.ringMetrics.preStopSeconds=0",
        "services.ringMetrics.resources.requests.cpu=2",
        "defaults.settings.TELEMETRY_SERIES_TTL=3600",
        "services.ringMetrics.settings.TELEMETRY_SERIES_TTL=60",
    )

    assert chart.one("Deployment", "ring-metrics")["spec"]["replicas"] == 4
    assert chart.one("Deployment", "saga-spans")["spec"]["replicas"] == 3
    budgets = {each["metadata"]["name"] for each in chart.all("PodDisruptionBudget")}
    assert budgets == {f"{NAME}-{command}" for command in COMMANDS if command != "ring-metrics"}
    assert "lifecycle" not in chart.container("ring-metrics")
    assert "lifecycle" in chart.container("saga-spans")
    requests = chart.container("ring-metrics")["resources"]["requests"]
    assert (requests["cpu"], requests["memory"]) == (2, "640Mi")
    told = {command: chart.environ(chart.container(command))["TELEMETRY_SERIES_TTL"] for command in COMMANDS}
    assert told == {**dict.fromkeys(COMMANDS, "3600"), "ring-metrics": "60"}


@pytest.mark.parametrize("name", ci_values())
def test_every_pod_is_what_pod_security_calls_restricted(name: str):
    for owner, pod in rendered(name).pods():
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys(), owner
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "projected", "persistentVolumeClaim", "secret", "configMap"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "hostPort" not in str(container.get("ports"))


@pytest.mark.parametrize("name", ci_values())
def test_no_pod_has_a_token_of_kubernetes_nor_variables_of_other_services(name: str):
    chart = rendered(name)

    assert all(each["automountServiceAccountToken"] is False for each in chart.all("ServiceAccount"))
    for owner, pod in chart.pods():
        assert pod["automountServiceAccountToken"] is False, owner
        assert pod["enableServiceLinks"] is False, owner
        assert pod["serviceAccountName"] in {each["metadata"]["name"] for each in chart.all("ServiceAccount")}, (
            owner
        )


def test_only_tmp_and_the_volume_of_sqlite_can_be_written():
    chart = rendered("full")
    for command in COMMANDS:
        writable = [
            mount["mountPath"] for mount in chart.container(command)["volumeMounts"] if not mount.get("readOnly")
        ]
        assert writable == ["/tmp"]  # noqa: S108

    of_index = rendered("minimal").container("event-index")["volumeMounts"]
    assert [mount["mountPath"] for mount in of_index] == ["/tmp", "/var/lib/hypervisor-telemetry"]  # noqa: S108


def test_a_start_may_take_minutes_and_a_restore_as_long_as_it_takes():
    container = rendered("minimal").container("ring-metrics")

    startup, live, ready = (container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe"))
    assert startup["httpGet"] == live["httpGet"] == {"path": "/healthz", "port": "http"}
    assert ready["httpGet"] == {"path": "/readyz", "port": "http"}
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
    # What waits for Kafka or restores is not ready, and nobody ends it: only a loop that stands does.
    assert all("/readyz" not in str(probe) for probe in (startup, live))


def test_a_copy_has_the_time_to_drain_before_it_is_killed():
    for command in COMMANDS:
        chart = rendered("minimal")
        before = chart.container(command)["lifecycle"]["preStop"]
        # A sleep of Kubernetes' own: the image needs no shell.
        assert before == {"sleep": {"seconds": 5}}
        assert chart.pod(command)["terminationGracePeriodSeconds"] > 5 + runtime.STOP_SECONDS + 2


def test_a_new_copy_is_ready_before_an_old_one_stops():
    spec = rendered("full").one("Deployment", "event-index")["spec"]

    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert spec["progressDeadlineSeconds"] > 600


def test_copies_are_spread_over_zones_and_nodes_version_by_version():
    pod = rendered("full").pod("ring-metrics")

    assert [
        (each["topologyKey"], each["whenUnsatisfiable"], each["matchLabelKeys"])
        for each in pod["topologySpreadConstraints"]
    ] == [
        ("topology.kubernetes.io/zone", "DoNotSchedule", ["pod-template-hash"]),
        ("kubernetes.io/hostname", "DoNotSchedule", ["pod-template-hash"]),
    ]


def test_one_copy_at_a_time_may_be_taken_away_on_purpose():
    chart = rendered("minimal")
    for command in COMMANDS:
        spec = chart.one("PodDisruptionBudget", command)["spec"]
        assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
        assert spec["selector"] == chart.one("Deployment", command)["spec"]["selector"]


def test_on_sqlite_the_index_is_one_copy_on_a_volume_that_the_old_one_leaves_first():
    chart = rendered("minimal")
    spec = chart.one("Deployment", "event-index")["spec"]

    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    claim = chart.one("PersistentVolumeClaim", "event-index")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert {"name": "events", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}} in chart.pod(
        "event-index"
    )["volumes"]
    url = chart.environ(chart.container("event-index"))["TELEMETRY_DATABASE_URL"]
    assert url == "sqlite:////var/lib/hypervisor-telemetry/events.db"


def test_a_claim_that_is_there_is_used():
    chart = rendered("sqlite")

    assert not chart.all("PersistentVolumeClaim")
    assert "'claimName': 'events'" in str(chart.pod("event-index")["volumes"])


def test_on_postgresql_the_index_has_copies_and_no_volume():
    chart = rendered("inline", "defaults.autoscaling.type=none")

    assert chart.one("Deployment", "event-index")["spec"]["replicas"] == 2
    assert not chart.all("PersistentVolumeClaim")


def test_the_image_is_one_by_tag_or_digest():
    by_tag = {container["image"] for _, pod in rendered("minimal").pods() for container in pod["containers"]}
    by_digest = {container["image"] for _, pod in rendered("full").pods() for container in pod["containers"]}

    assert by_tag == {"hypervisor-telemetry:0.1.0"}
    [image] = by_digest
    assert image.startswith("registry.example.com/telemetry/hypervisor-telemetry@sha256:0123")


def test_names_stay_within_what_kubernetes_takes():
    chart = rendered("minimal", f"fullnameOverride={'n' * 80}")

    assert max(len(each["metadata"]["name"]) for each in chart.objects) <= 63
