"""The variables at the top of the dashboards, and the label matchers that use them."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import DatasourceVariable, QueryVariable, TextBoxVariable
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import VariableModel, VariableOption, VariableRefresh, VariableSort

__all__ = [
    "AGENTS_VARIABLES",
    "CLUSTER",
    "GOVERNANCE",
    "PIPELINE_VARIABLES",
    "PROMETHEUS",
    "RING",
    "RING_OF_AGENT",
    "SERVICES",
    "TEMPO",
    "TRACES",
    "TRUST",
]

PROMETHEUS = DataSourceRef("prometheus", "${datasource}")
TRACES = DataSourceRef("jaeger", "${traces}")
TEMPO = DataSourceRef("tempo", "${tempo}")

CLUSTER = 'cluster=~"$cluster"'
"""A metric without the label `cluster` fits too: "All" is `.*`."""
RING_OF_AGENT = f'{CLUSTER}, agent_did=~"$agent"'
RING = f'{RING_OF_AGENT}, session_id=~"$session"'
TRUST = f'{CLUSTER}, job=~"$governance", agent_id=~"$agent"'
GOVERNANCE = f'{CLUSTER}, job=~"$governance", agent_id=~"$agent|"'
"""The empty alternative lets the decisions through that carry no agent, as they do by default."""
SERVICES = f'{CLUSTER}, job=~"$job"'

_JOBS_QUERY = f"label_values(hypervisor_telemetry_degraded{{{CLUSTER}}}, job)"

_ALL = VariableOption(text="All", value="$__all")


def _label_variable(name: str, label: str, description: str, query: str) -> QueryVariable:
    """Several values, or all, of what Prometheus holds in the time that is shown."""
    return (
        QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(PROMETHEUS)
        .query(query)
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(_ALL)
        .allow_custom_value(True)
    )


def _source(name: str, label: str, description: str, kind: str) -> DatasourceVariable:
    return DatasourceVariable(name).label(label).description(description).type(kind)


def _text(name: str, label: str, description: str, default: str) -> TextBoxVariable:
    return (
        TextBoxVariable(name)
        .label(label)
        .description(description)
        .default_value(default)
        .current(VariableOption(text=default, value=default))
    )


_DATASOURCE = _source("datasource", "Prometheus", "The Prometheus that scrapes the services.", "prometheus")
_CLUSTERS = _label_variable(
    "cluster", "Cluster", "The label `cluster` that every target has.", "label_values(up, cluster)"
)
_AGENTS = _label_variable(
    "agent",
    "Agent",
    "Agents with a ring or a trust score: `agent_did` of the ring metrics, `agent_id` of governance.",
    f'query_result(group by (agent) (label_replace(agent_hypervisor_ring_current{{{CLUSTER}}}, "agent", "$1", '
    f'"agent_did", "(.+)") or label_replace(agent_governance_trust_score{{{CLUSTER}}}, "agent", "$1", '
    f'"agent_id", "(.+)")))',
).regex('/agent="([^"]+)"/')
_SESSIONS = _label_variable(
    "session",
    "Session",
    "Sessions of the chosen agents with ring events. Only panels of transitions and breaches know sessions.",
    'label_values({__name__=~"agent_hypervisor_ring_(transitions|breaches)_total", '
    f"{RING_OF_AGENT}}}, session_id)",
)
_GOVERNANCE = (
    _label_variable(
        "governance",
        "Governance from",
        "The job that governance is counted by. The service governance-metrics counts the whole fleet from Kafka; "
        "agents' own processes (.NET, Python) may show the same metrics. Choose several jobs only where none "
        "counts what another one counts.",
        f"label_values(agent_governance_policy_decisions_total{{{CLUSTER}}}, job)",
    )
    .include_all(False)
    .sort(VariableSort.ALPHABETICAL_DESC)
    .current(VariableOption(text=["governance-metrics"], value=["governance-metrics"]))
)
_JOBS = (
    QueryVariable("job")
    .label("Service")
    .description("The services of the pipeline, by their job in Prometheus. All: those that the list shows.")
    .datasource(PROMETHEUS)
    .query(_JOBS_QUERY)
    .definition(_JOBS_QUERY)
    .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    .sort(VariableSort.ALPHABETICAL_ASC)
    .multi(True)
    .include_all(True)
    .current(_ALL)
)

AGENTS_VARIABLES: tuple[Builder[VariableModel], ...] = (
    _DATASOURCE,
    _source("traces", "Jaeger", "The Jaeger that has the spans of saga-spans.", "jaeger"),
    _source("tempo", "Tempo", "The Tempo that has them, where there is one: see the last row.", "tempo"),
    _CLUSTERS,
    _AGENTS,
    _SESSIONS,
    _GOVERNANCE,
    _text("service", "Spans' service", "`OTEL_SERVICE_NAME` of saga-spans.", "agent-hypervisor"),
    _text("tags", "Spans with", 'What the spans have, for Jaeger: `agent.did="did:mesh:a" error=true`.', ""),
    _text("trace", "Trace", "The trace id that the timeline shows; a click in the list of sagas sets it.", ""),
    _text("index", "Event index", "Where a browser reaches the service event-index.", "http://127.0.0.1:8002"),
    _text("sagas", "Open sagas", "Where a browser reaches the service saga-spans.", "http://127.0.0.1:8001"),
)
PIPELINE_VARIABLES: tuple[Builder[VariableModel], ...] = (
    _DATASOURCE,
    _CLUSTERS,
    _JOBS,
)
