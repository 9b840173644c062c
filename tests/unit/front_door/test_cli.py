"""The command: what --help says, and how it speaks of settings that are missing or wrong."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from hypervisor_telemetry.cli.app import app
from tests.support.service_processes import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

SERVICES = ("ring-metrics", "saga-spans", "event-index", "governance-metrics")
KAFKA = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}


def commands(command: object = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    command = command or typer.main.get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environ)


def error_of(result: Result | subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error, after `error: `."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize(("path", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in commands()])
def test_help_names_and_explains_every_command_argument_and_option(path: tuple[str, ...], command: object):
    result = run(*path, "--help")

    assert result.exit_code == 0
    assert command.help
    for name, child in getattr(command, "commands", {}).items():
        assert name in result.output
        assert child.help
    for parameter in command.params:
        assert (
            parameter.opts[0] if parameter.param_type_name == "option" else parameter.name.upper()
        ) in result.output
        assert parameter.help, f"{parameter.name} has no help"


@pytest.mark.parametrize(
    "arguments",
    [
        ("ring-metrics", "--port", "0"),
        ("saga-spans", "--port", "0", "--sink", "null"),
        ("publish", "-"),
        ("topics", "apply"),
        ("topics", "check"),
    ],
    ids=" ".join,
)
def test_without_an_address_of_kafka_one_sentence_names_the_setting(arguments: tuple[str, ...]):
    result = run(*arguments)

    assert result.exit_code == 2
    assert error_of(result).startswith("KAFKA_BOOTSTRAP_SERVERS is not set; ")


def test_event_index_asks_for_the_address_too(tmp_path: Path):
    result = run("event-index", "--port", "0", "--database", f"sqlite:///{tmp_path}/events.db")

    assert result.exit_code == 2
    assert error_of(result).startswith("KAFKA_BOOTSTRAP_SERVERS is not set; ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TELEMETRY_COMMIT_INTERVAL", "often"),
        ("TELEMETRY_COMMIT_INTERVAL", "0"),
        ("TELEMETRY_TOPIC_PREFIX", "a prefix"),
        ("TELEMETRY_LOG_LEVEL", "loud"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named_with_its_value(name: str, value: str):
    result = run("ring-metrics", "--port", "0", **KAFKA, **{name: value})

    assert result.exit_code == 2
    assert error_of(result).startswith(f"{name} can't be {value!r}: it must be ")


def test_a_registry_that_is_no_address_is_named():
    result = run("ring-metrics", "--port", "0", **KAFKA, SCHEMA_REGISTRY_URL="registry:8081")

    assert result.exit_code == 2
    assert error_of(result).startswith("SCHEMA_REGISTRY_URL must be http://host")


@pytest.mark.parametrize(
    ("sink", "sentence"),
    [
        ("bogus", "--sink can't be 'bogus'; give one of: otlp[:URL], "),
        ("jsonl:", "--sink can't be 'jsonl:'; give one of: otlp[:URL], "),
        ("otlp:x", "--sink otlp:URL must be http://host"),
        ("jsonl:/nowhere/spans", "--sink can't write to /nowhere/spans: No such file or directory."),
        ("jsonl:/dev/full", "--sink can't write to /dev/full: it is no regular file."),
    ],
)
def test_a_sink_that_cannot_be_used_is_one_sentence(sink: str, sentence: str):
    result = run("saga-spans", "--port", "0", "--sink", sink, **KAFKA)

    assert result.exit_code == 2
    assert error_of(result).startswith(sentence)


def test_sinks_may_be_several_and_may_come_from_the_environment():
    several = run("saga-spans", "--port", "0", "--sink", "null", "--sink", "bogus", **KAFKA)
    setting = run("saga-spans", "--port", "0", **KAFKA, TELEMETRY_SPAN_SINKS="null,bogus")

    assert several.exit_code == setting.exit_code == 2
    assert error_of(several).startswith("--sink can't be 'bogus'; ")
    assert error_of(setting).startswith("TELEMETRY_SPAN_SINKS can't be 'bogus'; ")


def test_event_index_says_which_setting_names_its_database():
    missing, wrong = run("event-index", **KAFKA), run("event-index", "--database", "nonsense", **KAFKA)

    assert missing.exit_code == wrong.exit_code == 2
    assert error_of(missing).startswith("TELEMETRY_DATABASE_URL is not set; ")
    assert error_of(wrong).startswith("TELEMETRY_DATABASE_URL is not a database URL; ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_event_index_refuses_to_serve_others_without_a_token(host: str, tmp_path: Path):
    database = f"sqlite:///{tmp_path}/events.db"

    result = run("event-index", "--host", host, "--port", "0", "--database", database, **KAFKA)

    assert result.exit_code == 2
    assert error_of(result).startswith(f"TELEMETRY_API_TOKEN must be set to serve on {host}; ")


@pytest.mark.parametrize("what", ["missing", "a folder"])
def test_a_file_to_publish_that_cannot_be_read_is_one_sentence(what: str, tmp_path: Path):
    file = tmp_path if what == "a folder" else tmp_path / "none"

    result = run("publish", str(file), **KAFKA)

    assert result.exit_code == 2
    reason = "Is a directory" if what == "a folder" else "No such file or directory"
    assert error_of(result) == f"FILE {file} can't be read: {reason}."


def test_a_port_that_is_taken_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        done = run_command("ring-metrics", "--port", port, **KAFKA)

    assert done.returncode == 2
    assert done.stdout == ""
    assert error_of(done).startswith(f"--port {port} on 127.0.0.1 can't be used (")


def test_kafka_settings_that_do_not_go_together_are_one_sentence():
    done = run_command("ring-metrics", "--port", "0", **KAFKA, KAFKA_SECURITY_PROTOCOL="SASL_SSL")

    assert done.returncode == 2
    assert error_of(done).startswith("KAFKA_* settings don't go together: ")
