"""helm/hypervisor-telemetry/examples: what comes out of some of ci/*-values.yaml. `make chart` writes them."""

from __future__ import annotations

from tests.deploy.chart import CHART, text

EXAMPLES = ("minimal", "full", "hpa")


def example(name: str) -> str:
    """One rendered example, with a word on where it comes from."""
    return f"# Made by `make chart` from ci/{name}-values.yaml.\n{text(name)}"


if __name__ == "__main__":
    for each in EXAMPLES:
        path = CHART / "examples" / f"{each}.yaml"
        path.write_text(example(each), "utf-8")
        print(path.relative_to(CHART.parents[1]))  # noqa: T201
