"""The option for the file in which a run leaves the values of the panels."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--panels", metavar="FILE", help="write what the panels show of the run to this JSON file")
