"""The OTLP sink over gRPC against a real server: every kind of answer, and what becomes of each span."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import DebugInfo, RetryInfo
from google.rpc.status_pb2 import Status

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.sinks.otel_environment import resource_of
from hypervisor_consumers.saga_spans.sinks.otlp_grpc import OtlpGrpcSink
from hypervisor_consumers.saga_spans.sinks.otlp_settings import otlp_settings
from hypervisor_schemas.errors import OutputUnavailable, SettingError
from tests.support.saga_records import spans
from tests.support.span_receivers import GrpcReceiver, free_port, grpc_receiver, partial_success

BASE = "OTEL_EXPORTER_OTLP_"


@pytest.fixture
def receiver() -> Iterator[GrpcReceiver]:
    with grpc_receiver() as one:
        yield one


@pytest.fixture
def sink_to() -> Iterator[Callable[..., OtlpGrpcSink]]:
    made: list[OtlpGrpcSink] = []

    def make(target: str, **variables: str) -> OtlpGrpcSink:
        environ = {
            BASE + name: text
            for name, text in {"PROTOCOL": "grpc", "ENDPOINT": f"http://{target}", **variables}.items()
        }
        made.append(OtlpGrpcSink(otlp_settings(environ), resource_of(environ)))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def unavailable(sink: OtlpGrpcSink, count: int = 3) -> OutputUnavailable:
    with pytest.raises(OutputUnavailable) as caught:
        sink.deliver(spans(count))
    return caught.value


def aborting(code: grpc.StatusCode, details: str = "", *infos: Any) -> Callable[[list[str], Any], bytes]:
    def answer(_names: list[str], call: grpc.ServicerContext) -> bytes:
        if infos:
            status = Status(code=code.value[0], message=details)
            for info in infos:
                status.details.add().Pack(info)
            call.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        call.abort(code, details)
        raise AssertionError("abort raises")

    return answer


def test_spans_come_in_calls_of_at_most_512_with_the_headers(
    receiver: GrpcReceiver, sink_to: Callable[..., OtlpGrpcSink]
):
    sink = sink_to(receiver.target, HEADERS="Api-Key=s%20e,raw-bin=x", COMPRESSION="gzip")
    sent = spans(600)

    assert sink.deliver(sent) == []

    assert receiver.taken == [[one.name for one in sent[:512]], [one.name for one in sent[512:]]]
    assert receiver.calls[0][1]["api-key"] == "s e"
    assert receiver.calls[0][1]["raw-bin"] == b"x"
    assert str(receiver.calls[0][1]["user-agent"]).startswith("hypervisor-telemetry/")


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    ],
)
def test_a_receiver_in_trouble_makes_them_wait_as_long_as_it_asks(
    receiver: GrpcReceiver, sink_to: Callable[..., OtlpGrpcSink], code: grpc.StatusCode
):
    receiver.answer = aborting(code, "too much\nto do")
    error = unavailable(sink_to(receiver.target))
    assert str(error) == f"The OTLP receiver at http://{receiver.target} answers {code.name}: too much to do."
    assert error.retry_after is None

    info = RetryInfo(retry_delay=Duration(seconds=4, nanos=500_000_000))
    receiver.answer = aborting(code, "busy", DebugInfo(detail="not this"), info)
    assert unavailable(sink_to(receiver.target)).retry_after == 4.5
    assert len(receiver.calls) == 2


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "it wants to know who asks: set OTEL_EXPORTER_OTLP_HEADERS."),
        (grpc.StatusCode.PERMISSION_DENIED, "it doesn't allow this: check OTEL_EXPORTER_OTLP_HEADERS."),
        (grpc.StatusCode.UNIMPLEMENTED, "it is no receiver of spans: check OTEL_EXPORTER_OTLP_ENDPOINT."),
    ],
)
def test_what_somebody_has_to_set_makes_them_wait_and_says_what(
    receiver: GrpcReceiver, sink_to: Callable[..., OtlpGrpcSink], code: grpc.StatusCode, advice: str
):
    receiver.answer = aborting(code, "the token hunter2 is wrong")
    text = str(unavailable(sink_to(receiver.target, HEADERS="authorization=hunter2")))
    assert text == f"The OTLP receiver at http://{receiver.target} answers {code.name}; {advice}"


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
    ],
)
def test_of_a_request_that_is_refused_only_the_culprits_are_refused(
    receiver: GrpcReceiver, sink_to: Callable[..., OtlpGrpcSink], code: grpc.StatusCode
):
    refusing = aborting(code, "bad span")
    receiver.answer = lambda names, call: refusing(names, call) if {"span-1", "span-9"} & set(names) else b""

    refused = sink_to(receiver.target).deliver(spans(12))

    says = f"The OTLP receiver at http://{receiver.target} answers {code.name}: bad span."
    assert refused == [Refused(1, says), Refused(9, says)]


def test_what_refuses_even_nothing_is_no_receiver(receiver: GrpcReceiver, sink_to: Callable[..., OtlpGrpcSink]):
    receiver.answer = aborting(grpc.StatusCode.INVALID_ARGUMENT, "who is this tenant?")
    text = str(unavailable(sink_to(receiver.target)))
    assert text.startswith("A request without spans is refused, too: ")
    assert receiver.taken[1:] == [[]]


def test_a_request_that_a_real_server_finds_too_large_is_sent_in_halves(sink_to: Callable[..., OtlpGrpcSink]):
    with grpc_receiver(options=(("grpc.max_receive_message_length", 4000),)) as receiver:
        sent = [*spans(20), *spans(1, attributes={"agent.saga.result": "x" * 5000})]

        refused = sink_to(receiver.target).deliver(sent)

        assert [each.at for each in refused] == [20]
        assert "RESOURCE_EXHAUSTED" in refused[0].reason
        assert [name for names in receiver.taken for name in names] == [one.name for one in spans(20)]


@pytest.mark.parametrize(
    "details",
    [
        "grpc: received message larger than max (5000 vs. 4000)",
        "SERVER: Received message larger than max (5000 vs. 4000)",
        "gRPC message exceeds maximum size 4000: 5000",
    ],
)
def test_the_words_for_too_large_of_each_language_are_understood(
    receiver: GrpcReceiver, sink_to: Callable[..., OtlpGrpcSink], details: str
):
    refusing = aborting(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
    receiver.answer = lambda names, call: refusing(names, call) if "span-2" in names else b""
    assert [each.at for each in sink_to(receiver.target).deliver(spans(5))] == [2]


def test_a_partial_success_is_read_and_the_rejected_are_found(
    receiver: GrpcReceiver, sink_to: Callable[..., OtlpGrpcSink], caplog: pytest.LogCaptureFixture
):
    receiver.answer = lambda names, _call: (
        partial_success(1, "too old") if "span-2" in names else partial_success(0)
    )
    says = f"The OTLP receiver at http://{receiver.target} refuses it: too old"
    assert sink_to(receiver.target).deliver(spans(5)) == [Refused(2, says)]
    assert caplog.records == []

    receiver.answer = lambda _names, _call: partial_success(0, "use a newer version")
    sink = sink_to(receiver.target)
    assert sink.deliver(spans(5)) == sink.deliver(spans(5)) == []
    assert [record.getMessage() for record in caplog.records] == [
        f"The OTLP receiver at http://{receiver.target} says: use a newer version"
    ]


def test_nobody_there_and_no_answer_make_them_wait(receiver: GrpcReceiver, sink_to: Callable[..., OtlpGrpcSink]):
    text = str(unavailable(sink_to(f"localhost:{free_port()}")))
    assert "answers UNAVAILABLE: " in text
    assert "Connection refused" in text

    ended = threading.Event()

    def hang(_names: list[str], call: grpc.ServicerContext) -> bytes:
        call.add_callback(ended.set)
        ended.wait()
        return b""

    receiver.answer = hang
    assert "DEADLINE_EXCEEDED" in str(unavailable(sink_to(receiver.target, TIMEOUT="200")))


def test_by_tls_both_sides_show_a_certificate(sink_to: Callable[..., OtlpGrpcSink], tmp_path: Path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = authority.issue_cert("client@example.com")
    client.private_key_pem.write_to_path(tmp_path / "key.pem")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    own = authority.issue_cert("localhost")
    pair = (own.private_key_pem.bytes(), b"".join(pem.bytes() for pem in own.cert_chain_pems))
    credentials = grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), require_client_auth=True)
    with grpc_receiver(credentials) as receiver:
        trusted = {"ENDPOINT": f"https://{receiver.target}", "CERTIFICATE": str(tmp_path / "ca.pem")}
        both = {"CLIENT_KEY": str(tmp_path / "key.pem"), "CLIENT_CERTIFICATE": str(tmp_path / "client.pem")}

        assert sink_to(receiver.target, **trusted, **both).deliver(spans(2)) == []
        unavailable(sink_to(receiver.target, **trusted))
        unavailable(sink_to(receiver.target, **both))

        assert receiver.taken == [["span-0", "span-1"]]
    with pytest.raises(SettingError, match=r"^OTEL_EXPORTER_OTLP_CERTIFICATE /nowhere can't be read"):
        sink_to(receiver.target, ENDPOINT="https://c", CERTIFICATE="/nowhere")
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(SettingError, match=r"^OTEL_EXPORTER_OTLP_CERTIFICATE can't be used: "):
        sink_to(receiver.target, ENDPOINT="https://c", CERTIFICATE=str(tmp_path / "x.pem"))
