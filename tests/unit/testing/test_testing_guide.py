"""Every Python block of the guide for testing, run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

GUIDE = (Path(__file__).parents[3] / "docs" / "testing.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def test_every_block_is_of_a_kind_that_is_run_or_known() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
    assert [text for language, text in BLOCKS if language == "sh"] == [
        "pip install 'hypervisor-telemetry[testing]'\n"
    ]


def test_the_tests_of_the_guide_pass(tmp_path: Path) -> None:
    tests = 0
    for number, text in enumerate(text for language, text in BLOCKS if language == "python"):
        (tmp_path / f"test_block_{number}.py").write_text(text)
        tests += len(re.findall(r"^def test_", text, re.MULTILINE))

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "hypervisor_telemetry.testing.pytest_plugin"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert f"{tests} passed" in done.stdout
