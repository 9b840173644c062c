"""Under CI a test that is skipped is a failure: a tool is missing that `.ci/run` has to install.

Only a Docker engine may be missing; not every machine can run one.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

ALLOWED = "no Docker engine"


class SkipsAreFailures:
    def __init__(self) -> None:
        self.refused: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            if ALLOWED not in reason:
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
