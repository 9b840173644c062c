"""The OTLP sink over HTTP against a real server: every kind of answer, and what becomes of each span."""

# size: every answer that a receiver can give

from __future__ import annotations

import gzip
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from google.rpc.status_pb2 import Status

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.sinks.otel_environment import resource_of
from hypervisor_consumers.saga_spans.sinks.otlp_http import OtlpHttpSink
from hypervisor_consumers.saga_spans.sinks.otlp_settings import otlp_settings
from hypervisor_schemas.errors import OutputUnavailable, SettingError
from tests.support.saga_records import spans
from tests.support.span_receivers import (
    PROTOBUF,
    HttpReceiver,
    Reply,
    Request,
    free_port,
    http_receiver,
    partial_success,
)

BASE = "OTEL_EXPORTER_OTLP_"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as one:
        yield one


@pytest.fixture
def sink_to() -> Iterator[Callable[..., OtlpHttpSink]]:
    made: list[OtlpHttpSink] = []

    def make(url: str, **variables: str) -> OtlpHttpSink:
        environ = {BASE + "ENDPOINT": url, **{BASE + name: text for name, text in variables.items()}}
        made.append(OtlpHttpSink(otlp_settings(environ), resource_of(environ)))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def refuse(names: set[str], status: int = 400, reply: Reply | None = None) -> Callable[[Request], Reply]:
    """Answers with `status` to a request that holds one of these."""

    def answer(request: Request) -> Reply:
        if not names & set(request.names):
            return Reply()
        return reply or Reply(status)

    return answer


def unavailable(sink: OtlpHttpSink, count: int = 3) -> OutputUnavailable:
    with pytest.raises(OutputUnavailable) as caught:
        sink.deliver(spans(count))
    return caught.value


def test_spans_come_in_requests_of_at_most_512_over_one_connection(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink]
):
    sink = sink_to(receiver.url, HEADERS="Api-Key=s%20e,Content-Type=text/plain")
    sent = spans(1100)

    assert sink.deliver(sent) == []

    assert receiver.taken == [
        [one.name for one in sent[:512]],
        [one.name for one in sent[512:1024]],
        [one.name for one in sent[1024:]],
    ]
    assert len({request.connection for request in receiver.requests}) == 1
    request = receiver.requests[0]
    assert request.path == "/v1/traces"
    assert request.headers["content-type"] == PROTOBUF
    assert request.headers["api-key"] == "s e"
    assert request.headers["user-agent"].startswith("hypervisor-telemetry/")
    assert "content-encoding" not in request.headers
    assert sink.deliver([]) == []
    assert len(receiver.requests) == 3


def test_with_compression_a_request_is_gzip(receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink]):
    sink_to(receiver.url, COMPRESSION="gzip").deliver(spans(100))

    (request,) = receiver.requests
    assert request.headers["content-encoding"] == "gzip"
    assert len(request.body) < len(gzip.decompress(request.body)) / 4
    assert len(request.names) == 100


def test_requests_hold_two_mebibytes_at_most_unless_one_span_is_larger(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink]
):
    large = spans(8, attributes={"agent.saga.result": "x" * 700_000})
    huge = spans(1, attributes={"agent.saga.result": "x" * 3_000_000})

    assert sink_to(receiver.url).deliver([*large, *huge]) == []

    sizes = [len(request.body) for request in receiver.requests]
    assert max(sizes[:-1]) < 2 * 1024 * 1024 < sizes[-1]
    assert sorted(name for names in receiver.taken for name in names) == sorted(one.name for one in [*large, *huge])


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize(("header", "seconds"), [(None, None), ("7", 7.0), ("soon", None)])
def test_a_receiver_in_trouble_makes_them_wait_as_long_as_it_asks(
    receiver: HttpReceiver,
    sink_to: Callable[..., OtlpHttpSink],
    status: int,
    header: str | None,
    seconds: float | None,
):
    headers = {} if header is None else {"Retry-After": header}
    receiver.answer = lambda _: Reply(status, b"too much\nto do", {"Content-Type": "text/plain", **headers})

    error = unavailable(sink_to(receiver.url))

    assert error.retry_after == seconds
    assert f"at {receiver.url}/v1/traces answers {status} " in str(error)
    assert str(error).endswith(": too much to do.")
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "it wants to know who asks: set OTEL_EXPORTER_OTLP_HEADERS."),
        (403, "it doesn't allow this: check OTEL_EXPORTER_OTLP_HEADERS."),
        (404, "it has no such address: check OTEL_EXPORTER_OTLP_ENDPOINT."),
        (405, "it is no receiver of spans: check OTEL_EXPORTER_OTLP_ENDPOINT."),
        (407, "the proxy wants to know who asks: set user and password in HTTP_PROXY or HTTPS_PROXY."),
        (301, "it is elsewhere; set OTEL_EXPORTER_OTLP_ENDPOINT to its own address."),
        (308, "it is elsewhere; set OTEL_EXPORTER_OTLP_ENDPOINT to its own address."),
    ],
)
def test_what_somebody_has_to_set_makes_them_wait_and_says_what(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink], status: int, advice: str
):
    headers = {"Content-Type": "text/plain", "Location": f"{receiver.url}/elsewhere"}
    receiver.answer = lambda _: Reply(status, b"the token hunter2 is wrong", headers)

    text = str(unavailable(sink_to(receiver.url, HEADERS="Authorization=hunter2")))

    assert text.endswith(advice)
    assert "hunter2" not in text
    assert [request.path for request in receiver.requests] == ["/v1/traces"]


@pytest.mark.parametrize("status", [400, 409, 415, 422, 431])
def test_of_a_request_that_is_refused_only_the_culprits_are_refused(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink], status: int
):
    body = Reply(status, Status(message="bad\u0007 span").SerializeToString(), {"Content-Type": PROTOBUF})
    receiver.answer = refuse({"span-3", "span-4", "span-600"}, reply=body)

    refused = sink_to(receiver.url).deliver(spans(700))

    assert [each.at for each in refused] == [3, 4, 600]
    assert refused[0].reason.startswith(f"The OTLP receiver at {receiver.url}/v1/traces answers {status} ")
    assert refused[0].reason.endswith(": bad span.")
    accepted = {
        name for names in receiver.taken if not set(names) & {"span-3", "span-4", "span-600"} for name in names
    }
    assert accepted == {one.name for one in spans(700)} - {"span-3", "span-4", "span-600"}


def test_an_address_that_answers_400_to_anything_gives_up_no_span(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink]
):
    receiver.answer = lambda _: Reply(400, b"speak TLS", {"Content-Type": "text/plain"})

    text = str(unavailable(sink_to(receiver.url), 100))

    assert text.startswith("A request without spans is refused, too: The OTLP receiver at ")
    assert text.endswith("answers 400 Bad Request: speak TLS.")
    assert receiver.taken[1:] == [[]]


def test_a_request_that_is_too_large_is_sent_in_halves_and_a_span_that_is_too_large_is_refused(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink]
):
    receiver.answer = lambda request: Reply(413 if len(request.body) > 4000 else 200)
    sent = [*spans(20), *spans(1, attributes={"agent.saga.result": "x" * 5000})]

    refused = sink_to(receiver.url).deliver(sent)

    assert [each.at for each in refused] == [20]
    assert "answers 413 " in refused[0].reason
    assert [] not in receiver.taken


def test_a_partial_success_is_read_and_the_rejected_are_found(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink], caplog: pytest.LogCaptureFixture
):
    bad = {"span-1", "span-6"}

    def answer(request: Request) -> Reply:
        count = len(bad & set(request.names))
        return Reply(200, partial_success(count, "span is too old") if count else b"", {"Content-Type": PROTOBUF})

    receiver.answer = answer

    refused = sink_to(receiver.url).deliver(spans(8))

    says = f"The OTLP receiver at {receiver.url}/v1/traces refuses it: span is too old"
    assert refused == [Refused(1, says), Refused(6, says)]
    assert caplog.records == []


def test_what_a_receiver_only_mentions_is_logged_once_a_minute(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink], caplog: pytest.LogCaptureFixture
):
    receiver.answer = lambda _: Reply(200, partial_success(0, "use a newer version"), {"Content-Type": PROTOBUF})
    sink = sink_to(receiver.url)

    assert sink.deliver(spans(3)) == sink.deliver(spans(3)) == []

    assert [record.getMessage() for record in caplog.records] == [
        f"The OTLP receiver at {receiver.url}/v1/traces says: use a newer version"
    ]


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_2xx_takes_them_but_an_answer_that_is_no_otlp_is_remarked(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink], status: int, caplog: pytest.LogCaptureFixture
):
    sink = sink_to(receiver.url)
    receiver.answer = lambda _: Reply(status)
    assert sink.deliver(spans(3)) == []
    assert caplog.records == []
    if status != 204:
        receiver.answer = lambda _: Reply(status, b"<html>Welcome</html>", {"Content-Type": "text/html"})
        assert sink.deliver(spans(3)) == []
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "not as OTLP does" in record.getMessage()


def test_only_a_part_of_an_endless_answer_is_read(receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink]):
    receiver.answer = lambda _: Reply(500, b"x" * 5_000_000, {"Content-Type": "text/plain"})
    assert len(str(unavailable(sink_to(receiver.url)))) < 500
    receiver.answer = lambda _: Reply()
    assert sink_to(receiver.url).deliver(spans(1)) == []


def test_nobody_there_is_said_with_the_address(sink_to: Callable[..., OtlpHttpSink]):
    port = free_port()
    text = str(unavailable(sink_to(f"http://me:hunter2@127.0.0.1:{port}?key=hunter2")))
    assert text == (f"The OTLP receiver at http://127.0.0.1:{port}/v1/traces can't be reached: Connection refused.")


def test_a_receiver_that_comes_back_is_found_again(sink_to: Callable[..., OtlpHttpSink]):
    port = free_port()
    sink = sink_to(f"http://127.0.0.1:{port}")
    unavailable(sink)
    with socket.create_server(("127.0.0.1", port)) as server:
        thread = threading.Thread(target=_answer_once, args=(server,), daemon=True)
        thread.start()
        assert sink.deliver(spans(1)) == []
        thread.join()


def _answer_once(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("drops", [False, True], ids=["silent", "in drops"])
def test_an_answer_that_takes_too_long_makes_them_wait(sink_to: Callable[..., OtlpHttpSink], drops: bool):
    done = threading.Event()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            if drops:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
            try:
                while not done.wait(0.02):
                    if drops:
                        connection.sendall(b"x")
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        text = str(unavailable(sink_to(url, TIMEOUT="200")))
        done.set()
        thread.join()
    assert text.endswith(("timed out.", "takes too long."))


def test_no_http_at_all_makes_them_wait(sink_to: Callable[..., OtlpHttpSink]):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-\x1b[2J\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        text = str(unavailable(sink_to(url)))
        assert "can't be reached: " in text
        assert text.isprintable()
        thread.join()


def test_a_proxy_of_the_environment_is_used_and_its_password_is_sent_to_it_alone(
    receiver: HttpReceiver, sink_to: Callable[..., OtlpHttpSink], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("http_proxy", receiver.url.replace("://", "://me:pw@"))
    sink_to("http://collector.invalid:4318").deliver(spans(1))
    (request,) = receiver.requests
    assert request.path == "http://collector.invalid:4318/v1/traces"
    assert request.headers["proxy-authorization"] == "Basic bWU6cHc="

    monkeypatch.setenv("no_proxy", "localhost")
    sink_to(receiver.url).deliver(spans(1))
    assert receiver.requests[1].path == "/v1/traces"
    assert "proxy-authorization" not in receiver.requests[1].headers

    monkeypatch.setenv("http_proxy", "http://me:hunter2@:0x")
    with pytest.raises(SettingError, match=r"^http_proxy names no proxy that can be used") as refusal:
        sink_to("http://collector.invalid:4318")
    assert "hunter2" not in str(refusal.value)


class Certificates:
    """A certificate authority of the test's own, with files for a client."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.authority = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.authority)
        client = self._authority.issue_cert("client@example.com")
        self.key, self.client = folder / "key.pem", folder / "client.pem"
        client.private_key_pem.write_to_path(self.key)
        for pem in client.cert_chain_pems:
            pem.write_to_path(self.client, append=True)

    def server(self) -> ssl.SSLContext:
        """TLS of a server at localhost that asks its clients for a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert("localhost").configure_cert(context)
        self._authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


def test_by_tls_both_sides_show_a_certificate(certificates: Certificates, sink_to: Callable[..., OtlpHttpSink]):
    trusted = {"CERTIFICATE": str(certificates.authority)}
    own = {"CLIENT_KEY": str(certificates.key), "CLIENT_CERTIFICATE": str(certificates.client)}
    with http_receiver(certificates.server()) as receiver:
        assert sink_to(receiver.url, **trusted, **own).deliver(spans(2)) == []
        assert receiver.taken == [["span-0", "span-1"]]
        assert len({request.connection for request in receiver.requests}) == 1

        untrusting = str(unavailable(sink_to(receiver.url, **own)))
        assert "can't be trusted or doesn't trust this client: [SSL: CERTIFICATE_VERIFY_FAILED]" in untrusting
        assert "OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_KEY and _CLIENT_CERTIFICATE" in untrusting
        # How a server ends it, and when this side learns of it, differs.
        assert f"at {receiver.url}/v1/traces can't be " in str(unavailable(sink_to(receiver.url, **trusted)))
        assert len(receiver.requests) == 1


def test_files_that_are_no_certificates_are_named(
    certificates: Certificates, sink_to: Callable[..., OtlpHttpSink], tmp_path: Path
):
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(SettingError, match=r"^OTEL_EXPORTER_OTLP_CERTIFICATE can't be used: "):
        sink_to("https://c", CERTIFICATE=str(tmp_path / "x.pem"))
    with pytest.raises(SettingError, match=r"^OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE can't be used: "):
        sink_to("https://c", CLIENT_KEY=str(certificates.client), CLIENT_CERTIFICATE=str(tmp_path / "x.pem"))
