"""The figures as a table in the terminal, as JSON, and in docs/performance.md with its plots.

    python -m bench.report

writes what docs/performance.md holds between its two marks, and the plots, anew from bench/results/*.json. The
plots are drawn by matplotlib in the virtual environment of the peers.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bench.cases import CASES
from bench.peers.running import PYTHON
from bench.row import Curve, Row, outcome
from hypervisor_telemetry.local.jars import KAFKA_VERSION

__all__ = ["machine", "page", "save", "table"]

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- Made by `python -m bench.report`. -->\n", "<!-- Until here. -->\n"
HEAD = ("what", "ours", "beside", "theirs", "figure", "floor", "goal", "reaches")


def machine(full: bool) -> dict[str, str]:
    """Describe the machine and the versions of a run."""
    names = ("confluent-kafka", "fastavro", "numpy")
    return {
        "run": "make bench-full" if full else "make bench",
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "Kafka": KAFKA_VERSION,
        **{name: version(name) for name in names},
    }


def save(case: str, found: Sequence[Row | Curve], on: dict[str, str]) -> None:
    content = {
        "machine": on,
        "rows": [one.to_dict() for one in found if isinstance(one, Row)],
        "curves": [one.to_dict() for one in found if isinstance(one, Curve)],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{case}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def table(rows: Iterable[Row]) -> Table:
    made = Table(box=box.SIMPLE)
    for name in HEAD:
        made.add_column(name, justify="left" if name in {"what", "beside", "reaches"} else "right")
    for row in rows:
        made.add_row(*cells(row))
    return made


def cells(row: Row) -> tuple[str, ...]:
    def aim(value: float | None) -> str:
        if value is None:
            return ""
        return f"{_number(value)} x" if row.theirs else f"{_number(value)} {row.unit}"

    return (
        row.what,
        _figure(row.ours, row.unit),
        row.beside,
        _figure(row.theirs, row.unit) if row.theirs else "",
        f"{_number(row.figure)} x" if row.theirs else "",
        aim(row.floor),
        aim(row.goal),
        outcome(row),
    )


def _figure(rounds: Sequence[float], unit: str) -> str:
    return f"{_number(statistics.median(rounds))} {unit}"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def page(results: Path = RESULTS) -> str:
    """Return the text between the marks of docs/performance.md."""
    parts = []
    for case, about in CASES.items():
        file = results / f"{case}.json"
        if not file.exists():
            continue
        content = json.loads(file.read_text("utf-8"))
        rows = [Row(**row) for row in content["rows"]]
        parts.append(f"### {about[0].upper()}{about[1:]}\n\n")
        parts.append(f"`python -m bench{_option(content)} --only {case}`; " + _words(content["machine"]) + ".\n\n")
        parts.append(_markdown(HEAD, [cells(row) for row in rows]))
        notes = {row.note: row for row in reversed(rows) if row.note}  # each once, with the first that has it
        parts.extend(f"\n{row.what}{_beside(row)}: {note}\n" for note, row in reversed(notes.items()))
        parts.extend(f"\n![{curve['title']}](plots/{name})\n" for name, curve in plots(case, content["curves"]))
        parts.append("\n")
    return "".join(parts)


def plots(case: str, curves: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return the file of each curve."""
    return [(f"{case}-{number}.svg", curve) for number, curve in enumerate(curves, 1)]


def _option(content: dict[str, Any]) -> str:
    return " --full" if content["machine"]["run"] == "make bench-full" else ""


def _words(on: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in on.items() if name != "run")


def _beside(row: Row) -> str:
    return f" beside {row.beside}" if row.beside else ""


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main() -> None:
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n" + page() + END + after, "utf-8")
    print(PAGE.relative_to(ROOT))
    for file in sorted(RESULTS.glob("*.json")):
        for name, curve in plots(file.stem, json.loads(file.read_text("utf-8"))["curves"]):
            target = ROOT / "docs" / "plots" / name
            target.parent.mkdir(exist_ok=True)
            drawing = (str(PYTHON), str(ROOT / "bench" / "plot.py"), str(target))
            subprocess.run(drawing, input=json.dumps(curve), text=True, check=True)
            print(target.relative_to(ROOT))


if __name__ == "__main__":
    main()
