"""mypy and pyright, both strict, see the public names as users' code needs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RIGHT, WRONG = HERE / "agent_code.py", HERE / "wrong_uses.py"
_EXPECTED = re.compile(r"# error: (\S+) (\S+)$")
_MYPY = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: (?P<message>.*?)(?:\s+\[(?P<code>[\w-]+)\])?$")

Errors = set[tuple[str, int, str]]
"""File, line and code of each error."""


def expected(checker: int) -> Errors:
    """The errors that the lines of `wrong_uses.py` promise, of mypy (1) or of pyright (2)."""
    errors: Errors = set()
    for number, line in enumerate(WRONG.read_text("utf-8").splitlines(), 1):
        if match := _EXPECTED.search(line):
            errors |= {(WRONG.name, number, code) for code in match.group(checker).split(",")}
    return errors


def mypy(cache: Path) -> Errors:
    """Errors of `mypy --strict` with no other settings."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--follow-imports", "silent"),
            *("--cache-dir", str(cache), "--no-error-summary", "--python-version", "3.11", str(RIGHT), str(WRONG)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [match for line in done.stdout.splitlines() if (match := _MYPY.match(line))]
    assert found, done.stderr
    return {(Path(match["file"]).name, int(match["line"]), match["code"] or match["message"]) for match in found}


def pyright(folder: Path) -> Errors:
    """Errors of pyright's strict mode with no other settings, by basedpyright, whose wheel needs no download."""
    settings = {
        "include": [str(RIGHT), str(WRONG)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        # An attribute or a call that stands alone is how the mistakes are written.
        "reportUnusedExpression": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "basedpyright", "--project", str(folder), "--pythonpath", sys.executable),
            "--outputjson",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [each for each in json.loads(done.stdout)["generalDiagnostics"] if each["severity"] == "error"]
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each.get("rule", each["message"]))
        for each in found
    }


def test_mypy_accepts_right_code_and_finds_each_mistake(tmp_path: Path):
    assert mypy(tmp_path) == expected(1)


def test_pyright_accepts_right_code_and_finds_each_mistake(tmp_path: Path):
    assert pyright(tmp_path) == expected(2)
