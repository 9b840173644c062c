"""`python -m tools.dashboards` writes `observability/grafana/dashboards/*.json`."""

from pathlib import Path

from tools.dashboards.dashboard_files import FILES, text

FOLDER = Path(__file__).parents[2] / "observability" / "grafana" / "dashboards"

if __name__ == "__main__":
    for name in FILES:
        (FOLDER / name).write_text(text(name), "utf-8")
        print((FOLDER / name).relative_to(Path.cwd()))  # noqa: T201
