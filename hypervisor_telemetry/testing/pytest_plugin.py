"""The pytest plugin: the fixture `telemetry`. It loads nothing before a test asks for the fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypervisor_telemetry.testing import Pipeline


@pytest.fixture
def telemetry() -> Iterator[Pipeline]:
    """A telemetry pipeline of this test's own, in this process and without Kafka."""
    from hypervisor_telemetry.testing import Pipeline  # noqa: PLC0415 - only where a test uses it

    with Pipeline() as pipeline:
        yield pipeline
