"""Draw what panels showed: the JSON file and the SVG file as arguments. Runs where matplotlib is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "the same file for the same figures"
mpl.rcParams["font.size"] = 8

from matplotlib import pyplot as plt  # noqa: E402 - the backend is chosen before

RINGS = ("root", "1", "2", "3, sandbox")


def _lines(axes: Any, panel: dict[str, Any]) -> None:
    for result in sorted(panel["results"], key=lambda one: -max((y for _, y in one["points"]), default=0)):
        if any(value for _, value in result["points"]) or len(panel["results"]) == 1:
            axes.plot([x for x, _ in result["points"]], [y for _, y in result["points"]], label=result["name"])
    axes.set(xlabel="seconds of the run", ylabel=panel["unit"], ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)


def _last(panel: dict[str, Any]) -> dict[str, float]:
    return {result["name"]: result["points"][-1][1] for result in panel["results"] if result["points"]}


def _bars(axes: Any, panel: dict[str, Any]) -> None:
    values = dict(sorted(_last(panel).items(), reverse=True))
    bars = axes.barh(list(values), list(values.values()))
    axes.bar_label(bars, fmt="%g", padding=3)
    axes.set(xlabel=panel["unit"], xlim=(0, 1.2 * max(values.values())))
    if panel["title"] == "Current Ring Levels":
        axes.set(xlim=(0, 3.2))
        axes.set_xticks(range(4), RINGS)


def _buckets(axes: Any, panel: dict[str, Any]) -> None:
    """Buckets hold all below them; drawn is what each has for itself."""
    values = sorted(_last(panel).items(), key=lambda item: float(item[0]))
    before = [0.0, *(value for _, value in values)]
    axes.bar([name for name, _ in values], [value - less for (_, value), less in zip(values, before, strict=False)])
    axes.set(xlabel="seconds, up to", ylabel=panel["unit"])
    axes.tick_params(axis="x", labelrotation=45)


def _pie(axes: Any, panel: dict[str, Any]) -> None:
    values = _last(panel)
    axes.pie(list(values.values()), labels=[f"{name} {value:.0f}" for name, value in values.items()])


FORMS = {
    "Current Ring Levels": _bars,
    "Trust Scores": _bars,
    "Elevation Duration": _buckets,
    "Policy Decisions": _pie,
}


def draw(panels: list[dict[str, Any]], target: Path) -> None:
    figure, grid = plt.subplots(3, 3, figsize=(12, 8), layout="constrained")
    for axes, panel in zip(grid.flat, panels, strict=True):
        FORMS.get(panel["title"], _lines)(axes, panel)
        axes.set_title(panel["title"])
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]))
