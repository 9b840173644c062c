"""The results of `schemas check` and `schemas register` by a registry's answers; the real one: tests/contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from hypervisor_schemas.wire.codec import SUBJECT, schema_text
from hypervisor_telemetry.cli.app import app
from hypervisor_telemetry.schema_tools.registration import LEVEL, differences
from tests.support.schema_registry import free_port

PASSWORD = "hunter2"  # noqa: S105 - nobody's
UNKNOWN = (404, {"error_code": 40401, "message": "not found"})
SUBJECT_PATH = f"/subjects/{SUBJECT}"
OLD = json.loads(schema_text())


class Confluent(ThreadingHTTPServer):
    """Answers by method and path, as it is told; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []

    def run(self, *command: str, **environ: str) -> tuple[int, list[str]]:
        url = f"http://agent:{PASSWORD}@127.0.0.1:{self.server_address[1]}"
        result = CliRunner().invoke(app, ["schemas", *command], env={"SCHEMA_REGISTRY_URL": url, **environ})
        assert PASSWORD not in result.output
        return result.exit_code, result.output.splitlines()

    def writes(self) -> list[tuple[str, str]]:
        return [
            (method, path)
            for method, path, _ in self.asked
            if method == "PUT" or path == f"{SUBJECT_PATH}/versions"
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Confluent

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        method, path = self.command, self.path.partition("?")[0]
        self.server.asked.append((method, path, json.loads(body) if body else None))
        status, answer = self.server.answers.get((method, path), UNKNOWN)
        if (method, path, status) == ("POST", f"{SUBJECT_PATH}/versions", 200):
            self.server.answers["POST", SUBJECT_PATH] = (200, {"id": 7, "version": 2})
        if (method, status) == ("PUT", 200):
            self.server.answers["GET", f"/config/{SUBJECT}"] = (200, {"compatibilityLevel": LEVEL})
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Confluent]:
    monkeypatch.setenv("no_proxy", "*")
    with Confluent() as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        server.answers["GET", "/config"] = (200, {"compatibilityLevel": "BACKWARD"})
        server.answers["PUT", f"/config/{SUBJECT}"] = (200, {"compatibility": LEVEL})
        server.answers["POST", f"{SUBJECT_PATH}/versions"] = (200, {"id": 7})
        yield server
        server.shutdown()
        thread.join()


def holds(registry: Confluent, schema: dict[str, Any], **judgement: Any) -> None:
    """The registry has another version, and judges ours."""
    registry.answers["GET", f"{SUBJECT_PATH}/versions/latest"] = (200, {"version": 3, "schema": json.dumps(schema)})
    registry.answers["POST", f"/compatibility{SUBJECT_PATH}/versions"] = (200, judgement)


def without(name: str) -> dict[str, Any]:
    return {**OLD, "fields": [field for field in OLD["fields"] if field["name"] != name]}


def test_a_schema_that_is_not_registered_is_missing_and_check_changes_nothing(registry):
    status, [line] = registry.run("check")

    assert status == 1
    assert line.split()[:2] == ["missing", SUBJECT]
    assert "`hypervisor-telemetry schemas register`" in line
    assert all(method == "GET" or path == SUBJECT_PATH for method, path, _ in registry.asked)


def test_register_sets_the_level_first_and_then_registers_this_very_text(registry):
    status, lines = registry.run("register")

    assert status == 0
    assert lines[0].endswith("registered now: id 7, version 2")
    assert lines[1].endswith(f"newer versions are checked by {LEVEL}")
    assert registry.writes() == [
        ("GET", f"{SUBJECT_PATH}/versions"),
        ("PUT", f"/config/{SUBJECT}"),
        ("POST", f"{SUBJECT_PATH}/versions"),
    ]
    assert ("POST", f"{SUBJECT_PATH}/versions", {"schema": schema_text()}) in registry.asked


def test_register_again_writes_nothing(registry):
    registry.run("register")
    registry.asked.clear()
    first = registry.run("register")

    assert first == registry.run("check")
    assert first[0] == 0
    assert first[1][0].startswith("ok ")
    assert {method for method, _ in registry.writes()} == {"GET"}


@pytest.mark.parametrize("status", [403, 404, 405, 422, 500])
def test_a_level_that_the_registry_does_not_let_be_set_is_a_warning(registry, status):
    registry.answers["PUT", f"/config/{SUBJECT}"] = (status, {"message": "no"})

    done, lines = registry.run("register")

    assert done == 0
    assert lines[0].split()[0] == "created"
    assert lines[1].split()[0] == "warning"
    assert lines[1].endswith("newer versions are checked by BACKWARD, not by FULL_TRANSITIVE")


def test_what_the_registry_refuses_is_said_in_its_words_on_one_line(registry):
    reason = "Schema being registered is\nincompatible: \x1b[31mREADER_FIELD_MISSING_DEFAULT_VALUE."
    registry.answers["POST", f"{SUBJECT_PATH}/versions"] = (409, {"error_code": 409, "message": reason})

    status, [line] = registry.run("register")

    assert status == 1
    assert line.startswith("refused ")
    assert "is incompatible: [31mREADER_FIELD_MISSING_DEFAULT_VALUE" in line


def test_check_says_what_would_change(registry):
    holds(registry, without("parent_event_id"), is_compatible=True)
    status, lines = registry.run("check")
    assert status == 1
    assert lines[0].split()[0] == "different"
    assert 'It changes version 3: with parent_event_id, ["null", "string"] with default null.' in lines[0]

    holds(registry, {**OLD, "doc": "Other words."}, is_compatible=True)
    assert "It changes version 3: documentation only." in registry.run("check")[1][0]


def test_check_says_why_it_would_be_refused(registry):
    holds(registry, without("event_type"), is_compatible=False, messages=["{errorType:'X',\n description:'Y'}"])
    status, lines = registry.run("check")

    assert status == 1
    assert lines[0].split()[0] == "refused"
    assert 'with event_type, "string" without a default. The registry says: ' in lines[0]
    assert lines[0].endswith("{errorType:'X', description:'Y'}")


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
@pytest.mark.parametrize("command", ["check", "register"])
def test_a_registry_in_trouble_is_one_sentence(registry, command, status):
    registry.answers["GET", f"{SUBJECT_PATH}/versions"] = (status, {"message": "not today"})
    done, [line] = registry.run(command)

    assert done == 1
    assert line.startswith("error: The schema registry at http://127.0.0.1:")
    assert line.endswith(f"answered {status}.")


def test_an_address_that_is_no_registry_is_one_sentence(registry):
    registry.answers["POST", SUBJECT_PATH] = (404, {})
    done, [line] = registry.run("check")

    assert done == 1
    assert "no schema registry answers (404); check SCHEMA_REGISTRY_URL" in line


@pytest.mark.parametrize("body", [[], {"version": 1}, {"id": "x", "version": 1}])
def test_an_answer_of_another_form_is_one_sentence(registry, body):
    registry.answers["POST", SUBJECT_PATH] = (200, body)
    done, [line] = registry.run("check")

    assert done == 1
    assert line.endswith("gave an answer of another form.")


def test_a_registry_that_comes_later_is_waited_for_and_one_that_does_not_is_a_sentence(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    url = f"http://agent:{PASSWORD}@127.0.0.1:{free_port()}"
    result = CliRunner().invoke(app, ["schemas", "check", "--wait", "0.6"], env={"SCHEMA_REGISTRY_URL": url})

    assert result.exit_code == 1
    assert "can't be reached" in result.stderr
    assert PASSWORD not in result.output


@pytest.mark.parametrize("command", ["check", "register"])
def test_without_an_address_the_setting_is_named(command):
    result = CliRunner().invoke(app, ["schemas", command], env={"SCHEMA_REGISTRY_URL": ""})

    assert result.exit_code == 2
    assert result.stderr.startswith("error: SCHEMA_REGISTRY_URL is not set; ")


def test_differences_are_told_field_by_field():
    new = {**without("payload"), "name": "Other"}
    new["fields"] = [{**field, "type": "long"} if field["name"] == "event_id" else field for field in new["fields"]]

    assert differences(OLD, OLD) == []
    assert differences(OLD, new) == [
        "hypervisor.telemetry.HypervisorEvent becomes hypervisor.telemetry.Other",
        "without payload",
        'event_id, "string" without a default, becomes "long" without a default',
    ]
