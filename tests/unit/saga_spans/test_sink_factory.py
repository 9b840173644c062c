"""From the words of `--sink` and `TELEMETRY_SPAN_SINKS` to sinks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hypervisor_consumers.saga_spans.sinks.console import ConsoleSink
from hypervisor_consumers.saga_spans.sinks.factory import make_span_sink
from hypervisor_consumers.saga_spans.sinks.jsonl import JsonlSink
from hypervisor_consumers.saga_spans.sinks.kafka import KafkaSink
from hypervisor_consumers.saga_spans.sinks.multi import MultiSink
from hypervisor_consumers.saga_spans.sinks.null import NullSink
from hypervisor_consumers.saga_spans.sinks.otlp_grpc import OtlpGrpcSink
from hypervisor_consumers.saga_spans.sinks.otlp_http import OtlpHttpSink
from hypervisor_consumers.saga_spans.sinks.zipkin import ZipkinSink
from hypervisor_schemas.errors import SettingError
from tests.support.saga_records import span, spans

USAGE = "give one of: otlp[:URL], zipkin[:URL], kafka[:TOPIC], console, jsonl:PATH, null"
KAFKA = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("text", "environ", "kind"),
    [
        ("null", {}, NullSink),
        ("console", {}, ConsoleSink),
        ("otlp", {}, OtlpHttpSink),
        ("otlp:http://c:4318", {}, OtlpHttpSink),
        ("otlp", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, OtlpGrpcSink),
        ("otlp:c:4317", {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, OtlpGrpcSink),
        ("zipkin", {}, ZipkinSink),
        ("zipkin:https://z/api/v2/spans", {}, ZipkinSink),
        ("kafka", KAFKA, KafkaSink),
        ("kafka:my.spans", KAFKA, KafkaSink),
    ],
)
def test_each_word_names_its_sink(text: str, environ: dict[str, str], kind: type[object]) -> None:
    sink = make_span_sink([text], environ)
    assert type(sink) is kind
    sink.close()


def test_a_path_may_have_a_colon(tmp_path: Path) -> None:
    path = tmp_path / "with:colon.jsonl"
    sink = make_span_sink([f"jsonl:{path}"], {})
    assert type(sink) is JsonlSink
    sink.deliver([span("a")])
    sink.close()
    assert json.loads(path.read_text())["name"] == "a"


def test_without_the_option_the_setting_holds_and_without_both_the_console(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_span_sink([], {}).deliver([span()])
    assert "saga.step.build" in capsys.readouterr().out
    assert type(make_span_sink([], {"TELEMETRY_SPAN_SINKS": "null"})) is NullSink
    assert type(make_span_sink([], {"TELEMETRY_SPAN_SINKS": "null, console"})) is MultiSink
    assert type(make_span_sink(["null"], {"TELEMETRY_SPAN_SINKS": "bogus"})) is NullSink


def test_several_sinks_all_get_every_span(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    sink = make_span_sink([f"jsonl:{path}" for path in paths], {})
    assert list(sink.deliver(spans(3))) == []
    sink.close()
    for path in paths:
        assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == [
            "span-0",
            "span-1",
            "span-2",
        ]


@pytest.mark.parametrize("text", ["", "file", "jsonl", "jsonl:", "Console", "console:x", "null:", "otpl:http://x"])
def test_any_other_word_is_refused_with_a_sentence_that_names_the_choice(text: str) -> None:
    for given, environ, setting in (
        ([text], {}, "--sink"),
        ([], {"TELEMETRY_SPAN_SINKS": f"null,{text}"}, "TELEMETRY_SPAN_SINKS"),
    ):
        with pytest.raises(SettingError) as refusal:
            make_span_sink(given, environ)
        assert refusal.value.setting == setting
        if text or given:
            shown = text if ":" not in text or text.endswith(":") else text.partition(":")[0] + ":…"
            assert str(refusal.value) == f"{setting} can't be {shown!r}; {USAGE}."
        else:
            assert "between two commas something is missing" in str(refusal.value)


def test_no_secret_of_a_text_is_in_a_sentence() -> None:
    address = "https://me:hunter2@c/?key=hunter2"
    for given in ([f"otpl:{address}"], [f"otlp:{address}", f"otlp:{address}"], [f"otlp:{address}{chr(32)}"]):
        with pytest.raises(SettingError) as refusal:
            make_span_sink(given, {})
        assert "hunter2" not in str(refusal.value)
    with pytest.raises(SettingError) as refusal:
        make_span_sink([], {"TELEMETRY_SPAN_SINKS": f"otlp:{address},,null"})
    assert "hunter2" not in str(refusal.value)


def test_a_sink_that_is_named_twice_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^--sink names null twice; every span would be there twice\.$"):
        make_span_sink(["null", "console", "null"], {})


def test_a_file_that_cant_be_opened_is_refused_with_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in (
        (tmp_path / "absent" / "spans.jsonl", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "fifo", "it is no regular file"),
    ):
        with pytest.raises(SettingError) as refusal:
            make_span_sink([f"jsonl:{path}"], {})
        assert str(refusal.value) == (
            f"--sink can't write to {path}: {why}. Give a file in a folder that exists and may be written to."
        )
    assert not (tmp_path / "absent").exists()


def test_what_was_opened_is_closed_when_another_one_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[JsonlSink] = []

    def close(sink: JsonlSink) -> None:
        closed.append(sink)

    monkeypatch.setattr(JsonlSink, "close", close)
    with pytest.raises(SettingError):
        make_span_sink([f"jsonl:{tmp_path}/a", "bogus"], {})
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kafka", "KAFKA_BOOTSTRAP_SERVERS is not set; "),
        ("kafka:a topic", "--sink kafka:TOPIC must be letters, "),
        ("kafka:..", "--sink kafka:TOPIC must be letters, "),
        ("zipkin:z", "--sink zipkin:URL must be http://host"),
        ("otlp:z", "--sink otlp:URL must be http://host"),
    ],
)
def test_a_sinks_own_setting_is_refused_by_its_name(text: str, sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        make_span_sink([text], {})
    assert str(refusal.value).startswith(sentence)
