"""`query …`: the index's answers as tables and as JSON lines, asked of a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from hypervisor_consumers.event_index.api.routes import create_router
from hypervisor_consumers.event_index.backends.store import IndexRow, open_store
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness
from hypervisor_consumers.runtime.ops.http import HttpServer
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_telemetry.cli.app import app

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

TOKEN = "a-token"  # noqa: S105 - a test's own
NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)
ROOT = CausalTraceId()
CHILD = ROOT.child()
EVIL = "did:mesh:\x1b[31mred\nline"


def event(number: int, kind: EventType, trace: CausalTraceId | None = None, **fields: Any) -> HypervisorEvent:
    return HypervisorEvent(
        event_id=f"{number:016x}",
        event_type=kind,
        timestamp=NOON + timedelta(seconds=number),
        causal_trace_id=trace.full_id if trace else None,
        **{"session_id": "s1", "agent_did": "did:mesh:a", **fields},
    )


EVENTS = [
    event(0, EventType.SESSION_CREATED, ROOT),
    event(1, EventType.RING_ASSIGNED, ROOT, payload={"ring": 3}),
    event(2, EventType.RING_BREACH_DETECTED, CHILD, agent_did=EVIL, payload={"why": "\x1b]0;owned\x07"}),
    event(3, EventType.SAGA_STEP_FAILED, CHILD, payload={"saga_id": "deploy-v2", "step_id": "m", "error": "no"}),
    event(4, EventType.VFS_WRITE, session_id="s/2?x=1", agent_did=None),
]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.full)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        folder: Path = tmp_path_factory.mktemp("index")
        database = f"sqlite:///{folder}/index.db"
    else:
        database = request.getfixturevalue("postgres").new_database()
    with closing(open_store(database)) as store:
        store.write([IndexRow("t", 0, at, one) for at, one in enumerate(EVENTS)], {("t", 0): (None, len(EVENTS))})
        web = FastAPI()
        web.include_router(create_router(store, IndexFreshness(RuntimeMetrics(), time.time), TOKEN))
        with closing(HttpServer(web, "127.0.0.1", 0)) as server:
            yield server.url


@pytest.fixture
def ask(url: str) -> Any:
    def run(*arguments: str, token: str = TOKEN) -> Result:
        environ = {"TELEMETRY_INDEX_URL": url, "TELEMETRY_API_TOKEN": token}
        return CliRunner().invoke(app, ["query", *arguments], env=environ)

    return run


def test_events_are_a_table_oldest_first_and_its_age_is_told_beside(ask: Any) -> None:
    result = ask("events", "--session", "s1")
    header, *rows = result.stdout.splitlines()
    assert result.exit_code == 0
    assert header.split() == ["TIME", "TYPE", "AGENT", "SESSION", "TRACE", "PAYLOAD"]
    assert [row.split()[:2] for row in rows[:2]] == [
        ["2025-01-15T12:00:00.000Z", "session.created"],
        ["2025-01-15T12:00:01.000Z", "ring.assigned"],
    ]
    assert len(rows) == 4
    assert rows[1].endswith('{"ring":3}')
    assert ROOT.trace_id in rows[1]
    assert "isn't known" in result.stderr


def test_what_a_terminal_would_act_on_is_escaped(ask: Any) -> None:
    for arguments in (["events"], ["session", "s1"], ["trace", ROOT.trace_id], ["event", EVENTS[2].event_id]):
        shown = ask(*arguments).stdout
        assert r"did:mesh:\x1b[31mred\nline" in shown
        assert all(line.isprintable() for line in shown.splitlines())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--type", "ring"], [1, 2]),
        (["--type", "ring.assigned", "--type", "vfs.write"], [1, 4]),
        (["--agent", EVIL], [2]),
        (["--trace", ROOT.trace_id], [0, 1, 2, 3]),
        (["--trace", ROOT.trace_id, "--subtree", CHILD.span_id], [2, 3]),
        (["--trace", ROOT.trace_id, "--subtree", ROOT.span_id, "--type", "saga"], [3]),
        (["--payload", '{"saga_id": "deploy-v2", "error": "no"}'], [3]),
        (["--payload", '{"ring": 3.0}', "--session", "s1"], [1]),
        (["--session", "s/2?x=1"], [4]),
        (["--since", "2025-01-15T12:00:02", "--until", "2025-01-15T14:00:03+02:00"], [2, 3]),
        (["--since", "1d"], []),
        (["--limit", "2"], [3, 4]),
    ],
)
def test_filters_choose_and_json_lines_are_the_events_themselves(
    ask: Any, arguments: list[str], expected: list[int]
) -> None:
    result = ask("events", "--json", *arguments)
    assert result.exit_code == 0
    found = [HypervisorEvent.from_dict(json.loads(line)) for line in result.stdout.splitlines()]
    assert found == [EVENTS[number] for number in expected]


def test_that_there_are_earlier_ones_is_said(ask: Any) -> None:
    assert "There are earlier ones" in ask("events", "--limit", "2").stderr
    assert "There are earlier ones" not in ask("events", "--limit", "5").stderr


def test_nothing_that_fits_is_said_so(ask: Any) -> None:
    assert ask("events", "--session", "nobody").stdout == "no events that fit\n"


def test_stats_count_by_type_the_most_first(ask: Any) -> None:
    lines = [line.split() for line in ask("stats", "--session", "s1").stdout.splitlines()]
    assert lines[0] == ["TYPE", "EVENTS"]
    assert sorted(lines[1:-1]) == [
        ["ring.assigned", "1"],
        ["ring.breach_detected", "1"],
        ["saga.step_failed", "1"],
        ["session.created", "1"],
    ]
    assert lines[-1] == ["all", "4"]


def test_stats_count_by_time_and_draw_it(ask: Any) -> None:
    counts = ("stats", "--trace", ROOT.trace_id, "--bucket", "2s")
    lines = [line.split() for line in ask(*counts).stdout.splitlines()]
    header = next(number for number, line in enumerate(lines) if line[:2] == ["FROM", "EVENTS"])
    assert [line[:2] for line in lines[header + 1 :]] == [
        ["2025-01-15T12:00:00.000Z", "2"],
        ["2025-01-15T12:00:02.000Z", "2"],
    ]
    [line] = ask(*counts, "--subtree", CHILD.span_id, "--json").stdout.splitlines()
    [bucket] = json.loads(line)["buckets"]
    assert bucket["type_counts"] == {"ring.breach_detected": 1, "saga.step_failed": 1}


def test_subjects_are_shown_with_what_belongs_to_them(ask: Any) -> None:
    session = ask("session", "s1").stdout
    assert "deploy-v2" in session
    assert "agents" in session
    agent = ask("agent", "did:mesh:a").stdout
    assert "s1" in agent
    assert "saga.step_failed" in agent
    listed = ask("sessions").stdout.splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["s/2?x=1", "s1"]
    assert ask("session", "s/2?x=1").exit_code == 0


def test_a_trace_is_a_tree_with_what_failed_marked(ask: Any) -> None:
    lines = ask("trace", ROOT.trace_id).stdout.splitlines()
    assert lines[0] == f"trace {ROOT.trace_id}: 4 events"
    assert lines[1] == f"● {ROOT.span_id}  did:mesh:a  (failed further down)"
    failed = next(number for number, line in enumerate(lines) if line.startswith(f"  ✗ {CHILD.span_id}"))
    assert [line.split()[1] for line in lines[failed + 1 :]] == ["ring.breach_detected", "saga.step_failed"]


def test_a_subject_as_json_is_the_whole_answer(ask: Any) -> None:
    [line] = ask("session", "s1", "--json").stdout.splitlines()
    answer = json.loads(line)
    assert answer["event_count"] == 4
    assert "freshness" in answer


def test_colours_are_there_only_where_they_are_wanted(ask: Any) -> None:
    assert "\x1b[" not in ask("events").stdout
    assert "\x1b[" not in ask("events", "--color", "never").stdout
    assert "\x1b[1;31mring.breach_detected" in ask("events", "--color", "always").stdout


@pytest.mark.parametrize(
    ("arguments", "token", "status", "sentence"),
    [
        (["event", "f" * 16], TOKEN, 1, "answered 404: No event"),
        (["session", "nobody"], TOKEN, 1, "answered 404: No event of session 'nobody'"),
        (["events"], "wrong", 1, "answered 401"),
        (["events", "--payload", "to_ring=0"], TOKEN, 1, "payload: This is not a JSON object"),
        (["events", "--subtree", "89abcdef"], TOKEN, 1, "give its trace_id, too"),
        (["stats", "--bucket", "often"], TOKEN, 1, "is not a size from a second to ten years"),
        (["events", "--after", "??"], TOKEN, 1, "answered 422: after: This is not a read token"),
        (["events", "--since", "yesterday"], TOKEN, 2, "--since can't be 'yesterday': give ISO 8601"),
        (["stats", "--until", "999999999d"], TOKEN, 2, "--until can't be '999999999d'"),
        (["stats", "--url", "http://127.0.0.1:1"], TOKEN, 1, "Name another one by --url or TELEMETRY_INDEX_URL."),
        (["stats", "--url", "ftp://x"], TOKEN, 2, "url must be http://"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    ask: Any, arguments: list[str], token: str, status: int, sentence: str
) -> None:
    result = ask(*arguments, token=token)
    assert result.exit_code == status
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert "wrong" not in line
