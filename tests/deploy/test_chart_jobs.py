"""The topics job, and the check of `helm test`; both on a real Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.deploy.chart import NAME, Rendered, ci_values, rendered
from tests.support.service_processes import run_command

if TYPE_CHECKING:
    from hypervisor_telemetry.local.kafka_choice import Kafka


def hooks(chart: Rendered) -> dict[tuple[str, str], dict[str, str]]:
    return {
        (each["kind"], each["metadata"]["name"].removeprefix(f"{NAME}-")): each["metadata"]["annotations"]
        for each in chart.objects
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    }


def container_of(chart: Rendered, job: str, name: str) -> dict[str, Any]:
    [found] = [
        each for each in chart.one("Job", job)["spec"]["template"]["spec"]["containers"] if each["name"] == name
    ]
    return dict(found)


@pytest.mark.parametrize("name", ["inline", "minimal"])
def test_topics_are_made_before_install_and_upgrade_with_all_that_it_takes_there_already(name: str):
    chart = rendered(name)
    before = {what: each for what, each in hooks(chart).items() if each["helm.sh/hook"] != "test"}

    assert {each["helm.sh/hook"] for each in before.values()} == {"pre-install,pre-upgrade"}
    weights = {what: int(each["helm.sh/hook-weight"]) for what, each in before.items()}
    job = weights.pop(("Job", "topics"))
    assert all(weight < job for weight in weights.values())
    assert {("ServiceAccount", "topics"), ("NetworkPolicy", "topics")} <= weights.keys()
    assert (("Secret", "topics") in weights) == (name == "inline")
    # Accounts and secrets go when all is done; the job stays a day for its log.
    of_job = before.pop(("Job", "topics"))
    assert of_job["helm.sh/hook-delete-policy"] == "before-hook-creation"
    assert chart.one("Job", "topics")["spec"]["ttlSecondsAfterFinished"] == 86400
    assert all("hook-succeeded" in each["helm.sh/hook-delete-policy"] for each in before.values())


@pytest.mark.parametrize("name", ci_values())
def test_the_topics_job_uses_nothing_of_the_release_that_is_not_there_yet(name: str):
    chart = rendered(name)
    jobs = [each for each in chart.all("Job") if each["metadata"]["name"] == f"{NAME}-topics"]
    early = {each for each in hooks(chart) if each[1] == "topics"}

    for job in jobs:
        pod = job["spec"]["template"]["spec"]
        assert ("ServiceAccount", pod["serviceAccountName"].removeprefix(f"{NAME}-")) in early
        for container in pod["containers"]:
            assert "envFrom" not in container
        named = str(pod).split(NAME)[1:]
        assert all(rest.startswith("-topics'") for rest in named)


def test_the_topics_job_can_be_off():
    chart = rendered("metrics")

    assert [each["metadata"]["name"] for each in chart.all("Job")] == [f"{NAME}-check"]
    assert all(each["helm.sh/hook"] == "test" for each in hooks(chart).values())


def test_the_schema_is_registered_where_there_is_a_registry():
    assert container_of(rendered("full"), "topics", "schemas")["args"][:2] == ["schemas", "register"]
    assert "schemas" not in str(rendered("minimal").one("Job", "topics"))
    off = rendered("full", "schemaRegistry.register=false").one("Job", "topics")
    assert [each["name"] for each in off["spec"]["template"]["spec"]["containers"]] == ["topics"]


@pytest.mark.kafka
def test_the_jobs_do_what_they_are_for_on_a_real_kafka(kafka: Kafka, topic_prefix: str):
    chart = rendered(
        "metrics",
        "topics.apply=true",
        "topics.replicationFactor=1",
        f"kafka.bootstrapServers={kafka.bootstrap_servers}",
        f"kafka.topicPrefix={topic_prefix}",
    )
    apply, check = container_of(chart, "topics", "topics"), container_of(chart, "check", "topics")

    before = run_command(*check["args"], **chart.environ(check))
    made = run_command(*apply["args"], **chart.environ(apply))
    after = run_command(*check["args"], **chart.environ(check))
    again = run_command(*apply["args"], **chart.environ(apply))

    assert before.returncode == 1
    assert "missing" in before.stdout
    assert made.returncode == after.returncode == again.returncode == 0, made.stderr + after.stdout
    assert made.stdout.count("created") == len(made.stdout.splitlines())


def test_helm_test_asks_for_the_topics_and_the_index():
    chart = rendered("full")
    index = container_of(chart, "check", "index")

    assert container_of(chart, "check", "topics")["args"][:2] == ["topics", "check"]
    assert index["args"][:2] == ["query", "stats"]
    environ = chart.environ(index)
    assert environ["TELEMETRY_INDEX_URL"] == f"http://{NAME}-event-index:8002"
    assert environ["TELEMETRY_API_TOKEN"] == ("telemetry-api", "token")
    assert [
        each["name"] for each in rendered("metrics").one("Job", "check")["spec"]["template"]["spec"]["containers"]
    ] == ["topics"]
