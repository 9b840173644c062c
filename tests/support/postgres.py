"""A real PostgreSQL on a free loopback port, in a folder of its own, that ends with the tests or the benches."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
import pytest

from hypervisor_telemetry.local.child import Child

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "telemetry"


class PostgresMissing(Exception):
    """PostgreSQL isn't installed; the sentence says what to do."""


class Postgres:
    """A server with the settings of a fresh installation.

    Args:
        is_durable: Whether what it has committed survives a power cut; where it needn't, it is faster.

    Raises:
        PostgresMissing: There is none on this machine.
    """

    def __init__(self, *, is_durable: bool = False) -> None:
        self._binaries = _binaries()
        self._is_durable = is_durable
        self._as_user: list[str] = []
        self.password = secrets.token_hex(8)
        self.folder = Path(tempfile.mkdtemp(prefix="hypervisor-postgres-"))
        if os.getuid() == 0:
            # It refuses to run as root.
            account = _account()
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self._as_user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        self.port = _free_port()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # in a folder that only its user may enter
        subprocess.run(
            [
                *(*self._as_user, self._binaries / "initdb", "-D", self.folder / "data", "-U", USER),
                *(
                    "--auth=scram-sha-256",
                    f"--pwfile={secret}",
                    "--encoding=UTF8",
                    "--no-sync",
                    "--no-instructions",
                ),
                # Not by code points, so that a forgotten COLLATE shows.
                *("--locale-provider=icu", "--icu-locale=en", "--locale=C.UTF-8"),
            ],
            check=True,
            cwd="/",
            capture_output=True,
        )

    def start(self) -> None:
        """Start the server; return when it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 100,
            **({} if self._is_durable else {"fsync": "off", "full_page_writes": "off"}),
        }
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._child = Child(
                [*self._as_user, self._binaries / "postgres", "-D", self.folder / "data", *arguments],
                cwd="/",
                stdout=log,
                stderr=log,
                grace=0,
                name="postgres",
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                assert self._child.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.02)  # it refuses at once while it starts
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends every session at once, SIGQUIT is a crash."""
        if self._child is not None:
            os.kill(self._child.pid, how)
            self._child.wait(60)
            self._child = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.url(database).replace("+psycopg", ""), autocommit=True, connect_timeout=5)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self, encoding: str = "UTF8") -> str:
        """Create an empty database; return its URL."""
        name = f"t{secrets.token_hex(4)}"
        locale = "" if encoding == "UTF8" else " LOCALE_PROVIDER 'libc' LOCALE 'C'"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'{locale}")
        return self.url(name)


def _binaries() -> Path:
    found = shutil.which("postgres")
    if found is None:
        # Debian keeps them out of the path.
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not installed:
            raise PostgresMissing("PostgreSQL isn't installed; on Debian or Ubuntu: apt-get install postgresql")
        found = str(installed[-1])
    return Path(found).resolve().parent


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def opened(url: str) -> Iterator[psycopg.Connection]:
    """Open a connection of the test's own."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def _server() -> Postgres:
    try:
        return Postgres()
    except PostgresMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL of this test run."""
    with _server() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this test's own, for tests that stop it."""
    with _server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.full)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/index.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()
