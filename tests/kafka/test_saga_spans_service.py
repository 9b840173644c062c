"""saga-spans as processes: every span arrives, with the ids and times that its events give it."""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.service_processes import Fleet, eventually, run_command
from tests.support.span_receivers import PROTOBUF, Reply, Request, http_receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

pytestmark = pytest.mark.kafka

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TRACE = "0af7651916cd43dd8448eb211c80319c"
Span = dict[str, Any]


class Saga:
    """The events of one saga, 1 s apart, and the spans that must come of them."""

    def __init__(self, number: int) -> None:
        self.id, self.session = f"saga-{number}", f"session-{number}"
        self._start = NOON + timedelta(minutes=number)
        self._count = 0
        fields = ("saga-span", TRACE, self.session, self.id)
        self.span_id = sha256("".join(f"{len(part)}:{part}" for part in fields).encode()).hexdigest()[:16]
        self.spans: list[Span] = []

    def event(self, kind: EventType, **payload: str) -> HypervisorEvent:
        self._count += 1
        return HypervisorEvent(
            event_id=sha256(f"{self.id} {self._count}".encode()).hexdigest()[:16],
            event_type=kind,
            timestamp=self._start + timedelta(seconds=self._count),
            session_id=self.session,
            agent_did="did:a",
            causal_trace_id=f"{TRACE}/00f067aa0ba902b7",
            payload={"saga_id": self.id, **payload},
        )

    def begun(self) -> list[HypervisorEvent]:
        """A step that fails, its compensation, and a step that is still running."""
        created = self.event(EventType.SAGA_CREATED)
        started = self.event(EventType.SAGA_STEP_STARTED, step_id="1", step_action="book")
        failed = self.event(EventType.SAGA_STEP_FAILED, step_id="1", step_action="book", error="no seats")
        compensating = self.event(EventType.SAGA_COMPENSATING, step_id="1", step_action="book")
        again = self.event(EventType.SAGA_STEP_STARTED, step_id="2", step_action="wait")
        error = {"agent.saga.error": "no seats"}
        self.spans += [
            self._span("saga.step.book", started, failed, "error", "1", "book", error),
            self._span("saga.compensate.book", compensating, compensating, "compensating", "1", "book"),
        ]
        return [created, started, failed, compensating, again]

    def ended(self, begun: list[HypervisorEvent]) -> list[HypervisorEvent]:
        """The running step is done, the saga too."""
        committed = self.event(EventType.SAGA_STEP_COMMITTED, step_id="2", step_action="wait")
        completed = self.event(EventType.SAGA_COMPLETED)
        whole = self._span(f"saga.completed.{self.id}", begun[0], completed, "ok", "", "complete")
        self.spans += [
            self._span("saga.step.wait", begun[-1], committed, "ok", "2", "wait"),
            whole | {"span_id": self.span_id, "parent_span_id": None},
        ]
        return [committed, completed]

    def _span(
        self,
        name: str,
        first: HypervisorEvent,
        last: HypervisorEvent,
        status: str,
        step_id: str,
        action: str,
        more: dict[str, str] | None = None,
    ) -> Span:
        return {
            "name": name,
            "trace_id": TRACE,
            "span_id": first.event_id,
            "parent_span_id": self.span_id,
            "start_time": first.timestamp.timestamp(),
            "end_time": last.timestamp.timestamp(),
            "status": status,
            "causal_trace_id": f"{TRACE}/00f067aa0ba902b7",
            "attributes": {
                "agent.saga.id": self.id,
                "agent.did": "did:a",
                "session.id": self.session,
                "agent.saga.step_id": step_id,
                "agent.saga.step_action": action,
                "agent.saga.state": status,
                **(more or {}),
            },
        }


def spans_in(path: Path) -> list[Span]:
    """Read the file as a consumer does: lines that are no JSON are skipped."""
    spans = []
    for line in path.read_bytes().splitlines():
        try:
            spans.append(json.loads(line))
        except ValueError:
            continue
    return spans


def in_order(spans: Iterable[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: (span["span_id"], span["name"]))


def each_once(spans: Iterable[Span]) -> list[Span]:
    """Repeats left out; a repeat with another content would stay."""
    return in_order(json.loads(text) for text in {json.dumps(span, sort_keys=True) for span in spans})


def test_each_span_is_written_once_also_over_a_restart_that_an_open_saga_survives(
    new_fleet: Callable[[int], Fleet], tmp_path: Path
):
    fleet, path = new_fleet(2), tmp_path / "spans.jsonl"
    sagas = [Saga(number) for number in range(10)]
    begun = [saga.begun() for saga in sagas]
    fleet.publish(event for events in begun for event in events)

    first = fleet.start("saga-spans", "--sink", f"jsonl:{path}").wait_ready()
    eventually(lambda: spans_in(path), lambda spans: len(spans) >= 20)
    assert first.terminate()[0] == 0
    assert in_order(spans_in(path)) == in_order(span for saga in sagas for span in saga.spans)

    fleet.publish(event for saga, events in zip(sagas, begun, strict=True) for event in saga.ended(events))
    second = fleet.start("saga-spans", "--sink", f"jsonl:{path}").wait_ready()
    eventually(lambda: spans_in(path), lambda spans: len(spans) >= 40)
    status, seconds = second.terminate()
    assert status == 0
    assert seconds < 10
    assert in_order(spans_in(path)) == in_order(span for saga in sagas for span in saga.spans)
    assert fleet.members("saga-spans") == 0


def test_after_a_kill_in_the_middle_no_span_is_missing_and_repeats_are_identical(
    new_fleet: Callable[[int], Fleet], tmp_path: Path
):
    fleet, path = new_fleet(2), tmp_path / "spans.jsonl"
    sagas = [Saga(number) for number in range(1500)]
    begun = [saga.begun() for saga in sagas]
    fleet.publish(event for events in begun for event in events)

    first = fleet.start("saga-spans", "--sink", f"jsonl:{path}")
    eventually(path.exists, bool)
    eventually(lambda: path.stat().st_size, lambda size: size > 0)
    first.kill()
    fleet.publish(event for saga, events in zip(sagas, begun, strict=True) for event in saga.ended(events))
    fleet.start("saga-spans", "--sink", f"jsonl:{path}")

    truth = in_order(span for saga in sagas for span in saga.spans)
    ids = {span["span_id"] for span in truth}
    eventually(lambda: len({span["span_id"] for span in spans_in(path)}), lambda found: found == len(ids))
    assert each_once(spans_in(path)) == truth


@pytest.mark.skipif(sys.platform != "linux", reason="another process's limits can be set on Linux only")
def test_spans_wait_for_a_sink_that_takes_no_more_and_then_all_arrive(
    new_fleet: Callable[[int], Fleet], tmp_path: Path
):
    fleet, path = new_fleet(2), tmp_path / "spans.jsonl"
    sagas = [Saga(number) for number in range(40)]
    begun = [saga.begun() for saga in sagas]
    fleet.publish(event for events in begun for event in events)
    service = fleet.start("saga-spans", "--sink", f"jsonl:{path}").wait_ready()
    eventually(lambda: len(spans_in(path)), lambda count: count == 80)

    # As a disk with room for a part of a line.
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (path.stat().st_size + 100, resource.RLIM_INFINITY))
    fleet.publish(event for saga, events in zip(sagas, begun, strict=True) for event in saga.ended(events))
    status, text = eventually(service.ready, lambda ready: "File too large" in ready[1])
    assert status == 200
    assert text == (
        "degraded\nWhat was read can't be made safe now ([Errno 27] File too large). "
        "It is tried again; nothing is lost.\n"
    )
    assert service.metrics("hypervisor_telemetry_degraded") == {"hypervisor_telemetry_degraded": 1}
    assert service.is_alive()
    assert fleet.members("saga-spans") == 1
    assert len(spans_in(path)) == 80

    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    truth = in_order(span for saga in sagas for span in saga.spans)
    eventually(lambda: each_once(spans_in(path)), lambda spans: spans == truth)
    assert eventually(service.ready, lambda ready: ready[1] == "ok\n")[0] == 200
    assert Counter(span["span_id"] for span in spans_in(path)).most_common(1)[0][1] <= 2


def test_a_saga_that_hangs_is_seen_while_it_does_and_is_a_span_when_its_time_is_up(
    new_fleet: Callable[[int], Fleet], tmp_path: Path
):
    fleet, path = new_fleet(2), tmp_path / "spans.jsonl"
    hanging, done = Saga(0), Saga(1)
    begun = hanging.begun()
    fleet.publish(begun + done.ended(done.begun()))
    first = fleet.start("saga-spans", "--sink", f"jsonl:{path}").wait_ready()
    answer = eventually(lambda: first.get("/v1/sagas").json(), lambda answer: len(answer["sagas"]) == 1)
    [saga] = answer["sagas"]
    assert (saga["session_id"], saga["saga_id"], saga["span_id"]) == (hanging.session, hanging.id, hanging.span_id)
    assert [(step["step_id"], step["step_action"]) for step in saga["current_steps"]] == [("2", "wait")]
    assert (saga["last_error"], saga["steps_failed"], saga["agent_did"]) == ("no seats", 1, "did:a")
    assert sum(answer["freshness"]["includes"].values()) > 0
    assert answer["is_partial"] is False
    assert first.get(f"/v1/sagas/{done.id}").json()["sagas"][0]["state"] == "ended"
    assert first.value("agent_hypervisor_sagas_open", age="1m", partition=str(saga["partition"])) == 1
    text = httpx.get(f"{first.url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}).text
    assert f'# {{span_id="{done.span_id}",trace_id="{TRACE}"}}' in text

    # What is open survives the copy.
    first.kill()
    second = fleet.start("saga-spans", "--sink", f"jsonl:{path}", TELEMETRY_SAGA_TIMEOUT="2").wait_ready()
    name = f"saga.timed_out.{hanging.id}"
    [span] = eventually(lambda: [span for span in spans_in(path) if span["name"] == name], bool)
    assert (span["span_id"], span["start_time"]) == (hanging.span_id, begun[0].timestamp.timestamp())
    assert span["end_time"] == span["start_time"] + 2
    eventually(lambda: second.get("/v1/sagas").json()["open"], lambda count: count == 0)
    fleet.publish(hanging.ended(begun))
    late = "agent_hypervisor_saga_late_events_total"
    eventually(lambda: sum(second.metrics(late).values()), lambda count: count == 2)
    assert Counter(span["name"] for span in spans_in(path))[f"saga.completed.{hanging.id}"] == 0


def test_the_api_needs_a_token_off_loopback(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(1)
    refused = fleet.start("saga-spans", "--sink", "null", "--host", "0.0.0.0")
    assert refused.wait() == 2
    assert "TELEMETRY_API_TOKEN must be set to serve on 0.0.0.0" in refused.log


def test_a_span_that_the_backend_refuses_is_kept_and_goes_there_when_it_is_replayed(
    new_fleet: Callable[[int], Fleet],
):
    fleet = new_fleet(2)
    saga = Saga(0)
    begun = saga.begun()

    def answer(request: Request) -> Reply:
        is_refused = refuses and "saga.step.book" in request.names
        return Reply(400 if is_refused else 200, headers={"Content-Type": PROTOBUF})

    with http_receiver() as receiver:
        refuses = True
        receiver.answer = answer
        fleet.start("saga-spans", "--sink", f"otlp:{receiver.url}/v1/traces").wait_ready()
        fleet.publish([*begun, *saga.ended(begun)])
        name = f"{TRACE}/{saga.spans[0]['span_id']}"
        listed = eventually(lambda: dead_letters(fleet, "list", "--json"), bool)
        letter = json.loads(listed)
        assert (letter["reason"], letter["output"], letter["service"]) == ("output_refused", name, "saga-spans")
        shown = dead_letters(fleet, "show", letter["place"])
        assert "the output, that nobody took:" in shown
        assert '"name": "saga.step.book"' in shown
        assert "answers 400" in shown

        refuses = False
        receiver.requests.clear()
        dead_letters(fleet, "replay")
        eventually(lambda: receiver.taken, lambda taken: ["saga.step.book"] in taken)
        assert json.loads(dead_letters(fleet, "list", "--json"))["replayed_at"] is not None


def dead_letters(fleet: Fleet, *arguments: str) -> str:
    done = run_command("dead-letters", *arguments, **fleet.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout
