"""Every command and every Python block of the README, run."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from hypervisor_telemetry.local.kafka_choice import Kafka
from hypervisor_telemetry.topic_admin import apply_topics

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if language == "sh"]


def test_every_block_is_of_a_kind_that_is_run_here() -> None:
    assert {language for language, _ in BLOCKS} <= {"python", "sh", "text"}
    assert [block for block in SHELL if block not in {*MAKE, *INSTALL, *EXPORT, START, LOOK}] == []


PIP = ["-m", "pip", "install", "--dry-run", "--no-deps", "--no-build-isolation", "--no-index"]
MAKE = [block for block in SHELL if block.startswith("make ")]
INSTALL = [block for block in SHELL if block.startswith("pip install ")]
EXPORT = [block for block in SHELL if block.startswith("hypervisor-telemetry schemas export ")]
START, LOOK = (block for block in SHELL if "hypervisor-telemetry " in block and block not in EXPORT)


@pytest.mark.parametrize("target", [line.split()[1] for block in MAKE for line in block.splitlines()])
def test_a_make_target_that_is_named_is_there(target: str) -> None:
    """The target runs this very suite, or the demo, which has its own test."""
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", INSTALL)
def test_the_package_that_is_installed_has_the_name_that_is_told(block: str) -> None:
    assert block.split()[2] == "hypervisor-telemetry"
    done = subprocess.run(
        [sys.executable, *PIP, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Would install hypervisor-telemetry-" in done.stdout


@pytest.mark.parametrize("block", EXPORT)
def test_the_contract_comes_as_files(block: str, tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=environ, check=True)

    folder = tmp_path / block.rsplit(maxsplit=1)[-1]
    assert {path.name for path in folder.iterdir()} == {"asyncapi.json", "avro", "examples", "json-schema"}


@pytest.mark.kafka
@pytest.mark.parametrize("block", PYTHON)
def test_a_python_block_prints_what_its_comments_say(block: str, kafka: Kafka, topic_prefix: str) -> None:
    settings = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "TELEMETRY_TOPIC_PREFIX": topic_prefix}
    apply_topics(settings)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    promised = re.findall(r"print\(.*\)  # ([^:\n]+)", block)
    assert done.stdout.splitlines() == promised


@pytest.fixture
def shell() -> dict[str, str]:
    """An environment for the README's commands: a folder of its own, free ports in place of the usual ones."""
    if shutil.which("curl") is None:
        pytest.skip("missing tool: curl")
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": os.environ["HOME"],
    }
    for name in ("9092", "8000", "8001", "8002", "8003"):
        environ[f"PORT_{name}"] = str(free_port())
    return environ


def free_port() -> int:
    """Below the ports of outgoing connections: a client that waits for Kafka's must not be given that very one."""
    while True:
        port = secrets.choice(range(15_000, 30_000))
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def with_free_ports(commands: str, environ: dict[str, str]) -> str:
    return re.sub(r"\b(9092|800[0-3])\b", lambda port: environ[f"PORT_{port[1]}"], commands)


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_the_services_run_and_answer_as_told(shell: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.Popen(
            ["bash", "-euc", with_free_ports(START, shell)],
            cwd=tmp_path,
            env=shell,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert started.wait(60) == 0, (tmp_path / "log").read_text()
        for port in ("8000", "8001", "8002", "8003"):
            answered(f"http://127.0.0.1:{shell[f'PORT_{port}']}/readyz")
        at = dict(re.findall(r"(KAFKA_BOOTSTRAP_SERVERS)=(\S+)", with_free_ports(START, shell)))
        at["TELEMETRY_INDEX_URL"] = f"http://127.0.0.1:{shell['PORT_8002']}"
        for command in LOOK.splitlines():
            output_of(with_free_ports(command, shell), {**shell, **at}, tmp_path)
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        wait_until_gone(started.pid)


def answered(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own service
                return
        except OSError:
            assert time.monotonic() < deadline, url
            time.sleep(0.1)


def output_of(command: str, environ: dict[str, str], folder: Path) -> str:
    """Return the output of the command, once it succeeds and, if it asks a service, has the event."""
    deadline = time.monotonic() + 30
    while True:
        done = subprocess.run(
            ["bash", "-uc", command], cwd=folder, env=environ, capture_output=True, text=True, check=False
        )
        # A metric's name alone says nothing: it is there without a series, too.
        has_event = any(word in done.stdout for word in ("rogue-bot", "ring.breach_detected", "shell_exec"))
        asks = "curl" in command or " query " in command
        is_empty = asks and "readyz" not in command and not has_event
        if done.returncode == 0 and not is_empty:
            return done.stdout
        assert time.monotonic() < deadline, (command, done.stdout, done.stderr)
        time.sleep(0.1)


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("the services or Kafka didn't stop")
