"""docker-compose.yml against its promises, and its commands and settings against the real ones.

What an engine is needed for is skipped where there is none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from sqlalchemy import make_url

from deploy.compose.make_secrets import make
from hypervisor_consumers.event_index.service import DEFAULT_PORT as EVENT_INDEX_PORT
from hypervisor_consumers.governance_metrics.service import DEFAULT_PORT as GOVERNANCE_METRICS_PORT
from hypervisor_consumers.ring_metrics.service import DEFAULT_PORT as RING_METRICS_PORT
from hypervisor_consumers.saga_spans.service import DEFAULT_PORT as SAGA_SPANS_PORT
from hypervisor_schemas.connection import kafka_settings
from hypervisor_schemas.secret_files import KAFKA_SECRETS, OTHER_SECRETS, SUFFIX
from hypervisor_schemas.settings import SETTINGS
from hypervisor_telemetry.cli.app import app
from hypervisor_telemetry.healthcheck import main as healthcheck
from hypervisor_telemetry.local.broker import SETTINGS as BROKER
from hypervisor_telemetry.local.broker import LocalKafka, _server_settings
from hypervisor_telemetry.local.jars import KAFKA_VERSION
from tests.deploy.image import ROOT, dockerfile, needs_engine
from tests.support.apicurio import VERSION as APICURIO_VERSION
from tests.support.apicurio import Apicurio
from tests.support.go_tools import tool
from tests.support.service_processes import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("hypervisor-telemetry")}
FOREIGN = {name: service for name, service in SERVICES.items() if name not in OURS}
PORTS = {
    "ring-metrics": RING_METRICS_PORT,
    "saga-spans": SAGA_SPANS_PORT,
    "event-index": EVENT_INDEX_PORT,
    "governance-metrics": GOVERNANCE_METRICS_PORT,
}
RUNNING = {name: service for name, service in OURS.items() if service["command"][0] in PORTS}
JOBS = {"topics", "schemas", "fleet"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

each = pytest.mark.parametrize("name", SERVICES)
each_of_ours = pytest.mark.parametrize("name", OURS)


def test_it_has_all_that_is_promised() -> None:
    assert [service["command"][0] for service in RUNNING.values()].count("ring-metrics") == 2
    assert {service["command"][0] for service in RUNNING.values()} == set(PORTS)
    assert set(FOREIGN) == {"kafka", "registry", "postgres", "prometheus", "grafana", "jaeger"}
    assert set(OURS) == set(RUNNING) | JOBS
    assert [name for name, service in SERVICES.items() if service.get("profiles") == ["demo"]] == ["fleet"]


@each
def test_a_published_port_is_on_loopback_only(name: str) -> None:
    ports = SERVICES[name].get("ports", [])

    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert ("loopback" in SERVICES[name]["networks"]) == bool(ports)
    assert SERVICES[name].get("network_mode") is None


def test_what_publishes_nothing_has_no_way_out() -> None:
    assert {name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")} == {
        "loopback"
    }
    assert {name for name, service in SERVICES.items() if "database" in service["networks"]} == {
        "postgres",
        "event-index",
    }


@each
def test_everyone_has_limits(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]

    assert float(limits["cpus"]) <= 2
    assert re.fullmatch(r"\d+M|1G", limits["memory"])
    assert 0 < limits["pids"] <= 512


@each
def test_everyone_is_without_rights_and_writes_only_where_it_is_said(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert "cap_add" not in service
    # Those without a user here have one in their image (Kafka's appuser, Apicurio's 1001).
    assert service.get("user", "").split(":")[0] != "0"
    if name in OURS:
        assert service["user"] == "10001:10001"
        assert not service.get("volumes")
    for volume in service.get("volumes", []):
        source, _, mode = volume.partition(":")[0], *volume.rpartition(":")[1:]
        assert source in COMPOSE["volumes"] or mode == "ro"


@each
def test_an_image_is_pinned(name: str) -> None:
    image = SERVICES[name]["image"]

    if name in FOREIGN:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", image)
    else:
        assert image == f"hypervisor-telemetry{'-demo' if name == 'fleet' else ''}:{VERSION}"
        assert SERVICES[name]["build"]["target"] in {stage.name for stage in dockerfile()[1]}


def test_the_versions_are_those_that_the_tests_run() -> None:
    assert SERVICES["kafka"]["image"].startswith(f"apache/kafka:{KAFKA_VERSION}@")
    assert f"/apicurio-registry:{APICURIO_VERSION}@" in SERVICES["registry"]["image"]


@each
def test_health_and_order(name: str) -> None:
    """A service that others wait for is healthy, or has done its work."""
    service = SERVICES[name]

    check = service["healthcheck"]
    assert check.get("disable") if name in JOBS else check["test"][0] == "CMD"
    for other, how in service.get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in JOBS else "service_healthy"
        assert how == {"condition": wanted}
    if name in RUNNING:
        assert {"topics", "schemas"} <= set(service["depends_on"])
        assert service["stop_grace_period"] == "30s"


def test_each_waits_for_all_that_it_uses() -> None:
    def needed(name: str) -> set[str]:
        return {other for direct in SERVICES[name].get("depends_on", {}) for other in {direct, *needed(direct)}}

    for name in RUNNING:
        assert {"kafka", "registry"} <= needed(name)
    assert "postgres" in needed("event-index")
    assert "jaeger" in needed("saga-spans")
    assert needed("fleet") == set(SERVICES) - {"fleet", "prometheus", "grafana"}


@each_of_ours
def test_a_command_is_one_of_ours(name: str) -> None:
    """The real command line accepts it, up to the point where it would run."""
    words = list(SERVICES[name]["command"])
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    given = command.make_context(command.name, words).params

    assert any(value not in (None, ()) for value in given.values())


@pytest.mark.parametrize("name", RUNNING)
def test_a_health_check_asks_the_service_whether_it_is_ready(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = RUNNING[name]["healthcheck"]["test"]

    assert words[:4] == ["CMD", "python", "-m", "hypervisor_telemetry.healthcheck"]
    assert healthcheck([*words[4:], "--port", "1"]) == 1
    assert "no service answers" in capsys.readouterr().out


@each_of_ours
def test_an_environment_has_settings_that_there_are(name: str) -> None:
    environ = SERVICES[name]["environment"]
    secret = {setting.name for setting in SETTINGS if setting.secret} | set(KAFKA_SECRETS) | set(OTHER_SECRETS)
    known = {setting.name for setting in SETTINGS} | {"SCHEMA_REGISTRY_URL", "KAFKA_BOOTSTRAP_SERVERS"}

    assert set(environ) <= known | {name + SUFFIX for name in secret}
    assert kafka_settings(environ) == {"bootstrap.servers": "kafka:19092"}
    for setting in SETTINGS:
        setting.of({key: value for key, value in environ.items() if not key.endswith(SUFFIX)})


@each
def test_a_secret_comes_by_file(name: str) -> None:
    service = SERVICES[name]
    environ = service.get("environment", {})
    files = {value.removeprefix("/run/secrets/") for value in environ.values() if "/run/secrets/" in value}

    assert files == set(service.get("secrets", []))
    assert files <= set(COMPOSE["secrets"])
    assert not [key for key in environ if re.search(r"(PASSWORD|TOKEN|SECRET|DATABASE_URL)$", key)]


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = make(folder)
    texts = {path.name: path.read_text() for path in made}

    assert set(texts) == set(COMPOSE["secrets"])
    assert {Path(secret["file"]).parent for secret in COMPOSE["secrets"].values()} == {
        Path("deploy/compose/secrets")
    }
    assert len(set(texts.values())) == len(texts)
    assert all(len(text) > 30 for text in texts.values())
    url = make_url(texts["database_url"].strip())
    environ = SERVICES["postgres"]["environment"]
    assert (url.password, url.host, url.port) == (texts["database_password"].strip(), "postgres", 5432)
    assert (url.username, url.database) == (environ["POSTGRES_USER"], environ["POSTGRES_DB"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in made} == {0o644}
    assert make(folder) == []
    assert {path.name: path.read_text() for path in made} == texts


def test_no_secret_is_in_the_repository() -> None:
    listed = subprocess.run(
        ["git", "check-ignore", "deploy/compose/secrets/api_token"], cwd=ROOT, capture_output=True, check=False
    )
    tracked = subprocess.run(
        ["git", "ls-files", "deploy/compose/secrets"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert listed.returncode == 0
    assert tracked.stdout == ""


def test_what_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        files = [service["env_file"]] if "env_file" in service else []
        mounted = [volume.partition(":")[0] for volume in service.get("volumes", [])]
        for source in {*files, *mounted} - set(COMPOSE["volumes"]):
            assert (ROOT / source).exists(), source


def test_prometheus_asks_every_copy_in_the_job_of_its_service() -> None:
    """Prometheus' own configuration unchanged; compose's targets name the copies."""
    config = yaml.safe_load((ROOT / "observability/prometheus/prometheus.yml").read_text("utf-8"))
    jobs = {
        Path(file).name: job["job_name"]
        for job in config["scrape_configs"]
        for discovery in job["file_sd_configs"]
        for file in discovery["files"]
    }
    files = {path.name: path for path in (ROOT / "deploy" / "compose" / "targets").iterdir()}
    groups = {
        jobs[name]: group for name, path in files.items() for group in yaml.safe_load(path.read_text("utf-8"))
    }
    wanted: dict[str, set[str]] = {}
    for name, service in RUNNING.items():
        what = service["command"][0]
        job = "agent-hypervisor" if what == "ring-metrics" else what
        wanted.setdefault(job, set()).add(f"{name}:{PORTS[what]}")

    assert {job: set(group["targets"]) for job, group in groups.items()} == wanted
    assert all(group["labels"] == {"cluster": "compose"} for group in groups.values())
    assert "./deploy/compose/targets:/etc/prometheus/targets:ro" in SERVICES["prometheus"]["volumes"]
    assert {Path(rule).parent for rule in config["rule_files"]} == {Path("rules")}


def test_the_fleet_asks_every_copy() -> None:
    told = set(SERVICES["fleet"]["command"][1:])

    assert told == {
        f"--{service['command'][0]}=http://{name}:{PORTS[service['command'][0]]}"
        for name, service in RUNNING.items()
    }


def kafka_environment() -> dict[str, str]:
    """Return the broker's properties in compose, without those of Docker or the JVM."""
    environ = SERVICES["kafka"]["environment"]
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): str(value)
        for name, value in environ.items()
        if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"
    }


def test_the_broker_has_the_settings_of_the_tests_broker_and_of_its_place_only() -> None:
    properties = kafka_environment()

    assert {name: properties.get(name) for name in BROKER} == dict(BROKER)
    assert set(properties) - set(BROKER) <= {*_server_settings(1, 2), "advertised.listeners"}
    assert properties["log.dirs"] == "/var/lib/kafka/data"
    assert "kafka:/var/lib/kafka/data" in SERVICES["kafka"]["volumes"]


@pytest.mark.full
@pytest.mark.kafka
def test_a_kafka_starts_with_these_settings(tmp_path: Path) -> None:
    """Run the same broker as a child process, with ports and a folder of its own."""
    here = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs", "node.id"}
    names = {"inter.broker.listener.name", "listener.security.protocol.map"}
    overrides = {name: value for name, value in kafka_environment().items() if name not in here | names}

    with LocalKafka(tmp_path, overrides=overrides) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        asked = ConfigResource(ResourceType.BROKER, "1")
        told = admin.describe_configs([asked])[asked].result(30)

    differing = {name for name, value in overrides.items() if name in told and told[name].value != value}
    assert differing == set()
    assert set(overrides) - set(told) <= {"broker.session.timeout.ms", "broker.heartbeat.interval.ms"}


@pytest.fixture
def registry_in_kafka(own_kafka: LocalKafka, tmp_path: Path) -> Iterator[Apicurio]:
    environ = {
        key: value for key, value in SERVICES["registry"]["environment"].items() if key != "JAVA_OPTS_APPEND"
    }
    assert environ["APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"] == "kafka:19092"
    environ["APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"] = own_kafka.bootstrap_servers
    with Apicurio(tmp_path, environ) as registry:
        yield registry


def is_healthy(url: str) -> bool:
    """Run the registry's health check, as compose does, with this port."""
    port = url.split(":")[2].partition("/")[0]
    words = [
        word.replace("$$", "$").replace("/8080", f"/{port}") for word in SERVICES["registry"]["healthcheck"]["test"]
    ]
    return subprocess.run(words[1:], capture_output=True, timeout=30, check=False).returncode == 0


@pytest.mark.full
@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_the_registry_keeps_its_schemas_in_kafka(registry_in_kafka: Apicurio) -> None:
    """The job's own command registers them; after a crash they have the same ids."""
    url = {"SCHEMA_REGISTRY_URL": registry_in_kafka.url}
    assert registry_in_kafka.url.endswith("/apis/ccompat/v7")
    assert {service["environment"]["SCHEMA_REGISTRY_URL"] for service in OURS.values()} == {
        "http://registry:8080/apis/ccompat/v7"
    }
    first = run_command(*SERVICES["schemas"]["command"], **url)
    subject = registry_in_kafka.get("/subjects")[0]
    before = registry_in_kafka.get(f"/subjects/{subject}/versions/latest")

    assert is_healthy(registry_in_kafka.url)
    registry_in_kafka.kill()
    assert not is_healthy(registry_in_kafka.url)
    registry_in_kafka.start()
    again = run_command(*SERVICES["schemas"]["command"], **url)

    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert registry_in_kafka.get(f"/subjects/{subject}/versions/latest") == before


@pytest.mark.full
def test_the_reader_that_compose_itself_uses_takes_the_file() -> None:
    """Compose's own parser resolves profiles, anchors and paths, without an engine."""
    done = subprocess.run(
        [tool("compose-go"), "-format", "json", "docker-compose.yml"],
        cwd=ROOT,
        env={**os.environ, "COMPOSE_PROFILES": "demo"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    read = json.loads(done.stdout)
    assert set(read["services"]) >= set(SERVICES) - {"fleet"}
    assert {name: service["command"] for name, service in read["services"].items() if name in RUNNING} == {
        name: service["command"] for name, service in RUNNING.items()
    }


@pytest.fixture
def compose(tmp_path: Path) -> Iterator[list[str]]:
    docker = needs_engine()
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker engine with compose")
    if not (ROOT / "deploy/compose/secrets").exists():
        make(ROOT / "deploy/compose/secrets")
    command = [docker, "compose", "--project-directory", str(ROOT), "--project-name", f"test-{tmp_path.name[:20]}"]
    yield command
    subprocess.run(
        [*command, "--profile", "demo", "down", "--volumes", "--timeout", "30"], capture_output=True, check=False
    )


@pytest.mark.full
def test_compose_takes_the_file(compose: list[str]) -> None:
    done = subprocess.run([*compose, "config", "--quiet"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_everything_gets_healthy_and_the_fleet_is_accounted_for(compose: list[str]) -> None:
    up = subprocess.run(
        [*compose, "up", "--detach", "--build", "--wait"], capture_output=True, text=True, check=False
    )
    assert up.returncode == 0, up.stderr[-5000:]

    fleet = subprocess.run(
        [*compose, "run", "--build", "--rm", "fleet"], capture_output=True, text=True, check=False
    )

    assert fleet.returncode == 0, fleet.stdout + fleet.stderr
    assert "is accounted for" in fleet.stdout


def test_make_has_targets_for_it() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is missing")
    for target, word in (("up", "docker compose up"), ("down", "docker compose"), ("secrets", "make_secrets.py")):
        told = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
        assert word in told.stdout
