"""A schema registry for tests: a few schemas by id, over HTTP, as Confluent's answers."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

from hypervisor_schemas.wire.codec import schema_text

if TYPE_CHECKING:
    from collections.abc import Iterator


class Registry(ThreadingHTTPServer):
    """Knows the event's schema under id 1, until `schemas` says otherwise. With `status` it answers only that."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.schemas: dict[int, str] = {1: schema_text()}
        self.status: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        schema_id = self.path.removeprefix("/schemas/ids/")
        schema = self.server.schemas.get(int(schema_id)) if schema_id.isdecimal() else None
        body = json.dumps({"error_code": 40403} if schema is None else {"schema": schema}).encode()
        self.send_response(self.server.status or (404 if schema is None else 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(registry: Registry | None = None) -> Iterator[Registry]:
    """Serve it until the end of the block."""
    registry = registry or Registry()
    thread = Thread(target=registry.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield registry
    finally:
        registry.shutdown()
        thread.join()
        registry.server_close()


def free_port() -> int:
    """For one that is not there yet."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
