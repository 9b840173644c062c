"""`topics apply` and `topics check`: compare the table of topics with a real Kafka.

Nothing that exists is ever changed: another partition count would move sessions to other partitions, and a
session's events would no longer meet in order. The topic of a service's state is created with as many partitions as
its source has then, and keeps them when the source grows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from hypervisor_schemas.connection import kafka_settings
from hypervisor_schemas.errors import KafkaError, SettingError
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import TOPICS, Topic
from hypervisor_telemetry.schema_tools.check_result import CheckResult

__all__ = ["apply_topics", "check_topics", "compare"]

REACHED_WITHIN = 10.0
"""Seconds to wait for Kafka's first answer."""

_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Existing:
    """A topic that exists, with the broker's values."""

    partitions: int
    replicas: int
    config: Mapping[str, str]


def compare(prefix: str, wanted: Sequence[Topic], existing: Mapping[str, Existing]) -> list[CheckResult]:
    """The result for each topic, in the table's order. Pure."""
    return [_compare_one(prefix + topic.name, topic, existing.get(prefix + topic.name)) for topic in wanted]


def _compare_one(name: str, wanted: Topic, existing: Existing | None) -> CheckResult:
    if existing is None:
        return CheckResult(name, "missing", "doesn't exist; `hypervisor-telemetry topics apply` creates it")
    differences = []
    if existing.partitions != wanted.partitions and wanted.follows is None:
        differences.append(
            f"has {existing.partitions} partitions, not {wanted.partitions} (it is left so: another count moves "
            "keys to other partitions)"
        )
    differences += [
        f"has {key}={existing.config.get(key)}, not {value} (set it with kafka-configs)"
        for key, value in wanted.config.items()
        if existing.config.get(key) != value
    ]
    if differences:
        return CheckResult(name, "different", "; ".join(differences))
    if existing.replicas == 1:
        return CheckResult(name, "warning", "has one replica: a lost disk loses its events")
    return CheckResult(name, "ok", f"{existing.partitions} partitions, {existing.replicas} replicas")


def check_topics(
    environ: Mapping[str, str], bootstrap_servers: str | None = None, wait: float = REACHED_WITHIN
) -> list[CheckResult]:
    """Compare the table with the broker's topics; changes nothing. Waits `wait` seconds at most for an answer.

    Raises:
        SettingError: A setting is missing or wrong.
        KafkaError: Kafka can't be reached or refused.
    """
    admin = _admin(environ, bootstrap_servers, wait)
    prefix = Settings.TOPIC_PREFIX.of(environ)
    return compare(prefix, TOPICS, _existing(admin, prefix))


def apply_topics(
    environ: Mapping[str, str], bootstrap_servers: str | None = None, wait: float = REACHED_WITHIN
) -> list[CheckResult]:
    """Create the topics that are missing, and compare the others. Waits `wait` seconds at most for a first answer.

    Raises:
        SettingError: A setting is missing or wrong.
        KafkaError: Kafka can't be reached or refused.
    """
    admin = _admin(environ, bootstrap_servers, wait)
    prefix = Settings.TOPIC_PREFIX.of(environ)
    existing = _existing(admin, prefix)
    before = compare(prefix, TOPICS, existing)
    missing = {result.name for result in before if result.status == "missing"}
    if missing:
        counts = {name.removeprefix(prefix): topic.partitions for name, topic in existing.items()}
        topics = [topic for topic in TOPICS if prefix + topic.name in missing]
        _create(admin, [(topic, counts.get(topic.follows or "", topic.partitions)) for topic in topics], environ)
    after = before if not missing else _compare_when_visible(admin, prefix)
    return [
        CheckResult(result.name, "created", result.sentence)
        if result.name in missing and not result.is_fault
        else result
        for result in after
    ]


def _compare_when_visible(admin: AdminClient, prefix: str) -> list[CheckResult]:
    """Compare again until the created topics are in the broker's answer: brokers learn of a topic one by one."""
    give_up_at = time.monotonic() + _ANSWER_SECONDS
    while True:
        results = compare(prefix, TOPICS, _existing(admin, prefix))
        if time.monotonic() > give_up_at or all(result.status != "missing" for result in results):
            return results
        time.sleep(0.1)


def _admin(environ: Mapping[str, str], bootstrap_servers: str | None, wait: float) -> AdminClient:
    """A client that has reached its Kafka."""
    settings = kafka_settings(environ, bootstrap_servers)
    try:
        # The client may not write to standard error: errors are raised.
        admin = AdminClient({**settings, "log_level": 0})
    except KafkaException as error:
        raise SettingError("KAFKA_*", f"settings don't go together: {error.args[0].str()}.") from None
    try:
        admin.list_topics(timeout=wait)
    except KafkaException as error:
        where = settings["bootstrap.servers"]
        raise KafkaError(f"Kafka at {where} didn't answer: {error.args[0].str()}.") from None
    return admin


def _existing(admin: AdminClient, prefix: str) -> dict[str, Existing]:
    try:
        topics = admin.list_topics(timeout=_ANSWER_SECONDS).topics
        ours = [prefix + topic.name for topic in TOPICS if prefix + topic.name in topics]
        if not ours:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in ours]
        configs = {
            resource.name: answer.result(timeout=_ANSWER_SECONDS)
            for resource, answer in admin.describe_configs(resources, request_timeout=_ANSWER_SECONDS).items()
        }
    except (KafkaException, TimeoutError) as error:
        raise KafkaError(f"Kafka didn't tell its topics: {_reason(error)}.") from None
    return {
        name: Existing(
            partitions=len(topics[name].partitions),
            replicas=min(len(partition.replicas) for partition in topics[name].partitions.values()),
            config={key: str(entry.value) for key, entry in configs[name].items()},
        )
        for name in ours
    }


def _create(admin: AdminClient, topics: Sequence[tuple[Topic, int]], environ: Mapping[str, str]) -> None:
    """Create these topics, each with its number of partitions."""
    prefix = Settings.TOPIC_PREFIX.of(environ)
    replicas = Settings.REPLICATION_FACTOR.of(environ)
    in_sync = Settings.MIN_INSYNC_REPLICAS.of(environ)
    extra = {} if in_sync is None else {"min.insync.replicas": str(in_sync)}
    wanted = [
        NewTopic(
            prefix + topic.name,
            num_partitions=partitions,
            replication_factor=-1 if replicas is None else replicas,
            config={**topic.config, **extra},
        )
        for topic, partitions in topics
    ]
    answers: Mapping[str, Any] = admin.create_topics(
        wanted, operation_timeout=_ANSWER_SECONDS, request_timeout=_ANSWER_SECONDS
    )
    for name, answer in answers.items():
        try:
            answer.result(timeout=_ANSWER_SECONDS)
        except (KafkaException, TimeoutError) as error:
            # Another client may have created it in the meantime.
            if not (isinstance(error, KafkaException) and error.args[0].name() == "TOPIC_ALREADY_EXISTS"):
                raise KafkaError(f"{name} can't be created: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    text = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
    return str(text).rstrip(".")
