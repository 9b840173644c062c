import base64
import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hypervisor_schemas.errors import RegistryUnavailable, SettingError, UnknownSchema
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.wire.codec import SUBJECT, EventDecoder, confluent_framing, encode_event, schema_text
from hypervisor_schemas.wire.registry import SchemaRegistry


class Server:
    """An HTTP server on a free port of 127.0.0.1 that answers each request as it is told to."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.raw: bytes | None = None
        self.released = threading.Event()
        self.released.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                server.requests.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
                server.released.wait(30)
                if server.raw is not None:
                    self.wfile.write(server.raw)
                    self.close_connection = True
                    return
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            do_POST = do_GET  # noqa: N815 - the name that http.server calls

            def log_message(self, *args: object) -> None:
                """Keep standard error clean."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._http.server_port}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, status: int, body: object) -> None:
        self.status, self.body = status, body if isinstance(body, bytes) else json.dumps(body).encode()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # A proxy that the shell is configured for would answer in the server's place.
    monkeypatch.setenv("no_proxy", "*")
    running = Server()
    yield running
    running.close()


# A name of its own: tracebacks show source lines, and those must not hold it either.
PASSWORD = "hunter2"  # noqa: S105 - nobody's

ASKED: list[Callable[[SchemaRegistry], object]] = [
    lambda registry: registry.schema_by_id(7),
    lambda registry: registry.id_of(SUBJECT, schema_text()),
]


def test_a_known_id_gives_the_schemas_text(server):
    server.answer(200, {"schema": schema_text()})
    assert SchemaRegistry(server.url).schema_by_id(7) == schema_text()
    assert [(method, path) for method, path, _, _ in server.requests] == [("GET", "/schemas/ids/7")]


def test_a_registered_schema_gives_its_id(server):
    server.answer(200, {"subject": SUBJECT, "id": 7, "version": 1, "schema": schema_text()})
    assert SchemaRegistry(server.url).id_of(SUBJECT, schema_text()) == 7
    method, path, headers, body = server.requests[0]
    assert (method, path) == ("POST", f"/subjects/{SUBJECT}")
    assert json.loads(body) == {"schema": schema_text()}
    assert headers["Content-Type"] == "application/vnd.schemaregistry.v1+json"


def test_a_path_in_the_url_stays_in_front(server):
    server.answer(200, {"schema": "{}"})
    SchemaRegistry(server.url + "/apis/ccompat/v7/").schema_by_id(7)
    assert server.requests[0][1] == "/apis/ccompat/v7/schemas/ids/7"


def test_a_subject_is_quoted(server):
    server.answer(200, {"id": 7})
    SchemaRegistry(server.url).id_of("a/b c", "{}")
    assert server.requests[0][1] == "/subjects/a%2Fb%20c"


def test_an_unknown_id_is_unknown_for_good(server):
    server.answer(404, {"error_code": 40403, "message": "Schema not found"})
    with pytest.raises(UnknownSchema, match="doesn't know id 7"):
        SchemaRegistry(server.url).schema_by_id(7)


def test_a_schema_that_is_not_registered_has_no_id(server):
    server.answer(404, {"error_code": 40401, "message": "Subject not found"})
    assert SchemaRegistry(server.url).id_of(SUBJECT, schema_text()) is None


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"error_code": 404}', b'{"error_code": "40403"}'])
def test_a_404_that_is_not_a_registrys_makes_no_id_unknown(server, body, ask):
    server.answer(404, body)
    with pytest.raises(RegistryUnavailable, match=r"no schema registry answers .*; check SCHEMA_REGISTRY_URL"):
        ask(SchemaRegistry(server.url))


@pytest.mark.parametrize("answer", [{"schemaType": "PROTOBUF", "schema": "x"}, {"schema": 7}, {}])
def test_an_id_of_another_kind_of_schema_is_unknown(server, answer):
    server.answer(200, answer)
    with pytest.raises(UnknownSchema, match="not an Avro schema"):
        SchemaRegistry(server.url).schema_by_id(7)


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("status", [500, 503, 401, 429])
def test_a_registry_in_trouble_is_unavailable(server, status, ask):
    server.answer(status, {"message": "not today"})
    with pytest.raises(RegistryUnavailable, match=f"at {server.url} answered {status}"):
        ask(SchemaRegistry(server.url))


@pytest.mark.parametrize("ask", ASKED)
def test_a_registry_that_is_elsewhere_is_unavailable_and_its_password_goes_nowhere(server, ask):
    with closing(Server()) as elsewhere:
        server.raw = f"HTTP/1.1 301 Moved\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n".encode()
        with pytest.raises(
            RegistryUnavailable, match=r"answered 301; set SCHEMA_REGISTRY_URL to where it is now\.$"
        ):
            ask(SchemaRegistry(f"http://agent:{PASSWORD}@{server.address}"))
        assert elsewhere.requests == []


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff\xfe", b"[1]", b'"text"', b"[" * 100_000])
def test_an_answer_of_another_form_is_unavailable(server, body, ask):
    server.answer(200, body)
    with pytest.raises(RegistryUnavailable):
        ask(SchemaRegistry(server.url))


@pytest.mark.parametrize("identity", [None, "7", True, 7.5])
def test_an_answer_without_a_number_as_id_is_unavailable(server, identity):
    server.answer(200, {"id": identity})
    with pytest.raises(RegistryUnavailable, match="another form"):
        SchemaRegistry(server.url).id_of(SUBJECT, schema_text())


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize(
    "raw", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"]
)
def test_an_answer_that_is_no_http_or_breaks_off_is_unavailable(server, raw, ask):
    server.raw = raw
    with pytest.raises(RegistryUnavailable):
        ask(SchemaRegistry(server.url))


def test_a_registry_that_is_away_is_unavailable(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:
        # Bound and not listening: nobody else gets the port meanwhile, and connections are refused.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RegistryUnavailable, match=f"at {url} can't be reached"):
            SchemaRegistry(url).schema_by_id(7)


def test_a_registry_that_hangs_is_unavailable_after_the_timeout(server):
    server.released.clear()
    started = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="can't be reached"):
        SchemaRegistry(server.url, timeout=0.2).schema_by_id(7)
    assert time.monotonic() - started < 10


def test_user_and_password_of_the_url_are_sent_and_stay_out_of_the_address(server):
    server.answer(200, {"schema": "{}"})
    SchemaRegistry(f"http://agent:p%40ss%3Aw@{server.address}").schema_by_id(7)
    assert server.requests[0][2]["Authorization"] == "Basic " + base64.b64encode(b"agent:p@ss:w").decode()
    assert server.requests[0][2]["Host"] == server.address


def test_without_a_user_nothing_is_sent(server):
    server.answer(200, {"schema": "{}"})
    SchemaRegistry(server.url).schema_by_id(7)
    assert "Authorization" not in server.requests[0][2]


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("status", [401, 500, 200])
def test_credentials_are_in_no_error(server, status, ask):
    server.answer(status, b"<html>")
    with pytest.raises(RegistryUnavailable) as caught:
        ask(SchemaRegistry(f"http://agent:{PASSWORD}@{server.address}"))
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_credentials_are_in_no_error_about_an_unknown_id(server):
    server.answer(404, {"error_code": 40403})
    with pytest.raises(UnknownSchema) as caught:
        SchemaRegistry(f"http://agent:{PASSWORD}@{server.address}").schema_by_id(7)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_credentials_are_in_no_error_about_a_registry_that_is_away(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(RegistryUnavailable) as caught:
        SchemaRegistry(f"http://agent:{PASSWORD}@127.0.0.1:1").schema_by_id(7)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8081", "ftp://host", "http://", "http://[::1", "http://user:hunter2@host:port", "http://h:0"],
)
def test_a_url_that_cannot_be_used_is_refused_in_a_sentence_without_its_secrets(url):
    with pytest.raises(SettingError, match=r"^SCHEMA_REGISTRY_URL must be http://host") as caught:
        SchemaRegistry(url)
    assert "hunter2" not in str(caught.value)


def test_a_decoder_reads_records_whose_schema_only_the_registry_knows(server):
    server.answer(200, {"schema": schema_text()})
    event = HypervisorEvent(session_id="s")
    decoder = EventDecoder(SchemaRegistry(server.url).schema_by_id)
    for _ in range(3):
        assert decoder.decode(encode_event(event, confluent_framing(7))) == event
    assert len(server.requests) == 1
