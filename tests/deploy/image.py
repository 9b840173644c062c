"""The parsed Dockerfile, and its build stage run on this machine, which needs no engine."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The arguments of the exec form."""
        command = re.sub(r"^(--\S+\s+)*(CMD\s+)?", "", self.text)
        words = json.loads(command)
        assert isinstance(words, list), f"not the exec form: {self.text}"
        return words


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def of(self, name: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.name == name]


@cache
def dockerfile() -> tuple[dict[str, str], list[Stage]]:
    """Parse the Dockerfile: the arguments before the first stage, and the stages in order."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, lines)):
        name, _, rest = line.partition(" ")
        if name == "ARG" and not stages:
            key, _, value = rest.partition("=")
            arguments[key] = value
        elif name == "FROM":
            base, _, stage = rest.partition(" AS ")
            stages.append(Stage(stage, base, ()))
        else:
            last = stages[-1]
            stages[-1] = Stage(last.name, last.base, (*last.instructions, Instruction(name, rest)))
    return arguments, stages


def stage(name: str) -> Stage:
    return next(stage for stage in dockerfile()[1] if stage.name == name)


@cache
def build_context() -> frozenset[Path]:
    """Return the files that go to an engine, by .dockerignore: of several matching rules, the last one holds."""
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(path for path in map(Path, listed.stdout.splitlines()) if _is_in_context(path, rules))


def _is_in_context(path: Path, rules: list[str]) -> bool:
    is_sent = True
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        names = (path, *path.parents[:-1])
        fits = any(
            fnmatch.fnmatchcase(each.name if "**/" in rule else str(each), pattern) if pattern != "*" else True
            for each in names
        )
        if fits:
            is_sent = rule.startswith("!")
    return is_sent


def build(folder: Path, name: str = "build") -> Path:
    """Run a stage (and those it begins with) with `folder` as the root; return the virtual environment.

    COPY takes what .dockerignore lets through, RUN is run as it stands, with its paths in `folder`.
    """
    it = stage(name)
    if it.base != "${BASE}":
        build(folder, it.base)
    work = folder / "src"
    work.mkdir(exist_ok=True)
    for instruction in it.instructions:
        if instruction.name == "COPY":
            *sources, target = instruction.text.split()
            for source in sources:
                _copy(source, target, work)
        elif instruction.name == "RUN":
            command = [re.sub(r"^/(opt|wheels)", rf"{folder}/\1", word) for word in instruction.words]
            environ = {**os.environ, "PATH": f"{_python().parent}:{os.environ['PATH']}"}
            done = subprocess.run(command, cwd=work, env=environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return folder / "opt" / "telemetry"


@cache
def _python() -> Path:
    """Return a python3 that every user may run, like that of the base image; one in a home folder is not."""
    for candidate in (shutil.which("python3"), "/usr/bin/python3"):
        if candidate is None or not Path(candidate).exists():
            continue
        told = subprocess.run(
            [candidate, "-c", "import sys, ensurepip, venv; print(sys.base_prefix, sys.version_info >= (3, 11))"],
            capture_output=True,
            text=True,
            check=False,
        )
        prefix, _, is_new = told.stdout.strip().rpartition(" ")
        if is_new == "True" and all(path.stat().st_mode & 1 for path in (Path(prefix), *Path(prefix).parents)):
            return Path(candidate)
    pytest.skip("no python3 that every user may run; on Debian or Ubuntu: apt-get install python3-venv")


def _copy(source: str, target: str, work: Path) -> None:
    files = [path for path in build_context() if path == Path(source) or Path(source) in path.parents]
    assert files, f"nothing of {source} is sent to the engine"
    for path in files:
        inside = path.relative_to(source) if path != Path(source) else Path(path.name)
        to = work / target / inside
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, to)


def needs_engine() -> str:
    """Return the path of the docker client if its engine answers; else skip the test."""
    docker = shutil.which("docker")
    if docker is not None:
        told = subprocess.run([docker, "info"], capture_output=True, timeout=30, check=False)
        if told.returncode == 0:
            return docker
    pytest.skip("no Docker engine answers")
