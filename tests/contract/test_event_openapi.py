"""The event index keeps to its OpenAPI: every request gets an answer of a declared form."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hypervisor_consumers.event_index.api import response_models as forms
from hypervisor_consumers.event_index.api.routes import create_router
from hypervisor_consumers.event_index.backends.store import IndexRow, open_store
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.http import make_app
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.events import EventType, HypervisorEvent, event_type_of
from tests.support.app_client import Client

FORMS = (forms.Events, forms.OneEvent, forms.Counts, forms.Sessions, forms.Session, forms.Agent, forms.Trace)
PATHS = [
    "/v1/events",
    "/v1/events/{event_id}",
    "/v1/stats",
    "/v1/sessions",
    "/v1/sessions/{session_id}",
    "/v1/agents/{agent_did}",
    "/v1/traces/{trace_id}",
]
EXAMPLES = {form: form.model_config["json_schema_extra"]["examples"][0] for form in FORMS}
FIRST = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)


def events() -> Iterator[HypervisorEvent]:
    """The events that the examples ask for, and unusual ones."""
    for number, (kind, payload) in enumerate(
        [
            (EventType.RING_ASSIGNED, {"ring": 2}),
            (EventType.RING_ELEVATED, {"from_ring": 2, "to_ring": 0}),
            (EventType.SAGA_CREATED, {"saga_id": "deploy-v2"}),
            (EventType.SAGA_STEP_FAILED, {"saga_id": "deploy-v2", "error": "The database refused."}),
            (event_type_of("quantum.entangled"), {"deep": [[{"er": None}]], "text": "\0 😀"}),
            (event_type_of(""), {}),
        ]
    ):
        yield HypervisorEvent(
            event_id=f"001122334455667{7 + number:x}"[-16:],
            event_type=kind,
            timestamp=FIRST + timedelta(seconds=number),
            session_id="session-001",
            agent_did="did:mesh:rogue-bot",
            causal_trace_id=CausalTraceId("a1b2c3d4e5f6", "89abcdef", "01234567").full_id,
            payload=payload,
        )
    # The ids that whoever makes requests of the form "a string" likes best.
    for number, text in enumerate(["", "0", "\0", "é", "a/b", "null", "%"]):
        yield HypervisorEvent(
            event_id=text,
            session_id=text,
            agent_did=text,
            causal_trace_id=text,
            timestamp=FIRST,
            payload={"n": number},
        )
    yield HypervisorEvent(event_id="first", timestamp=datetime.min.replace(tzinfo=UTC))
    yield HypervisorEvent(event_id="last", timestamp=datetime.max.replace(tzinfo=UTC))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    topic = "hypervisor.events.ring"
    rows = [IndexRow(topic, 0, at, one) for at, one in enumerate(events())]
    with closing(open_store(f"sqlite:///{tmp_path_factory.mktemp('index')}/index.db")) as store:
        store.write(rows, {(topic, 0): (None, len(rows)), (topic, 3): (None, 4)})
        router = create_router(store, IndexFreshness(RuntimeMetrics(), time.time), None)
        yield make_app("event-index", Health(), list, [router])


@pytest.fixture(scope="module")
def description(app: FastAPI) -> dict[str, Any]:
    return dict(Client(app).get("/openapi.json").json())


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", PATHS)
def test_whatever_is_asked_is_answered_in_the_form_that_is_described(
    app: FastAPI, path: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path]["GET"]
    answered: Counter[int] = Counter()

    @settings(
        max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        response = case.call_and_validate(
            checks=[
                not_a_server_error,
                status_code_conformance,
                content_type_conformance,
                response_schema_conformance,
            ]
        )
        answered[response.status_code] += 1

    ask()
    # Each kind is met, else nothing was held to its form.
    met = {200, 404} if mode is GenerationMode.POSITIVE else {422}
    assert answered.keys() & met, answered


def test_every_route_has_a_form_and_an_example_for_each_answer(description: dict[str, Any]) -> None:
    routes = {path: route for path, route in description["paths"].items() if path != "/v1/events/stream"}
    assert sorted(routes) == sorted(PATHS)
    for route in routes.values():
        for status, told in route["get"]["responses"].items():
            content = told["content"]["application/json"]
            form = description["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
            assert status == "422" or "example" in content or form.get("examples"), (route, status)


@pytest.mark.parametrize("form", FORMS)
def test_an_example_has_its_form(form: type[forms.Events]) -> None:
    form.model_validate_json(json.dumps(EXAMPLES[form]), strict=True)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/events?event_type=ring", forms.Events),
        ("/v1/events/first", forms.OneEvent),
        ("/v1/stats", forms.Counts),
        ("/v1/stats?bucket=1h&session_id=session-001", forms.Counts),
        ("/v1/sessions?limit=1", forms.Sessions),
        ("/v1/sessions/session-001", forms.Session),
        ("/v1/agents/did:mesh:rogue-bot", forms.Agent),
        ("/v1/traces/a1b2c3d4e5f6", forms.Trace),
    ],
)
def test_an_answer_has_its_form_and_all_of_its_fields(app: FastAPI, path: str, form: type[forms.Events]) -> None:
    response = Client(app).get(path)
    assert response.status_code == 200, response.text
    form.model_validate_json(response.text, strict=True)
    by_time = {"bucket_seconds", "buckets"}
    assert response.json().keys() | by_time == EXAMPLES[form].keys() | by_time


def test_the_page_for_people_is_there(app: FastAPI) -> None:
    response = Client(app).get("/docs")
    assert response.status_code == 200
    assert "/openapi.json" in response.text
