"""The HTTP client: what bounds an answer, where a redirect may lead, and what no error shows."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.http_client import HttpClient, NoAnswer, retry_after_seconds

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("schemas", "producers", "consumers", "hypervisor_telemetry", "tools")
HTTP_MODULES = ("http.client", "urllib.request", "urllib.error", "urllib3", "requests", "httpx", "aiohttp")
HTTP_USERS = {
    "schemas/hypervisor_schemas/http_client.py",
    # It runs every few seconds in every container: urllib3 would double what it costs to import.
    "hypervisor_telemetry/healthcheck.py",
}

SECRET = "hunter2"  # noqa: S105 - nobody's


class Server:
    """Answers by path: status, headers, body."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.url = ""


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append((self.command, self.path, headers))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, body = server.answers.get(self.path, (200, {}, b"here"))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@pytest.fixture
def client() -> HttpClient:
    return HttpClient(timeout_seconds=5, headers={"Authorization": SECRET})


def redirect(location: str, status: int = 302) -> tuple[int, dict[str, str], bytes]:
    return status, {"Location": location}, b"elsewhere"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_unless_some_are_allowed(server: Server, client: HttpClient, status: int) -> None:
    server.answers["/a"] = redirect("/b", status)
    assert client.request("GET", f"{server.url}/a").status == status
    assert client.request("GET", f"{server.url}/a", redirects=1).body == b"here"
    assert client.request("POST", f"{server.url}/a", body=b"x", redirects=1).status == status
    assert [path for _, path, _ in server.requests] == ["/a", "/a", "/b", "/a"]


def test_only_a_few_redirects_are_followed(server: Server, client: HttpClient) -> None:
    server.answers["/a"] = redirect("/a")
    assert client.request("GET", f"{server.url}/a", redirects=3).status == 302
    assert len(server.requests) == 4


def test_a_redirect_to_another_origin_is_not_followed_and_takes_no_secret_along(
    server: Server, client: HttpClient
) -> None:
    with serving() as stranger:
        port = server.url.rpartition(":")[2]
        places = [
            stranger.url,
            server.url.replace("http:", "https:"),
            f"//localhost:{port}/",
            f"http://me@127.0.0.1:{port}/b",
            "http://[",
            "http://host:x/",
            "file:///etc/passwd",
        ]
        for place in places:
            server.answers["/a"] = redirect(place)
            assert client.request("GET", f"{server.url}/a", redirects=3).status == 302, place
        assert stranger.requests == []
    assert len(server.requests) == len(places)


def test_an_answer_that_is_too_large_is_an_error_or_cut(server: Server, client: HttpClient) -> None:
    server.answers["/"] = (200, {}, b"x" * 1000)
    assert len(client.request("GET", f"{server.url}/", max_bytes=1000).body) == 1000
    assert len(client.request("GET", f"{server.url}/", max_bytes=999, cut=True).body) == 999
    with pytest.raises(NoAnswer, match="larger than 999 bytes"):
        client.request("GET", f"{server.url}/", max_bytes=999)


def test_an_answer_that_breaks_off_is_none(server: Server, client: HttpClient) -> None:
    server.answers["/"] = (200, {"Content-Length": "99"}, b"x")
    with pytest.raises(NoAnswer):
        client.request("GET", f"{server.url}/")


@pytest.mark.parametrize("url", ["http://a..b/?key=hunter2", "http://127.0.0.1:99999/?key=hunter2", "hunter2://x"])
def test_an_address_that_cannot_be_used_is_not_shown(client: HttpClient, url: str) -> None:
    with pytest.raises(NoAnswer) as caught:
        client.request("GET", url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [f"{SECRET}\r\nX: y", f"{SECRET}日本"])
def test_a_header_that_cannot_be_sent_is_not_shown(server: Server, value: str) -> None:
    with pytest.raises(NoAnswer, match="a character that HTTP doesn't allow") as caught:
        HttpClient(timeout_seconds=5, headers={"Authorization": value}).request("GET", server.url)
    assert SECRET not in str(caught.value)
    assert server.requests == []


def test_a_proxy_gets_its_password_decoded_and_no_error_shows_it(
    server: Server, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", server.url.replace("://", "://me:p%40w@"))
    client.request("GET", "http://host.invalid/a")
    _, path, headers = server.requests[0]
    assert (path, headers["proxy-authorization"]) == ("http://host.invalid/a", "Basic bWU6cEB3")

    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@:0x")
    with pytest.raises(SettingError, match=r"^http_proxy names no proxy") as refused:
        client.prepare("http://host.invalid/a")
    with pytest.raises(NoAnswer, match=r"^http_proxy names no proxy") as unanswered:
        client.request("GET", "http://host.invalid/a")
    assert SECRET not in f"{refused.value}{unanswered.value}"


def test_without_keep_alive_every_request_has_a_connection_of_its_own(server: Server, client: HttpClient) -> None:
    client.request("GET", server.url)
    assert server.requests[0][2]["connection"] == "close"


def test_a_stream_gives_lines_as_they_come_and_none_without_an_end(server: Server, client: HttpClient) -> None:
    server.answers["/"] = (200, {"Content-Type": "Text/Plain"}, b"a\r\nb\n\nrest")
    with client.stream(f"{server.url}/", {}, silence_seconds=5) as stream:
        assert (stream.status, stream.headers["content-type"]) == (200, "Text/Plain")
        assert list(stream.lines()) == [b"a\r", b"b", b""]


def test_an_answer_in_drops_ends_at_the_deadline() -> None:
    done = threading.Event()

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not done.wait(0.02):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="takes too long"):
            HttpClient(timeout_seconds=0.2).request("GET", f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert time.monotonic() - began < 5
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("-1", None),
        ("99999999", 3600.0),
        (format_datetime(datetime.fromtimestamp(1030, UTC), usegmt=True), 30.0),
        (format_datetime(datetime.fromtimestamp(900, UTC), usegmt=True), 0.0),
        ("", None),
        (None, None),
        ("9" * 400, 3600.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert retry_after_seconds(text) == seconds


def test_nothing_is_imported_before_the_first_request() -> None:
    code = "import sys, hypervisor_schemas.wire.registry_http; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"urllib3", "http.client", "urllib.request", "ssl"} & set(done.stdout.split())


def test_nobody_else_opens_connections_of_http() -> None:
    users = set()
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                if any(
                    name == banned or name.startswith(f"{banned}.") for name in names for banned in HTTP_MODULES
                ):
                    users.add(path.relative_to(ROOT).as_posix())
    assert users == HTTP_USERS
