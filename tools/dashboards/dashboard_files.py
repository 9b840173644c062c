"""The dashboards as the JSON that is committed. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from types import MappingProxyType

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import RowPanel

from tools.dashboards.agents_dashboard import agents_dashboard
from tools.dashboards.pipeline_dashboard import pipeline_dashboard

__all__ = ["FILES", "text"]

FILES: Mapping[str, Callable[[], Dashboard]] = MappingProxyType(
    {"agent-observability.json": agents_dashboard, "telemetry-pipeline.json": pipeline_dashboard}
)
"""The files of `dashboards/`, each with the function that makes its dashboard."""


def text(name: str) -> str:
    """Return the content of the file `name` of `FILES`."""
    made = FILES[name]().build()
    ids = count(1)
    for panel in made.panels or []:
        panel.id_val = next(ids)
        for inner in panel.panels if isinstance(panel, RowPanel) else []:
            inner.id_val = next(ids)
    return json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
