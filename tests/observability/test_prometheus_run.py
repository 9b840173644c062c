"""Every expression of every panel and rule, asked of a real Prometheus after a run whose every event is known."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypervisor_schemas.events import EventType
from tests.observability import expected
from tests.observability.live_run import PANELS, LiveRun, live_run
from tests.observability.panel_values import DRAWN, panel_values
from tests.observability.rules import RULES, Rule
from tests.observability.scenario import SESSION_OF_A, A
from tests.support.service_processes import eventually
from tests.support.span_receivers import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypervisor_telemetry.local.kafka_choice import Kafka
    from tests.observability.expected import Expected
    from tests.observability.prometheus import Labels
    from tools.dashboards.expressions import PanelQuery

pytestmark = [pytest.mark.full, pytest.mark.kafka]

LEFT_OUT = ("cluster", "instance")


@pytest.fixture(scope="module")
def run(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    prefix = f"t{secrets.token_hex(4)}."
    with live_run(kafka.bootstrap_servers, prefix, tmp_path_factory.mktemp("run")) as it:
        yield it


def named(results: dict[Labels, float], prefix: str) -> dict[str, float]:
    """Results as `expected` names them."""
    found: dict[str, float] = {}
    for labels, value in results.items():
        kept = [f"{name}={text.removeprefix(prefix)}" for name, text in labels if name not in LEFT_OUT]
        name = ",".join(kept)
        assert name not in found, f"two results are called {name or 'nothing'}: {results}"
        found[name] = value
    return found


def faults(found: dict[str, float], wanted: Expected) -> list[str]:
    missing = [f"{name} is missing" for name in wanted if name not in found]
    wrong = [
        f"{name or 'it'} is {value}, not within {wanted[name]}" if name in wanted else f"{name} is {value}, not 0"
        for name, value in found.items()
        if not (wanted[name].contains(value) if name in wanted else value == 0)
    ]
    return missing + wrong


def test_every_expression_has_an_entry_and_every_entry_an_expression() -> None:
    assert Counter((query.panel, query.ref_id) for query in PANELS) == Counter(expected.PANELS.keys())
    assert Counter(rule.name for rule in RULES) == Counter(expected.RULES.keys())


@pytest.mark.parametrize("query", PANELS, ids=lambda query: f"{query.panel} {query.ref_id}")
def test_a_panel_shows_what_happened(query: PanelQuery, run: LiveRun) -> None:
    found = named(run.prometheus.query(query.expression, run.ended), run.fleet.prefix)
    assert faults(found, expected.PANELS[query.panel, query.ref_id]) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_what_happened(rule: Rule, run: LiveRun) -> None:
    found = named(run.prometheus.query(rule.expression, run.ended), run.fleet.prefix)
    wanted = expected.RULES[rule.name]
    assert faults(found, wanted) == []
    if rule.is_alert:
        assert found.keys() == wanted.keys()
    else:
        # What the server itself has recorded by then: the same, one evaluation old.
        assert named(run.prometheus.query(rule.name, run.ended), run.fleet.prefix).keys() == found.keys()


def test_every_rule_was_evaluated_without_an_error(run: LiveRun) -> None:
    found = [rule for group in run.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in found} == {rule.name for rule in RULES}
    assert {rule["health"] for rule in found} == {"ok"}


def test_targets_are_up_but_for_the_copy_that_was_stopped(run: LiveRun) -> None:
    targets = run.prometheus.get("targets")["activeTargets"]
    by_health = Counter((target["labels"]["job"], target["health"]) for target in targets)
    jobs = ("agent-hypervisor", "saga-spans", "event-index", "governance-metrics", "agents")
    assert by_health == Counter({**{(job, "up"): 1 for job in jobs}, ("agent-hypervisor", "down"): 1})


def test_only_series_of_the_log_are_without_an_instance(run: LiveRun) -> None:
    without = 'group by (__name__) ({__name__=~"agent_.+|hypervisor_.+", instance="", job!=""})'
    names = {dict(labels)["__name__"] for labels in _with_names(run, without)}
    assert names
    assert not any(name.startswith(("hypervisor_publisher_", "hypervisor_governance_")) for name in names)
    of_agents = run.prometheus.query(
        'agent_governance_policy_decisions_total{job="agents", instance=""}', run.ended
    )
    assert of_agents == {}
    with_instance = run.prometheus.query('{__name__=~"agent_hypervisor_.+", instance!=""}', run.ended)
    assert with_instance == {}


def _with_names(run: LiveRun, expression: str) -> list[Labels]:
    data = run.prometheus.get("query", query=expression, time=run.ended)["result"]
    return [tuple(sorted(one["metric"].items())) for one in data]


def test_what_the_panels_have_shown_is_left(run: LiveRun, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    file = Path(pytestconfig.getoption("--panels", None) or tmp_path / "panels.json")
    file.write_text("[\n" + ",\n".join(map(json.dumps, panel_values(run))) + "\n]\n", "utf-8")
    panels = json.loads(file.read_text("utf-8"))
    assert [panel["title"] for panel in panels] == list(DRAWN)
    for panel in panels:
        values = [value for result in panel["results"] for _, value in result["points"]]
        assert max(values) > 0, panel["title"]


def test_when_the_receiver_of_spans_goes_it_is_said(run: LiveRun) -> None:
    """The last of this module: it changes the run."""
    run.receiver.answer = lambda _: Reply(503)
    run.agent.emit(run.scenario.saga("waits"))
    run.agent.flush()
    for name, wanted in expected.SINK_GONE.items():
        [rule] = [rule for rule in RULES if rule.name == name]
        eventually(
            lambda rule=rule: named(run.prometheus.query(rule.expression), run.fleet.prefix),
            lambda found, wanted=wanted: found.keys() == wanted.keys() and faults(found, wanted) == [],
            60,
        )
    late = run.scenario.event(EventType.SAGA_CREATED, 0, A, SESSION_OF_A, saga_id="later")
    run.agent.emit([late])
    run.agent.flush()
    lag = 'max(hypervisor_telemetry_lag_records{job="saga-spans"})'
    eventually(lambda: run.prometheus.value(lag), lambda records: records >= 1, 60)
