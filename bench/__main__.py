"""`make bench`: run the cases, show the table, keep the figures.

    python -m bench [--full] [--only CASE ...] [--list]

Nothing here passes or fails: figures of a loaded machine mean little, their ratios a little more. What can't run
here says why.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from bench.cases import CASES, case
from bench.report import machine, save, table
from bench.row import Curve, Row
from bench.setting import Setting


def main() -> None:
    options = _options()
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)  # for a file, or a log
    if options.list:
        for name, about in CASES.items():
            console.print(f"{name:16} {about}", highlight=False)
        return
    rows: list[Row] = []
    began = time.monotonic()
    with ExitStack() as ends, console.status("") as status:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="hypervisor-telemetry-bench-")))
        for name in options.only or CASES:
            say = _Saying(f"{name}: ", status.update, console)
            setting = Setting(options.full, folder, say, ends)
            found: list[Row | Curve] = []
            for one in case(name)(setting):
                found.append(one)
                if isinstance(one, Row):
                    rows.append(one)
            save(name, found, machine(options.full))
    console.print(table(rows))
    console.print(f"{time.monotonic() - began:.0f} s in all; the figures are in bench/results/.")
    console.print("Next: python -m bench.report writes docs/performance.md from them.")


class _Saying:
    """Print the progress: in place on a terminal, else line by line."""

    def __init__(self, prefix: str, update: Callable[[str], None], console: Console) -> None:
        self._prefix = prefix
        self._update = update
        self._console = console

    def __call__(self, sentence: str) -> None:
        if self._console.is_terminal:
            self._update(self._prefix + sentence)
        else:
            self._console.print(self._prefix + sentence, highlight=False, soft_wrap=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="more events, more rounds, larger sizes")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=list(CASES), help="these cases alone")
    parser.add_argument("--list", action="store_true", help="the cases, and nothing else")
    return parser.parse_args()


if __name__ == "__main__":
    main()
