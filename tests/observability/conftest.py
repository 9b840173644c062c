"""Where the run leaves what the panels have shown."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--panels", metavar="FILE", help="write what the panels show of the run to this JSON file")
