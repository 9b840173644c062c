"""Under CI a test that is skipped is a failure: a tool is missing that `.ci/run` has to install.

A Docker engine may be missing, as not every machine can run one, and the history of a clone that has none.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

ALLOWED = ("no Docker engine", "no such commit in this clone")


class SkipsAreFailures:
    def __init__(self) -> None:
        self.refused: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            if not any(allowed in reason for allowed in ALLOWED):
                self.refused.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.refused:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in self.refused:
            terminalreporter.write_line(f"skipped under CI, which counts as failed: {line}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(SkipsAreFailures())
