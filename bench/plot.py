"""Draw one curve: JSON on standard input, the SVG file as argument. Runs where matplotlib is."""

from __future__ import annotations

import json
import sys

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "the same file for the same figures"

from matplotlib import pyplot as plt  # noqa: E402 - the backend is chosen before


def draw(curve: dict[str, object], target: str) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, points in curve["lines"].items():  # type: ignore[attr-defined]
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set(title=curve["title"], xlabel=curve["x"], ylabel=curve["y"], ylim=(0, None))
    xs = [x for points in curve["lines"].values() for x, _ in points]  # type: ignore[attr-defined]
    if max(xs) > 20 * min(xs) > 0:
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.load(sys.stdin), sys.argv[1])
