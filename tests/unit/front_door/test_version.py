"""The version stands in pyproject.toml alone; all else that says it asks the installed distribution."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hypervisor_telemetry
from hypervisor_schemas.version import DISTRIBUTION, our_version
from hypervisor_telemetry.cli.app import app

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = [ROOT / folder for folder in ("schemas", "producers", "consumers", "hypervisor_telemetry")]


def test_it_is_the_one_of_the_project():
    assert (DISTRIBUTION, our_version()) == (PROJECT["name"], PROJECT["version"])
    assert hypervisor_telemetry.__version__ == PROJECT["version"]


def test_the_command_prints_it():
    result = CliRunner().invoke(app, ["--version"])

    assert (result.exit_code, result.stdout) == (0, f"hypervisor-telemetry {PROJECT['version']}\n")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda folder: folder.name)
def test_no_module_has_it_written_down(package: Path):
    quoted = f'"{PROJECT["version"]}"'

    assert not [path for path in package.rglob("*.py") if quoted in path.read_text("utf-8")]
