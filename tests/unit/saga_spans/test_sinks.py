"""The targets of the service's spans: lines for people, lines for programs, nothing; and what a crash leaves."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hypervisor_consumers.saga_spans.sinks.console import ConsoleSink
from hypervisor_consumers.saga_spans.sinks.jsonl import JsonlSink
from hypervisor_consumers.saga_spans.sinks.null import NullSink
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanEvent
from tests.support.saga_records import START, span


def write(path: Path, *spans: SagaSpanRecord) -> None:
    sink = JsonlSink(path)
    sink.deliver(spans)
    sink.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def names(path: Path) -> list[str]:
    return [line["name"] for line in lines(path)]


def test_the_console_shows_one_readable_line_per_span() -> None:
    stream = io.StringIO()
    ConsoleSink(stream).deliver([span(), span("saga.completed.deploy", parent_span_id=None, attributes={})])
    trace = "a" * 32
    assert stream.getvalue() == (
        f"2025-01-15T10:30:00.000+00:00     2.250s ok           saga.step.build trace_id={trace} "
        f"span_id={'b' * 16} parent_span_id={'c' * 16} agent.saga.id=deploy "
        'agent.saga.result="all checks passed"\n'
        f"2025-01-15T10:30:00.000+00:00     2.250s ok           saga.completed.deploy trace_id={trace} "
        f"span_id={'b' * 16} parent_span_id=-\n"
    )


@pytest.mark.parametrize("nasty", ["a\nb", "\x1b[2J", "a\u2028b", "a b", 'a"b', "", "\ud800", "x=y"])
def test_no_text_of_an_agent_breaks_a_line_or_reaches_the_terminal_as_a_command(nasty: str) -> None:
    stream = io.StringIO()
    ConsoleSink(stream).deliver([span(f"saga.step.{nasty}", attributes={"agent.saga.error": nasty})])
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert line.endswith(f" agent.saga.error={json.dumps(nasty)}")


def test_a_terminal_of_another_encoding_shows_escapes_and_stops_nothing() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    ConsoleSink(stream).deliver([span("saga.step.löschen🚀")])
    assert b" saga.step.l\xf6schen\\U0001f680 " in raw.getvalue()


def test_the_last_moment_that_an_event_can_have_is_shown() -> None:
    last = datetime.max.replace(tzinfo=UTC).timestamp()
    stream = io.StringIO()
    ConsoleSink(stream).deliver([span(start_time=last, end_time=last)])
    assert stream.getvalue().startswith("9999-12-31T23:59:59")


def test_console_lines_are_flushed_and_the_stream_stays_open() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
    sink = ConsoleSink(stream)
    sink.deliver([span()])
    assert raw.getvalue().endswith(b"\n")
    sink.close()
    assert not stream.closed


def test_a_console_that_is_gone_is_an_os_error_so_that_the_batch_is_kept() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        io.TextIOWrapper(io.FileIO(writer, "wb"), encoding="utf-8", write_through=True) as stream,
        pytest.raises(OSError, match="Broken pipe"),
    ):
        ConsoleSink(stream).deliver([span()])


def test_the_null_sink_takes_everything() -> None:
    sink = NullSink()
    assert list(sink.deliver([span()])) == []
    sink.close()


def test_a_json_line_has_exactly_the_documented_fields(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    write(path, span(), span("saga.completed.deploy", parent_span_id=None))
    first, second = lines(path)
    assert first == {
        "name": "saga.step.build",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "parent_span_id": "c" * 16,
        "start_time": START,
        "end_time": START + 2.25,
        "status": "ok",
        "attributes": {"agent.saga.id": "deploy", "agent.saga.result": "all checks passed"},
    }
    assert second["parent_span_id"] is None


def test_a_json_line_says_what_else_there_is_to_say(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    saved = SpanEvent("saga.checkpoint", START + 1, {"agent.saga.checkpoint_id": "c1"})
    write(path, span(status="error", causal_trace_id="t/s", error_type="timeout", events=(saved,)))
    (line,) = lines(path)
    assert (line["causal_trace_id"], line["error_type"]) == ("t/s", "timeout")
    assert line["events"] == [
        {"name": "saga.checkpoint", "time": START + 1, "attributes": {"agent.saga.checkpoint_id": "c1"}}
    ]


@pytest.mark.parametrize("nasty", ["a\nb", "löschen🚀", "\ud800", '"', "\u2028"])
def test_any_text_of_an_agent_stays_one_json_line(tmp_path: Path, nasty: str) -> None:
    path = tmp_path / "spans.jsonl"
    write(path, span(nasty, attributes={nasty: nasty}))
    assert path.read_bytes().count(b"\n") == 1
    (line,) = lines(path)
    assert (line["name"], line["attributes"]) == (nasty, {nasty: nasty})


def test_json_lines_are_on_disk_before_deliver_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spans.jsonl"
    sink = JsonlSink(path)
    real_fsync, at_fsync = os.fsync, []

    def fsync(file: int) -> None:
        real_fsync(file)
        at_fsync.append((os.path.samestat(os.fstat(file), path.stat()), names(path)))

    monkeypatch.setattr(os, "fsync", fsync)
    sink.deliver([span("a"), span("b")])
    assert at_fsync == [(True, ["a", "b"])]
    sink.deliver([])
    assert len(at_fsync) == 1
    sink.close()


def test_a_new_files_name_is_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_fsync, synced = os.fsync, []

    def fsync(file: int) -> None:
        real_fsync(file)
        synced.append(os.path.samestat(os.fstat(file), tmp_path.stat()))

    monkeypatch.setattr(os, "fsync", fsync)
    JsonlSink(tmp_path / "spans.jsonl").close()
    assert synced == [True]


def test_a_file_that_is_opened_again_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    for name in ("a", "b"):
        write(path, span(name))
    assert names(path) == ["a", "b"]


def test_a_torn_last_line_is_ended_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    write(path, span("whole"))
    with path.open("a") as file:
        file.write('{"name":"to')
    write(path, span("again"))
    whole, torn, again = path.read_text().splitlines()
    assert (json.loads(whole)["name"], torn, json.loads(again)["name"]) == ("whole", '{"name":"to', "again")


@pytest.mark.parametrize("content", [b"", b"\n", b'{"name":"a"}\n'])
def test_a_file_without_a_torn_line_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spans.jsonl"
    path.write_bytes(content)
    JsonlSink(path).close()
    assert path.read_bytes() == content


FULL_DISK = """
import resource, sys
from pathlib import Path
from hypervisor_consumers.saga_spans.sinks.jsonl import JsonlSink
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

path = Path(sys.argv[1])
spans = [SagaSpanRecord(f"span-{n}", "g", "", "", 0.0, 1.0, "ok") for n in range(3)]
sink = JsonlSink(path)
sink.deliver(spans)
size = path.stat().st_size
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for _ in range(2):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 2, hard))
    try:
        sink.deliver(spans)
    except OSError as error:
        print(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
sink.deliver(spans)
"""


def test_a_disk_that_is_full_for_a_while_tears_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "OSError\nOSError\n"
    *before, torn = path.read_text().splitlines()[:5]
    last = path.read_text().splitlines()[-3:]
    assert [json.loads(line)["name"] for line in before] == ["span-0", "span-1", "span-2", "span-0"]
    assert torn.startswith('{"name":"span-1"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)
    assert [json.loads(line)["name"] for line in last] == ["span-0", "span-1", "span-2"]


def test_two_sinks_of_one_file_mix_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"

    def write_many(name: str) -> None:
        # Opened anew each time: a line that the other one is writing must not be taken for a torn one.
        for _ in range(20):
            sink = JsonlSink(path)
            sink.deliver([span(name, attributes={"long": name * 1000})] * 50)
            sink.close()

    threads = [threading.Thread(target=write_many, args=(name,), daemon=True) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(names(path)) == ["a"] * 1000 + ["b"] * 1000
