"""The demo as a person runs it: through the command, with Ctrl-C at awkward moments."""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc tells which processes are left")
DEMO = [sys.executable, "-m", "hypervisor_telemetry", "demo"]


@pytest.fixture
def mark() -> str:
    """Stands in the environment of the demo and of all that it starts."""
    return f"DEMO_TEST_{secrets.token_hex(8)}"


def running(mark: str) -> list[str]:
    """The command lines of the processes that carry the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended, or is another user's
    return found


def is_listening(port: int) -> bool:
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    return any(
        f":{port:04X} " in line and line.split()[3] == "0A"
        for table in tables
        if table.exists()
        for line in table.read_text().splitlines()[1:]
    )


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_every_event_of_a_small_demo_is_accounted_for(mark: str, tmp_path: Path) -> None:
    picture = tmp_path / "waterfall.svg"
    done = subprocess.run(
        [*DEMO, "--events", "600", "--agents", "2", "--picture", str(picture)],
        env={**os.environ, mark: "1", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "is accounted for" in done.stdout
    account = {
        line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.rstrip().endswith(" yes")
    }
    assert set(account) == {"session", "ring", "saga", "vfs", "security", "audit", "governance"}
    for category, (published, *counted) in account.items():
        assert set(counted) == {published, "yes"}, category
    facts = [line.split() for line in done.stdout.splitlines() if re.match(r"\s+[12]\s+\d", line)]
    assert len(facts) == 2
    assert all(int(count) >= 1 for agent in facts for count in agent)
    governance = next(line for line in done.stdout.splitlines() if line.startswith("governance: "))
    shown = re.findall(r"(\w+) (\d+) of (\d+)", governance)
    assert [name for name, *_ in shown] == ["allowed", "blocked", "limited", "audited", "active"]
    assert all(int(count) == int(truth) >= 2 for _, count, truth in shown)
    assert running(mark) == []
    # The one in the README is drawn by `hypervisor-telemetry demo --picture docs/waterfall.svg`.
    assert bars(picture) == bars(ROOT / "docs" / "waterfall.svg")


def bars(picture: Path) -> list[tuple[str, ...]]:
    """Name, indentation, colour and what is known of each span of a picture; no times, no random ids."""
    found = []
    for group in ET.parse(picture).iter(f"{SVG}g"):  # noqa: S314 - drawn here
        title, text, bar, _ = group
        about = [line.partition(": ") for line in (title.text or "").splitlines()[1:]]
        name = re.sub(r"(saga|fanout):[0-9a-f-]+", "ID", (title.text or "").splitlines()[0])
        known = sorted(key for key, _, _ in about)
        found.append((name, text.attrib["x"], bar.attrib["fill"], *known))
    return found


@pytest.mark.kafka
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("starting Apache Kafka", signal.SIGINT),
        pytest.param("Kafka answers", signal.SIGTERM, marks=pytest.mark.full),
        ("agent processes do", signal.SIGINT),
    ],
)
def test_an_interrupt_leaves_no_process_and_no_port(mark: str, moment: str, number: signal.Signals) -> None:
    demo = subprocess.Popen(
        [*DEMO, "--events", "4000", "--agents", "2"],
        env={**os.environ, mark: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    seen = ""
    for line in demo.stdout or ():
        seen += line
        if moment in line:
            break
    demo.send_signal(number)
    rest, _ = demo.communicate(timeout=60)

    assert demo.returncode == 130, seen + rest
    assert "Traceback" not in seen + rest
    deadline = time.monotonic() + 20
    while running(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running(mark) == []
    ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", seen + rest)]
    assert [port for port in ports if is_listening(port)] == []


@pytest.mark.full
@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_the_demo_at_its_full_size_adds_up(mark: str) -> None:
    done = subprocess.run(DEMO, env={**os.environ, mark: "1"}, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    emitted = re.search(r"Every one of ([\d,]+) events", done.stdout)
    assert emitted is not None
    assert int(emitted[1].replace(",", "")) >= 20_000
