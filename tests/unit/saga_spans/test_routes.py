"""`/v1/sagas`: what is open, what can be asked for, how old the answer is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI

from hypervisor_consumers.runtime.commit.visibility import Shown
from hypervisor_consumers.runtime.ops.freshness import Freshness
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_consumers.saga_spans.fold.event_fold import SagaFold
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.routes import create_router
from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.app_client import Client

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NOW = T0.timestamp() + 1000
TOPIC = "hypervisor.events.saga"
FOLD = SagaFold(timeout_ms=10**9, grace_ms=10**9)


def told(state: SagaState, kind: str, at: float, saga: str, session: str | None, **payload: Any) -> HypervisorEvent:
    fields = {name: payload.pop(name) for name in ("agent_did", "causal_trace_id") if name in payload}
    event = HypervisorEvent(
        event_type=EventType(f"saga.{kind}"),
        timestamp=T0 + timedelta(seconds=at),
        session_id=session,
        payload={"saga_id": saga, **payload},
        **fields,
    )
    FOLD.apply(state, event, int((T0.timestamp() + at) * 1000))
    return event


@pytest.fixture
def states() -> dict[int, SagaState]:
    states = {0: FOLD.new_state(), 1: FOLD.new_state()}
    here, there = states.values()
    told(here, "created", 0, "deploy", "s1", agent_did="did:lead", causal_trace_id="a1b2c3d4e5f6/00000001")
    told(here, "step_started", 1, "deploy", "s1", step_id="1", action="build", agent_did="did:lead")
    told(here, "step_failed", 2, "deploy", "s1", step_id="1", action="build", error="no space left")
    told(here, "step_started", 3, "deploy", "s1", step_id="2", action="retry", agent_did="did:worker")
    for number in range(9):
        told(here, "step_started", 4, "deploy", "s1", step_id=f"more-{number}", agent_did="did:lead")
    told(here, "fanout_started", 5, "deploy", "s1", fan_out_id="f", policy="any", branches=["x"])
    told(here, "checkpoint_saved", 6, "deploy", "s1", goal="half")
    told(there, "created", 100, "deploy", "s2", agent_did="did:other")
    told(there, "step_started", 101, "a/b", None, step_id="left", agent_did="did:other")
    told(there, "completed", 102, "a/b", None)
    told(there, "created", 500, "young", "s3")
    return states


class App:
    """The routes over some states."""

    def __init__(self, states: dict[int, SagaState], token: str | None = None) -> None:
        self.shown: Shown[SagaState] = Shown(
            states, {}, 2, {0: Account(0, 30, {}, int(NOW * 1000) - 2500), 1: Account(5, 10, {}, 0)}
        )
        self.runtime_metrics = RuntimeMetrics()
        topic_partitions = [TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)]
        self.runtime_metrics.assignment.assign(topic_partitions)
        self.runtime_metrics.assignment[topic_partitions[0]].accounting.log_end = 33
        self.runtime_metrics.assignment[topic_partitions[1]].accounting.log_end = 10
        app = FastAPI()
        freshness = Freshness(TOPIC, self.runtime_metrics, lambda: NOW)
        app.include_router(create_router(lambda: self.shown, freshness, lambda: NOW, token))
        self.client = Client(app)

    def ids(self, query: str = "") -> list[tuple[str | None, str]]:
        answer = self.client.get(f"/v1/sagas{query}")
        assert answer.status_code == 200, answer.text
        return [(saga["session_id"], saga["saga_id"]) for saga in answer.json()["sagas"]]


@pytest.fixture
def app(states: dict[int, SagaState]) -> App:
    return App(states)


def test_an_open_saga_says_where_it_is_and_what_went_wrong(app: App) -> None:
    saga = app.client.get("/v1/sagas").json()["sagas"][0]
    steps = saga.pop("current_steps")
    span_ids = {name: saga.pop(name) for name in ("trace_id", "span_id")}
    [fan_out] = saga.pop("fan_outs")
    assert saga == {
        "session_id": "s1",
        "saga_id": "deploy",
        "state": "open",
        "causal_trace_id": "a1b2c3d4e5f6/00000001",
        "agent_did": "did:lead",
        "start_time": T0.timestamp(),
        "age_seconds": 1000.0,
        "checkpoints": [{"time": T0.timestamp() + 6, "agent.saga.goal": "half"}],
        "steps_done": 0,
        "steps_failed": 1,
        "compensations": 0,
        "last_error": "no space left",
        "partition": 0,
    }
    assert span_ids["trace_id"].endswith("a1b2c3d4e5f6")
    assert next(step["step_id"] for step in steps) == "2"
    assert len(steps) == 10
    assert (steps[0]["step_action"], steps[0]["agent_did"]) == ("retry", "did:worker")
    assert (fan_out["fan_out_id"], fan_out["policy"], fan_out["branches"]) == ("f", "any", ["x"])


def test_the_oldest_come_first_and_every_answer_tells_its_age(app: App) -> None:
    answer = app.client.get("/v1/sagas?limit=2").json()
    assert [saga["session_id"] for saga in answer["sagas"]] == ["s1", "s2"]
    assert answer["open"] == 3
    assert answer["is_partial"] is False
    assert answer["freshness"] == {
        "topic": TOPIC,
        "includes": {"0": 30, "1": 10},
        "lag_records": 3,
        "lag_seconds": 2.5,
    }


def test_an_answer_of_one_copy_of_several_is_partial(app: App) -> None:
    app.shown = Shown({0: app.shown.states[0]}, {}, 2, {0: Account(0, 30, {})})
    answer = app.client.get("/v1/sagas").json()
    assert answer["is_partial"] is True
    assert answer["freshness"]["includes"] == {"0": 30}


def test_a_lag_that_isnt_known_is_null(app: App) -> None:
    app.runtime_metrics.assignment.revoke([TopicPartition(TOPIC, 1)])
    assert app.client.get("/v1/sagas").json()["freshness"]["lag_records"] is None


@pytest.mark.parametrize(
    ("query", "sessions"),
    [
        ("?session_id=s2", ["s2"]),
        ("?agent_did=did:worker", ["s1"]),
        ("?agent_did=did:lead", ["s1"]),
        ("?agent_did=did:nobody", []),
        ("?trace_id=a1b2c3d4e5f6", ["s1"]),
        ("?min_age=600", ["s1", "s2"]),
        ("?failed=true", ["s1"]),
        ("?failed=false&min_age=600", ["s2"]),
    ],
)
def test_filters_fit_all_at_once(app: App, query: str, sessions: list[str]) -> None:
    assert [session for session, _ in app.ids(query)] == sessions


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?min_age=-1", "?sesion_id=s1", "?failed=perhaps"])
def test_a_parameter_that_is_wrong_or_unknown_is_refused(app: App, query: str) -> None:
    assert app.client.get(f"/v1/sagas{query}").status_code == 422


def test_one_saga_is_found_by_its_id_in_every_session(app: App) -> None:
    answer = app.client.get("/v1/sagas/deploy").json()
    assert [(saga["session_id"], saga["state"]) for saga in answer["sagas"]] == [("s1", "open"), ("s2", "open")]
    assert "freshness" in answer
    answer = app.client.get("/v1/sagas/deploy?session_id=s2").json()
    assert [saga["session_id"] for saga in answer["sagas"]] == ["s2"]


def test_a_saga_that_ended_a_short_while_ago_says_so_whatever_its_id(app: App) -> None:
    [saga] = app.client.get("/v1/sagas/a/b").json()["sagas"]
    assert (saga["state"], saga["session_id"], saga["end_time"]) == ("ended", None, T0.timestamp() + 102)
    assert [step["step_id"] for step in saga["current_steps"]] == ["left"]


def test_a_saga_that_is_not_here_is_not_found(app: App) -> None:
    answer = app.client.get("/v1/sagas/nowhere")
    assert answer.status_code == 404
    assert "No saga 'nowhere' is open in the partitions of this copy (0, 1)" in answer.json()["detail"]


def test_while_nothing_may_be_shown_that_is_the_answer(app: App) -> None:
    app.shown = Shown({}, {}, None)
    for path in ("/v1/sagas", "/v1/sagas/deploy"):
        assert app.client.get(path).status_code == 503


def test_with_a_token_only_who_carries_it_is_answered(states: dict[int, SagaState]) -> None:
    client = App(states, token="secret").client  # noqa: S106 - a test's own
    for path in ("/v1/sagas", "/v1/sagas/deploy"):
        assert client.get(path).status_code == 401
        assert client.get(path, {"Authorization": "Bearer secret"}).status_code == 200
