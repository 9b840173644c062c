"""Span records to OpenTelemetry: what every field becomes, and what the encoder makes of it."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.semconv import schemas
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, session_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import SpanKind, StatusCode

from hypervisor_consumers.saga_spans import otel
from hypervisor_consumers.saga_spans.sinks.otel_environment import read_pairs, resource_of
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanEvent
from hypervisor_schemas.causal_trace import w3c_span_id, w3c_trace_id
from hypervisor_schemas.errors import SettingError
from tests.support.saga_records import PARENT, START, TRACE, span

RESOURCE = Resource({"service.name": "agent-hypervisor"})


def attributes(**changes: Any) -> dict[str, str]:
    return otel.attributes_of(span(**changes))


def base64_of(hexadecimal: str) -> str:
    return b64encode(bytes.fromhex(hexadecimal)).decode()


def failed(error: str = "", reason: str = "", **changes: Any) -> SagaSpanRecord:
    said = {"agent.saga.error": error, "agent.saga.reason": reason}
    return span(status="error", attributes={name: text for name, text in said.items() if text}, **changes)


def test_a_step_that_failed_in_otlp_is_exactly_this():
    record = span(
        status="error",
        trace_id=TRACE,
        attributes={
            "agent.saga.id": "deploy",
            "agent.did": "did:mesh:a",
            "session.id": "s1",
            "agent.saga.error": "connection_timeout",
        },
        causal_trace_id="abcdef012345/01234567",
        events=(SpanEvent("saga.checkpoint", START + 1, {"agent.saga.checkpoint_id": "c1"}),),
    )

    encoded = MessageToDict(encode_spans([otel.readable_span(record, RESOURCE)]))

    def texts(**pairs: str) -> list[dict[str, Any]]:
        return [{"key": key.replace("__", "."), "value": {"stringValue": value}} for key, value in pairs.items()]

    ids = {"traceId": base64_of(TRACE), "spanId": base64_of("b" * 16), "parentSpanId": base64_of(PARENT)}
    assert encoded == {
        "resourceSpans": [
            {
                "resource": {"attributes": texts(service__name="agent-hypervisor")},
                "scopeSpans": [
                    {
                        "scope": {
                            "name": "hypervisor_telemetry.saga_spans",
                            "version": version("hypervisor-telemetry"),
                            "attributes": [
                                {"key": "hypervisor_telemetry.mapping_version", "value": {"intValue": "1"}}
                            ],
                        },
                        "schemaUrl": "https://opentelemetry.io/schemas/1.40.0",
                        "spans": [
                            ids
                            | {
                                "name": "saga.step.build",
                                "kind": "SPAN_KIND_INTERNAL",
                                "startTimeUnixNano": "1736937000000000000",
                                "endTimeUnixNano": "1736937002250000000",
                                "attributes": texts(
                                    agent__saga__id="deploy",
                                    agent__did="did:mesh:a",
                                    session__id="s1",
                                    agent__saga__error="connection_timeout",
                                    gen_ai__agent__id="did:mesh:a",
                                    gen_ai__conversation__id="s1",
                                    agent__causal_trace_id="abcdef012345/01234567",
                                    error__type="connection_timeout",
                                ),
                                "events": [
                                    {
                                        "timeUnixNano": "1736937001000000000",
                                        "name": "saga.checkpoint",
                                        "attributes": [
                                            {"key": "agent.saga.checkpoint_id", "value": {"stringValue": "c1"}}
                                        ],
                                    }
                                ],
                                "links": [
                                    {
                                        "traceId": base64_of(
                                            sha256(b"abcdef012345").hexdigest()[:20] + "abcdef012345"
                                        ),
                                        "spanId": base64_of(sha256(b"01234567").hexdigest()[:8] + "01234567"),
                                        "attributes": texts(agent__causal_trace_id="abcdef012345/01234567"),
                                        "flags": 768,
                                    }
                                ],
                                "status": {"message": "connection_timeout", "code": "STATUS_CODE_ERROR"},
                                "flags": 256,
                            }
                        ],
                    }
                ],
            }
        ]
    }


def test_ids_and_parent_are_the_records_and_a_saga_has_no_parent():
    step = otel.readable_span(span(trace_id=TRACE), RESOURCE)
    saga = otel.readable_span(span(trace_id=TRACE, parent_span_id=None), RESOURCE)

    assert step.context.trace_id == int(TRACE, 16)
    assert step.context.span_id == int("b" * 16, 16)
    assert step.context.trace_flags.sampled
    assert (step.parent.trace_id, step.parent.span_id) == (int(TRACE, 16), int(PARENT, 16))
    assert saga.parent is None
    assert step.kind is SpanKind.INTERNAL


@pytest.mark.parametrize(
    ("moment", "nanoseconds"),
    [
        (datetime(2025, 1, 15, 10, 30, 0, 123457, UTC), 1_736_937_000_123_457_000),
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1969, 12, 31, tzinfo=UTC), 0),
        (datetime.min.replace(tzinfo=UTC), 0),
        (datetime.max.replace(tzinfo=UTC), 2**63 - 1),
    ],
)
def test_times_are_exact_to_the_microsecond_and_stay_what_opentelemetry_can_count(
    moment: datetime, nanoseconds: int
):
    assert otel.nanoseconds(moment.timestamp()) == nanoseconds
    encode_spans([otel.readable_span(span(start_time=moment.timestamp()), RESOURCE)]).SerializeToString()


def test_the_names_that_are_added_are_opentelemetrys_own():
    assert otel.ADDED_NAMES == {
        "agent.did": (gen_ai_attributes.GEN_AI_AGENT_ID,),
        "session.id": (gen_ai_attributes.GEN_AI_CONVERSATION_ID,),
    }
    assert session_attributes.SESSION_ID in otel.ADDED_NAMES
    assert otel.ERROR_TYPE == error_attributes.ERROR_TYPE
    assert otel.SCHEMA_URL in {schema.value for schema in schemas.Schemas}


def test_attributes_are_the_records_and_only_names_that_it_has_get_another_beside_them():
    given = {"agent.saga.id": "g", "agent.did": "did:a"}
    assert attributes(attributes=given) == {**given, "gen_ai.agent.id": "did:a"}
    assert attributes(attributes={"session.id": "s"}) == {"session.id": "s", "gen_ai.conversation.id": "s"}
    assert attributes(attributes={}) == {}


def test_the_record_itself_keeps_the_seeds_names_alone():
    record = failed("boom", causal_trace_id="abcdef012345/01234567")
    otel.readable_span(record, RESOURCE)
    assert record.attributes == {"agent.saga.error": "boom"}


@pytest.mark.parametrize(
    ("status", "code"),
    [("ok", StatusCode.OK), ("error", StatusCode.ERROR), ("compensating", StatusCode.UNSET)],
)
def test_a_compensation_that_has_begun_is_neither_a_success_nor_an_error(status: str, code: StatusCode):
    assert otel.status_of(span(status=status)).status_code is code
    assert ("error.type" in attributes(status=status)) == (status == "error")


def test_an_error_is_described_by_its_error_or_else_by_its_reason():
    assert otel.status_of(failed("no seats left", "sold out")).description == "no seats left"
    assert otel.status_of(failed(reason="sold out")).description == "sold out"
    assert otel.status_of(failed()).description is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("connection_timeout", "connection_timeout"),
        ("java.net.SocketException", "java.net.SocketException"),
        ("TimeoutError", "TimeoutError"),
        ("database unreachable after 30s", "_OTHER"),
        ("", "_OTHER"),
        ("504", "_OTHER"),
        ("größer", "_OTHER"),
        ("e" * 64, "e" * 64),
        ("e" * 65, "_OTHER"),
    ],
)
def test_an_error_that_looks_like_a_name_is_its_own_type(error: str, kind: str):
    assert otel.attributes_of(failed(error))["error.type"] == kind


def test_the_type_that_the_event_names_goes_before():
    assert otel.attributes_of(failed("boom", error_type="rate limit"))["error.type"] == "rate limit"


def test_the_causal_span_is_a_link_and_an_attribute_and_never_a_parent():
    made = otel.readable_span(span(parent_span_id=None, causal_trace_id="t1/s1/p1"), RESOURCE)

    (link,) = made.links
    assert f"{link.context.trace_id:032x}" == w3c_trace_id("t1")
    assert f"{link.context.span_id:016x}" == w3c_span_id("s1")
    assert link.context.is_remote
    assert made.attributes["agent.causal_trace_id"] == "t1/s1/p1"
    assert made.parent is None


@pytest.mark.parametrize("causal", ["", "alone", "a/b/c/d", "/b"])
def test_a_causal_id_that_names_no_span_makes_no_link(causal: str):
    made = otel.readable_span(span(causal_trace_id=causal), RESOURCE)
    assert made.links == ()
    assert made.attributes.get("agent.causal_trace_id", "") == causal


def test_text_that_is_no_unicode_loses_nothing_but_that(caplog: pytest.LogCaptureFixture):
    record = span(
        "saga.step.\ud800🚀",
        status="error",
        attributes={"agent.saga.error": "a\udfffb", "\ud800": "key", "agent.did": "ü"},
        causal_trace_id="\ud800/s",
        error_type="\ud800",
        events=(SpanEvent("\ud800", START, {"\ud800": "\ud800"}),),
    )
    made = otel.readable_span(record, RESOURCE)

    (encoded,) = encode_spans([made]).resource_spans[0].scope_spans[0].spans
    assert encoded.name == "saga.step.?🚀"
    assert encoded.status.message == "a?b"
    assert {each.key: each.value.string_value for each in encoded.attributes} == {
        "agent.saga.error": "a?b",
        "?": "key",
        "agent.did": "ü",
        "gen_ai.agent.id": "ü",
        "agent.causal_trace_id": "?/s",
        "error.type": "?",
    }
    assert [event.name for event in encoded.events] == ["?"]
    assert caplog.records == []


def test_the_resource_is_named_by_opentelemetrys_variables():
    assert resource_of({}).attributes["service.name"] == "agent-hypervisor"
    listed = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=fleet, deployment.environment.name=a%2Cb%20c ,"}
    assert resource_of(listed).attributes["service.name"] == "fleet"
    assert resource_of(listed).attributes["deployment.environment.name"] == "a,b c"
    assert resource_of({**listed, "OTEL_SERVICE_NAME": " mine "}).attributes["service.name"] == "mine"
    assert resource_of({}).attributes["telemetry.distro.name"] == "hypervisor-telemetry"


@pytest.mark.parametrize("text", ["secret", "a=b,secret", "=secret"])
def test_a_list_with_a_part_that_is_no_pair_is_refused_without_showing_it(text: str):
    with pytest.raises(SettingError, match=r"^OTEL_X must be name=value pairs, .*; a part is none\.$") as refusal:
        read_pairs("OTEL_X", {"OTEL_X": text})
    assert "secret" not in str(refusal.value)
