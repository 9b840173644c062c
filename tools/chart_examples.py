"""The rendered charts in helm/hypervisor-telemetry/examples, from ci/*-values.yaml. `make chart` writes them."""

from __future__ import annotations

from tests.deploy.chart import CHART, text

EXAMPLES = ("minimal", "full", "hpa")


def example(name: str) -> str:
    """Render one example, with a comment on its origin."""
    return f"# Made by `make chart` from ci/{name}-values.yaml.\n{text(name)}"


if __name__ == "__main__":
    for each in EXAMPLES:
        path = CHART / "examples" / f"{each}.yaml"
        path.write_text(example(each), "utf-8")
        print(path.relative_to(CHART.parents[1]))  # noqa: T201
