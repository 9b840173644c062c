"""A real Prometheus and its tool, where they are installed."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from hypervisor_telemetry.local.child import Child
from tests.observability.rules import FOLDER
from tests.support.service_processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Labels = tuple[tuple[str, str], ...]
CLUSTER = "test"


def program(name: str) -> str:
    """Its path; skips the test where it isn't installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} isn't installed; on Debian or Ubuntu: apt-get install prometheus")
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it; its answer may be no."""
    return subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


class Prometheus:
    """A server with the configuration and the rules of observability/prometheus, and targets of a test's own."""

    def __init__(self, folder: Path, port: int) -> None:
        self._targets = folder / "targets"
        self._log = folder / "log"
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1/", trust_env=False, timeout=60)

    def scrape(self, job: str, *urls: str) -> None:
        """Set the targets of this job from now on."""
        hosts = [url.removeprefix("http://") for url in urls]
        new = self._targets / "new"
        new.write_text(yaml.safe_dump([{"targets": hosts, "labels": {"cluster": CLUSTER}}] if hosts else []))
        new.replace(self._targets / f"{job}.yml")

    def get(self, path: str, **parameters: str | float) -> Any:
        answer = self._http.get(path, params=parameters)
        assert answer.status_code == 200, f"{answer.text}: {parameters}"
        return answer.json()["data"]

    def query(self, expression: str, at: float | None = None) -> dict[Labels, float]:
        """Labels without the name, and values, at this moment or now."""
        data = self.get("query", query=expression, **({} if at is None else {"time": at}))
        if data["resultType"] == "scalar":
            return {(): float(data["result"][1])}
        return {
            tuple(sorted((name, text) for name, text in one["metric"].items() if name != "__name__")): float(
                one["value"][1]
            )
            for one in data["result"]
        }

    def value(self, expression: str, at: float | None = None) -> float:
        """The value of an expression that has one; NaN without any."""
        [value] = list(self.query(expression, at).values()) or [math.nan]
        return value

    def over_time(self, expression: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """As the API gives it: each with `metric` and `values`."""
        found: list[dict[str, Any]] = self.get("query_range", query=expression, start=begin, end=end, step=step)[
            "result"
        ]
        return found

    def samples(self, selector: str, begin: float, end: float) -> list[list[float]]:
        """The samples of each series as they were scraped, in order."""
        data = self.get("query", query=f"{selector}[{math.ceil(end - begin)}s]", time=end)
        return [[float(value) for _, value in one["values"]] for one in data["result"]]

    def is_answering(self) -> bool:
        try:
            return self._http.get("status/runtimeinfo").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def log(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self._http.close()


@contextmanager
def prometheus(
    folder: Path, interval: str | None = "1s", more_jobs: tuple[Mapping[str, Any], ...] = ()
) -> Iterator[Prometheus]:
    """One that runs in this folder. `interval`: in place of the file's own, which has 15 s."""
    command = program("prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
    if interval is not None:
        config["global"] = {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        }
    config["scrape_configs"] += more_jobs
    (folder / "targets").mkdir(parents=True)
    (folder / "rules").symlink_to(FOLDER / "rules")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (
        (folder / "log").open("wb") as log,
        Child([command, *arguments], cwd=folder, env=dict(os.environ), stdout=log, stderr=log),
    ):
        server = Prometheus(folder, port)
        try:
            eventually(server.is_answering, bool)
            yield server
        finally:
            server.close()
