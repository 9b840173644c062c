"""Downloads Apache Kafka's jars from Maven Central, once, into a folder of the user's cache."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hypervisor_schemas.errors import LocalKafkaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["KAFKA_VERSION", "kafka_jars"]

KAFKA_VERSION = "4.3.1"
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Kafka logs through SLF4J 1.7, and its POM names no implementation: without this there is no log. It is
# resolved apart from Kafka because its parent POM manages other versions of Kafka's own dependencies.
LOG_BRIDGE = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"


def kafka_jars(cache: Path, on_progress: Callable[[str], None]) -> Path:
    """The folder of the jars; it is downloaded the first time, and complete or not there at all.

    Processes that ask for it at the same time wait for the one that downloads.

    Args:
        cache: The folder that holds it; made if absent.
        on_progress: Gets one sentence before a download.

    Raises:
        LocalKafkaError: The download failed, or jgo is not installed.
    """
    folder = cache / f"kafka-{KAFKA_VERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            on_progress(f"downloading Apache Kafka {KAFKA_VERSION} (45 MB, once)")
            _download(cache / "download", folder)
    return folder


def _download(scratch: Path, folder: Path) -> None:
    # Not into the user's ~/.m2: jgo writes a jar in place, so one that was cut short would stay there.
    shutil.rmtree(scratch, ignore_errors=True)
    jars = scratch / "jars"
    jars.mkdir(parents=True)
    try:
        for jar in _resolved(scratch / "repository"):
            jar.rename(jars / jar.name)
    except (OSError, RuntimeError) as error:  # what requests and jgo raise
        raise LocalKafkaError(
            f"Apache Kafka {KAFKA_VERSION} can't be downloaded from Maven Central: {error}. Check the network "
            f"and try again, or put the jars of a Kafka {KAFKA_VERSION} distribution (its libs) into {folder}."
        ) from error
    jars.rename(folder)
    shutil.rmtree(scratch)


def _resolved(repository: Path) -> Iterator[Path]:
    try:
        from jgo.maven import MavenContext  # noqa: PLC0415 - an extra, and only the first run needs it
    except ImportError as error:
        raise LocalKafkaError(
            "The local Kafka needs jgo, which is not installed; run: pip install 'hypervisor-telemetry[local]'"
        ) from error
    # jgo.build would also sort jars into modules, and fetch a JDK of 180 MB for it where there is none.
    maven = MavenContext(repo_cache=repository)
    inputs, transitive = maven.resolver.resolve([maven.create_dependency(KAFKA)])
    for dependency in (*inputs, *transitive, maven.create_dependency(LOG_BRIDGE)):
        yield dependency.artifact.resolve()
