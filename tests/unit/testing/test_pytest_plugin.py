"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import hypervisor_telemetry.testing

ROOT = Path(__file__).parents[3]
PLUGIN = "hypervisor_telemetry.testing.pytest_plugin"


def run_pytest(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run a test file with the plugin. It is named here: an editable install may be older than its entry point."""
    (folder / "test_agent.py").write_text(test)
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", PLUGIN, "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, str(folder)], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def test_a_test_gets_a_pipeline_of_its_own(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        """
from hypervisor_telemetry import EventType, HypervisorEvent

def one_event(telemetry):
    telemetry.bus.emit(HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id="s"))
    assert telemetry.events.event_count == 1

def test_first(telemetry):
    one_event(telemetry)

def test_second(telemetry):
    one_event(telemetry)
""",
    )

    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_a_project_that_does_not_use_it_pays_nothing(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        """
import sys

def test_nothing_is_loaded():
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & {"confluent_kafka", "fastavro", "msgspec", "numpy", "prometheus_client", "sqlalchemy"}
    assert not loaded & {"hypervisor_consumers", "hypervisor_producers"}
""",
    )

    assert done.returncode == 0, done.stdout


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        """
import sys
sys.modules["sqlalchemy"] = None

def test_it(telemetry):
    pass
""",
    )

    assert done.returncode == 1
    assert (
        "ImportError: hypervisor_telemetry.testing needs sqlalchemy; install it with: "
        "pip install 'hypervisor-telemetry[testing]'"
    ) in done.stdout


def test_the_package_declares_the_plugin_and_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert project["entry-points"]["pytest11"] == {"hypervisor_telemetry": PLUGIN}
    assert hasattr(import_module(PLUGIN), "telemetry")
    assert project["optional-dependencies"]["testing"] == ["hypervisor-telemetry[services]"]


def test_exactly_the_public_names_are_exported_and_documented() -> None:
    names = hypervisor_telemetry.testing.__all__
    assert names == ["Clock", "IndexedEvents", "MetricSample", "Pipeline"]
    for name in names:
        assert getattr(hypervisor_telemetry.testing, name).__doc__, name


def test_importing_the_front_door_does_not_load_it() -> None:
    program = "import sys, hypervisor_telemetry; print('hypervisor_telemetry.testing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
