"""The chart's tests need helm and its like, built once: minutes on a new machine."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents and item.path.name.startswith("test_chart"):
            item.add_marker(pytest.mark.full)
            item.add_marker(pytest.mark.timeout(900))
