"""Sinks of other packages, by entry point."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, ClassVar

import pytest

from hypervisor_consumers.saga_spans.sinks import entry_points
from hypervisor_consumers.saga_spans.sinks.factory import make_span_sink
from hypervisor_consumers.saga_spans.sinks.null import NullSink
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import OutputUnavailable, SettingError
from tests.support.saga_records import span, spans


class Recorder:
    """A sink of somebody else's package."""

    made: ClassVar[list[Recorder]] = []

    def __init__(self, text: str) -> None:
        self.text = text
        self.seen: list[dict[str, Any]] = []
        self.closed = 0
        self.error: Exception | None = None
        Recorder.made.append(self)

    def record_span(self, **parts: Any) -> None:
        if self.error is not None:
            raise self.error
        self.seen.append(parts)

    def close(self) -> None:
        self.closed += 1


class WholeRecorder(Recorder):
    def record_saga_span(self, record: SagaSpanRecord) -> None:
        self.seen.append({"record": record})


def broken(_text: str) -> object:
    raise ValueError("hunter2 is no password")


def choosy(_text: str) -> object:
    raise SettingError("MY_SINK_URL", "is not set; set it.")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "made", [])
    group = entry_points.GROUP
    module = __name__
    found = EntryPoints(
        EntryPoint(name, value, group)
        for name, value in (
            ("recorder", f"{module}:Recorder"),
            ("whole", f"{module}:WholeRecorder"),
            ("broken", f"{module}:broken"),
            ("choosy", f"{module}:choosy"),
            ("no-sink", "builtins:str"),
            ("gone", "no_such_module:Sink"),
            ("null", f"{module}:Recorder"),
        )
    )
    monkeypatch.setattr(entry_points, "entry_points", found.select)


def test_an_installed_entry_point_makes_a_sink_from_the_text_behind_the_colon() -> None:
    sink = make_span_sink(["recorder:a:b"], {})
    (made,) = Recorder.made
    assert made.text == "a:b"
    assert list(sink.deliver([span(status="error")])) == []
    one = span(status="error")
    assert made.seen == [
        {
            "name": one.name,
            "start_time": one.start_time,
            "end_time": one.end_time,
            "attributes": one.attributes,
            "status": "error",
        }
    ]
    sink.close()
    assert made.closed == 1
    make_span_sink(["recorder"], {})
    assert Recorder.made[1].text == ""


def test_one_that_knows_whole_records_gets_them() -> None:
    make_span_sink(["whole"], {}).deliver([span()])
    assert Recorder.made[0].seen == [{"record": span()}]


def test_what_it_raises_means_try_again_and_its_words_are_only_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = make_span_sink(["recorder"], {})
    (made,) = Recorder.made
    made.error = ValueError("hunter2")
    for _ in range(2):
        with pytest.raises(OutputUnavailable) as caught:
            sink.deliver(spans(2))
        assert str(caught.value) == "The sink recorder failed with ValueError; the log says where."
    assert len(caplog.records) == 1
    made.error = OutputUnavailable("come back", retry_after=7)
    with pytest.raises(OutputUnavailable, match="come back") as asked:
        sink.deliver(spans(2))
    assert asked.value.retry_after == 7
    made.error = None
    assert list(sink.deliver(spans(2))) == []
    assert [seen["name"] for seen in made.seen] == ["span-0", "span-1"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("broken", "--sink names broken, an entry point of another package"),
        ("gone", "--sink names gone, an entry point of another package (no_such_module:Sink) that can't be made"),
        ("no-sink", "--sink names no-sink, an entry point of another package (builtins:str) without record_span."),
        ("choosy", "MY_SINK_URL is not set; set it."),
    ],
)
def test_one_that_cannot_be_made_is_one_sentence(
    name: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(SettingError) as refusal:
        make_span_sink([f"{name}:hunter2"], {})
    assert str(refusal.value).startswith(sentence)
    assert "hunter2" not in str(refusal.value) + caplog.text


def test_our_own_names_win_and_the_others_are_in_the_choice() -> None:
    assert type(make_span_sink(["null"], {})) is NullSink
    with pytest.raises(SettingError, match="jsonl:PATH, null, broken, choosy, gone, no-sink, recorder, whole"):
        make_span_sink(["bogus"], {})


def test_of_several_each_is_named_without_what_it_was_given() -> None:
    sink = make_span_sink(["recorder:hunter2", "null"], {})
    Recorder.made[0].error = ValueError()
    with pytest.raises(OutputUnavailable, match=r"^recorder: The sink recorder failed with ValueError"):
        sink.deliver(spans(1))
