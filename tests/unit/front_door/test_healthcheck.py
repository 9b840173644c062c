"""The health check of containers: against the services' own HTTP side, a port that nobody has, one that is mute."""

import socket
import subprocess
import sys

import pytest

from hypervisor_consumers.event_index.service import DEFAULT_PORT as EVENT_INDEX
from hypervisor_consumers.governance_metrics.service import DEFAULT_PORT as GOVERNANCE_METRICS
from hypervisor_consumers.ring_metrics.service import DEFAULT_PORT as RING_METRICS
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.http import HttpServer, make_app
from hypervisor_consumers.saga_spans.service import DEFAULT_PORT as SAGA_SPANS
from hypervisor_telemetry.healthcheck import PORTS, main


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    return Health(clock=clock)


@pytest.fixture
def port(health):
    server = HttpServer(make_app("some-service", health, list), "127.0.0.1", 0)
    yield int(server.url.rpartition(":")[2])
    server.close()


@pytest.fixture
def mute():
    """A port where connections are taken and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def nobody():
    """A port that is bound, so that nobody gets it, and refuses."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_it_knows_the_ports_of_all_services():
    assert set(PORTS) == {RING_METRICS, SAGA_SPANS, EVENT_INDEX, GOVERNANCE_METRICS}


def test_a_loop_that_turns_is_well_and_one_that_stands_is_not(port, health, clock, capsys):
    health.turned()
    assert main(["--port", str(port)]) == 0
    assert capsys.readouterr().out == f"/healthz on port {port}: 200 ok\n"

    clock.now += 31
    assert main(["--port", str(port)]) == 1
    assert "503 stalled" in capsys.readouterr().out


def test_ready_is_another_question(port, health):
    health.turned()

    assert main(["--port", str(port)]) == 0
    assert main(["--port", str(port), "--ready"]) == 1
    health.became_ready()
    assert main(["--port", str(port), "--ready"]) == 0


def test_of_several_ports_that_count_where_somebody_listens(port, nobody, mute, health, capsys):
    health.turned()

    assert main(["--port", str(nobody), "--port", str(port)]) == 0
    assert main(["--port", str(nobody)]) == 1
    assert "no service answers on 127.0.0.1" in capsys.readouterr().out
    assert main(["--port", str(port), "--port", str(mute), "--timeout", "0.2"]) == 1
    assert f"port {mute}: no answer (timed out)" in capsys.readouterr().out


def test_it_imports_nothing_heavy():
    """It runs every few seconds in every container."""
    code = "import sys, hypervisor_telemetry.healthcheck; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {"typer", "fastapi", "sqlalchemy", "numpy", "grpc"} & set(done.stdout.split()) == set()
