"""The tables of docs/ and schemas/README.md, made from the code. `make docs` writes them; a test compares them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypervisor_consumers.event_index.metric_defs import INDEX_METRICS
from hypervisor_consumers.governance_metrics.metric_defs import GOVERNANCE_METRICS
from hypervisor_consumers.ring_metrics.metric_defs import RING_METRICS
from hypervisor_consumers.runtime.ops.runtime_metric_defs import SELF_METRICS
from hypervisor_consumers.saga_spans.metric_defs import SAGA_METRICS
from hypervisor_producers.governance.errors import GOVERNANCE_OVERFLOW, GOVERNANCE_TROUBLES, TROUBLES
from hypervisor_producers.metrics import PUBLISHER_METRICS
from hypervisor_schemas.events import EventType, GovernanceEventType
from hypervisor_schemas.governance import ACTIVE_AGENTS, AUDIT_EVENTS, GOVERNANCE_INSTRUMENTS, TRUST_SCORE
from hypervisor_schemas.secret_files import KAFKA_SECRETS, OTHER_SECRETS
from hypervisor_schemas.settings import SETTINGS
from hypervisor_schemas.topics import TOPICS, category_of
from observability.prometheus.log_owned import log_owned_file
from tests.deploy.chart_readme import readme
from tests.deploy.strimzi import strimzi_topics
from tools.api_page import api
from tools.generate_contract import contract
from tools.markdown import table as _table

DOCS = Path(__file__).parents[1] / "docs"
NOTE = "<!-- Made by `make docs` from the code; edit it there. -->\n\n"


def settings() -> str:
    rows = [
        (
            f"`{setting.name}`",
            "" if setting.default in {None, ()} else f"`{_text(setting.default)}`",
            setting.meaning
            + (f" Never logged; may come from a file, `{setting.name}_FILE`." if setting.secret else ""),
        )
        for setting in SETTINGS
    ]
    return (
        "# Settings\n\n"
        + NOTE
        + "All are environment variables. `KAFKA_<PROPERTY>` sets librdkafka's `<property>` "
        "(`KAFKA_BOOTSTRAP_SERVERS`, `KAFKA_SECURITY_PROTOCOL`, `KAFKA_SASL_PASSWORD` …). Properties that "
        "librdkafka doesn't have are ignored, and so are `isolation.level`, `partitioner`, `enable.auto.commit`, "
        "`enable.idempotence` and `transactional.id`, on which the guarantees depend. `SCHEMA_REGISTRY_URL` names "
        "a registry with Confluent's API (`http[s]://[user:password@]host[:port]`). `OTEL_EXPORTER_OTLP_*`, "
        "`OTEL_EXPORTER_ZIPKIN_*`, `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have OpenTelemetry's meaning "
        "([where spans go](operations.md#where-spans-go)).\n\n"
        "**Secrets from files.** A secret setting and "
        + ", ".join(f"`{name}`" for name in (*KAFKA_SECRETS, *OTHER_SECRETS))
        + " may come from a file instead: `<SETTING>_FILE=/run/secrets/…` names a file with the value; a line end "
        "at its end is ignored. A missing or empty file is an error, and so is setting both.\n\n"
        + _table(("setting", "default", "meaning"), rows)
    )


def topics() -> str:
    rows = [
        (
            f"`{topic.name}`",
            str(topic.partitions) if topic.follows is None else f"as `{topic.follows}`",
            ", ".join(f"`{key}={value}`" for key, value in topic.config.items()),
            topic.key,
            topic.written_by,
            topic.read_by,
        )
        for topic in TOPICS
    ]
    return (
        "# Topics\n\n"
        + NOTE
        + "Names have the prefix `TELEMETRY_TOPIC_PREFIX` (default `hypervisor.`). Every client must choose "
        "partitions by Kafka's default, murmur2 of the key (`partitioner=murmur2_random` in librdkafka).\n\n"
        + _table(("topic", "partitions", "configuration", "key", "written by", "read by"), rows)
    )


def events() -> str:
    rows = [
        (f"`{kind.__name__}.{member.name}`", f"`{member.value}`", f"`events.{category_of(member.value)}`")
        for kind in (EventType, GovernanceEventType)
        for member in kind
    ]
    return (
        "# Event types\n\n"
        + NOTE
        + "A type that is not in this table passes through everything unchanged, on the topic of its category or "
        "on `events.other`.\n\n" + _table(("member", "value", "topic"), rows)
    )


def metrics() -> str:
    ring = [(f"`{m.name}`", m.type, _labels(m.labels), m.help) for m in RING_METRICS]
    saga = [(f"`{m.name}`", m.type, _labels((*m.labels, "partition")), m.help) for m in SAGA_METRICS]
    governance = [(f"`{m.name}`", m.type, _labels(m.labels), m.help) for m in GOVERNANCE_METRICS]
    index = [(f"`{m.name}`", m.type, _labels(m.labels), m.help) for m in INDEX_METRICS]
    own = [(f"`{m.name}`", m.type, _labels(m.labels), m.help) for m in SELF_METRICS]
    publisher = [
        (
            f"`{m.name}`",
            "counter" if m.is_counter else "gauge",
            _labels(("reason",) if m.name.endswith("dropped_total") else ()),
            m.help_text,
        )
        for m in PUBLISHER_METRICS
    ]
    head = ("metric", "type", "labels", "meaning")
    return (
        "# Metrics\n\n"
        + NOTE
        + "## ring-metrics\n\nThe first two have the label `partition` if a series can be in several "
        "partitions, and only then: if agent and session are both `unknown`, in the overflow series "
        "(`__overflow__`), and if `TELEMETRY_RING_LABELS` leaves out the session, or the agent and the session "
        "is `unknown`. Recording rules sum it away.\n\n"
        + _table(head, ring)
        + "\n## saga-spans\n\n"
        + _table(head, saga)
        + "\n## governance-metrics\n\n`decision` is `allow` or `deny`. Metrics with that label also have "
        "`agent_id` and `tool_name` if `TELEMETRY_GOVERNANCE_LABELS` names them; in the overflow series they are "
        "`__overflow__`. A decision without a latency is in no bucket. After the topic has got more "
        "partitions, the trust score of an agent that moved has the label `partition`.\n\n"
        + _table(head, governance)
        + "\n## event-index\n\n"
        + _table(head, index)
        + "\n## Every service\n\n"
        + _table(head, own)
        + "\n## A publisher, in an agent\n\nBy `PublisherCollector` (prometheus-client) or `observe_publisher` "
        "(OpenTelemetry).\n\n"
        + _table(head, publisher)
        + "\n## Governance, in an agent\n\nBy `GovernanceMetrics`, in Prometheus and as OpenTelemetry's "
        "instruments. Metrics with `decision` also have the labels `agent_id` and `tool_name` if "
        "`GovernanceLabels` chooses them.\n\n"
        + _table(("metric", "instrument", "unit", "type", "labels", "meaning"), _governance())
        + "\nReasons of trouble:\n\n"
        + _table(("reason", "meaning"), [(f"`{reason}`", meaning) for reason, meaning in TROUBLES.items()])
    )


def _governance() -> Sequence[tuple[str, ...]]:
    labels = {TRUST_SCORE: ("agent_id",), ACTIVE_AGENTS: (), AUDIT_EVENTS: ()}
    eight: list[tuple[str, ...]] = [
        (
            f"`{instrument.prometheus_name}`",
            f"`{instrument.name}`",
            instrument.unit,
            instrument.type,
            _labels(labels.get(instrument, ("decision",))),
            instrument.help,
        )
        for instrument in GOVERNANCE_INSTRUMENTS
    ]
    own = ((GOVERNANCE_TROUBLES, ("reason",)), (GOVERNANCE_OVERFLOW, ()))
    return eight + [
        (f"`{name}_total`", f"`{name}`", "", "counter", _labels(names), meaning) for (name, meaning), names in own
    ]


PAGES = {
    "api.md": api,
    "settings.md": settings,
    "topics.md": topics,
    "events.md": events,
    "metrics.md": metrics,
    "../schemas/README.md": contract,
    "../observability/prometheus/log-owned.yml": log_owned_file,
    "../helm/hypervisor-telemetry/README.md": readme,
    "../helm/hypervisor-telemetry/examples/strimzi-topics.yaml": strimzi_topics,
}


def _text(default: object) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _labels(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels)


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), "utf-8")
        print((DOCS / name).resolve().relative_to(DOCS.parent))  # noqa: T201
