"""Receivers of spans on loopback that answer as a test tells them to, and keep what they got."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    import ssl

PROTOBUF = "application/x-protobuf"
METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass
class Request:
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: object

    @property
    def names(self) -> list[str]:
        """The names of its spans, read as OTLP."""
        return span_names(
            gzip.decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body
        )


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def span_names(body: bytes) -> list[str]:
    request = ExportTraceServiceRequest.FromString(body)
    return [span.name for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]


def partial_success(rejected: int, message: str = "") -> bytes:
    return ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    ).SerializeToString()


class HttpReceiver:
    """Answers with what `answer` returns; by default takes everything, as OTLP does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Reply] = lambda _: Reply(headers={"Content-Type": PROTOBUF})

    @property
    def taken(self) -> list[list[str]]:
        return [request.names for request in self.requests]


@contextmanager
def http_receiver(context: ssl.SSLContext | None = None) -> Iterator[HttpReceiver]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): ", ".join(self.headers.get_all(name)) for name in self.headers}
            request = Request(self.path, headers, body, self.connection)
            receiver.requests.append(request)
            reply = receiver.answer(request)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that goes away, or that isn't trusted, is a part of the tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "http" if context is None else "https"
        receiver = HttpReceiver(f"{scheme}://localhost:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


class GrpcReceiver:
    """Answers with what `answer` returns, given names of spans and the call; it may abort the call."""

    def __init__(self) -> None:
        self.target = ""
        self.calls: list[tuple[list[str], dict[str, str | bytes]]] = []
        self.answer: Callable[[list[str], grpc.ServicerContext], bytes] = lambda _names, _call: b""

    @property
    def taken(self) -> list[list[str]]:
        return [names for names, _ in self.calls]

    def export(self, body: bytes, call: grpc.ServicerContext) -> bytes:
        names = span_names(body)
        self.calls.append((names, dict(call.invocation_metadata())))
        return self.answer(names, call)


@contextmanager
def grpc_receiver(
    credentials: grpc.ServerCredentials | None = None, options: tuple[tuple[str, int], ...] = ()
) -> Iterator[GrpcReceiver]:
    receiver = GrpcReceiver()
    handler = grpc.unary_unary_rpc_method_handler(receiver.export)
    service, _, method = METHOD[1:].partition("/")
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(
            pool, [grpc.method_handlers_generic_handler(service, {method: handler})], options=options
        )
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("localhost:0", credentials)
        receiver.target = f"localhost:{port}"
        server.start()
        try:
            yield receiver
        finally:
            server.stop(None).wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
