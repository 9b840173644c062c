"""The image: Dockerfile and locks, its files built and run here, and the real image where there is an engine."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.deploy.image import ROOT, build, build_context, dockerfile, needs_engine, stage
from tests.support.service_processes import Fleet, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypervisor_telemetry.local.kafka_choice import Kafka

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = ROOT / "deploy" / "image"
MEGABYTES = 400
BASE_MEGABYTES = 140
"""Debian's slim Python unpacked, rounded up; it can't be pulled everywhere that this runs."""
USER = 10001


def pins(lock: Path) -> dict[str, str]:
    """Return each requirement, with version and marker, and its hashes in the lock."""
    text = re.sub(r"\n? +# via.*(?:\n +#.*)*", "", lock.read_text("utf-8"))
    blocks = re.findall(r"^([\w.\[\]-]+==[^\\\n]+?) *\\\n((?: +--hash=\S+(?: \\)?\n?)+)", text, re.MULTILINE)
    return {name: "".join(sorted(re.findall(r"sha256:\w+", hashes))) for name, hashes in blocks}


def names(requirements: dict[str, str]) -> set[str]:
    return {requirement.partition("==")[0] for requirement in requirements}


def test_the_base_is_pinned_by_digest_and_every_stage_begins_with_it_or_another_stage() -> None:
    arguments, stages = dockerfile()

    assert re.fullmatch(r"python:3\.\d+-slim-\w+@sha256:[0-9a-f]{64}", arguments["BASE"])
    known = {"${BASE}"}
    for each in stages:
        assert each.base in known
        known.add(each.name)


def test_every_command_is_in_exec_form_so_that_no_shell_is_needed() -> None:
    for each in dockerfile()[1]:
        for instruction in each.instructions:
            if instruction.name in {"RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK"}:
                assert instruction.words


def test_what_a_build_without_a_target_makes_runs_the_services_as_nobody_in_particular() -> None:
    last = dockerfile()[1][-1]
    run = stage(last.base)

    assert last.name == "services"
    assert [instruction.text for instruction in last.of("COPY")] == ["--from=build /opt/telemetry /opt/telemetry"]
    assert [instruction.text for instruction in run.of("USER")] == [f"{USER}:{USER}"]
    assert [instruction.text for instruction in run.of("STOPSIGNAL")] == ["SIGTERM"]
    assert run.of("ENTRYPOINT")[0].words == ["hypervisor-telemetry"]
    assert not last.of("USER")
    assert run.of("COPY") == [], "what is built comes last: a change of code changes one layer"


def test_the_health_check_is_a_module_of_ours() -> None:
    [check] = stage("run").of("HEALTHCHECK")

    assert check.words == ["python", "-m", "hypervisor_telemetry.healthcheck"]
    assert (ROOT / "hypervisor_telemetry" / "healthcheck.py").exists()


def test_the_labels_are_those_of_oci_and_the_version_is_the_projects() -> None:
    [label] = stage("run").of("LABEL")
    arguments = dict(instruction.text.partition("=")[::2] for instruction in stage("run").of("ARG"))
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', label.text))

    assert set(labels) == {"title", "description", "licenses", "version", "revision", "base.name"}
    assert arguments["VERSION"] == PROJECT["project"]["version"]
    assert labels["title"] == PROJECT["project"]["name"]
    assert labels["description"].split(".")[0] in PROJECT["project"]["description"].replace(":", ".")
    assert labels["licenses"] == PROJECT["project"]["license"]


def test_everything_is_installed_from_locks_with_their_hashes() -> None:
    installs = [
        instruction.words
        for each in dockerfile()[1]
        for instruction in each.of("RUN")
        if "install" in instruction.words
    ]
    locked = [words for words in installs if "--require-hashes" in words]

    assert {words[-1] for words in locked} == {
        f"deploy/image/{part}.lock" for part in ("build", "services", "demo")
    }
    [own] = [words for words in installs if words not in locked]
    assert {"--no-index", "--no-deps"} < set(own)


def test_nothing_goes_to_the_engine_but_what_the_dockerfile_copies() -> None:
    copied = [
        source
        for each in dockerfile()[1]
        for instruction in each.of("COPY")
        if "--from" not in instruction.text
        for source in instruction.text.split()[:-1]
    ]
    wanted = {path for path in build_context() if any(path == Path(s) or Path(s) in path.parents for s in copied)}

    assert build_context() == wanted
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied)
    assert not [path for path in build_context() if "secret" in str(path.parent) or path.suffix == ".pyc"]


@pytest.mark.parametrize("part", ["services", "demo", "build"])
def test_what_the_image_holds_is_of_the_versions_that_are_tested(part: str) -> None:
    """Everything in its locks is in requirements.lock, hash for hash."""
    tested, held = pins(ROOT / "requirements.lock"), pins(LOCKS / f"{part}.lock")

    lines = re.findall(r"^[\w.-]+==", (LOCKS / f"{part}.lock").read_text("utf-8"), re.MULTILINE)
    assert len(held) == len(lines) > 0
    assert {name: hashes for name, hashes in held.items() if tested.get(name) != hashes} == {}
    assert "://" not in (LOCKS / f"{part}.lock").read_text("utf-8")


def test_the_production_set_has_what_the_services_ask_for_and_nothing_of_development() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    asked = {re.split(r"[\[<>=;]", each)[0] for each in (*PROJECT["project"]["dependencies"], *extras["services"])}
    of_development = {re.split(r"[\[<>=;]", each)[0] for each in (*extras["dev"], *extras["local"])}
    services = names(pins(LOCKS / "services.lock"))

    assert asked <= services
    assert services & (of_development - {"hypervisor-telemetry"}) == set()
    assert names(pins(LOCKS / "demo.lock")) > services | {"agent-hypervisor"}


def test_what_builds_the_wheel_is_what_pyproject_asks_for() -> None:
    lines = [line for line in (LOCKS / "build.in").read_text("utf-8").splitlines() if not line.startswith("#")]

    assert lines == PROJECT["build-system"]["requires"]


@pytest.mark.full
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_there_is_a_wheel_of_everything_for_the_images_python(machine: str, tmp_path: Path) -> None:
    version = re.match(r"python:(3\.\d+)-", dockerfile()[0]["BASE"])
    assert version is not None
    command = [
        *(sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--target", tmp_path, "--no-deps"),
        *("--python-version", version[1], "--python-platform", f"{machine}-manylinux_2_28"),
        *("--only-binary", ":all:", "--require-hashes", "--requirement", LOCKS / "services.lock"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "+ confluent-kafka==" in done.stderr


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """The virtual environment of the build stage, made here; readable by everyone, writable by its owner."""
    folder = Path(tempfile.mkdtemp(prefix="hypervisor-image-"))
    try:
        folder.chmod(0o755)
        yield build(folder)
    finally:
        shutil.rmtree(folder)


def state_of(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def in_image(built: Path) -> tuple[dict[str, str], list[str]]:
    """The environment that the image sets, and the arguments to become its user."""
    [setting] = stage("run").of("ENV")
    environ = dict(re.findall(r"(\w+)=(\S+)", setting.text))
    environ["PATH"] = environ["PATH"].replace("/opt/telemetry", str(built))
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
    return environ, as_user if os.getuid() == 0 else []


IMPORT_ALL = """
import importlib, pkgutil
not_here = {"hypervisor_telemetry.local.demo_agent", "hypervisor_telemetry.testing.pytest_plugin"}
for name in ("hypervisor_schemas", "hypervisor_producers", "hypervisor_consumers", "hypervisor_telemetry"):
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        if module.name not in not_here and not module.name.endswith((".env", ".__main__")):
            importlib.import_module(module.name)
"""


@pytest.mark.full
@pytest.mark.timeout(400)
def test_the_locked_set_is_whole_and_small(built: Path) -> None:
    done = subprocess.run([built / "bin" / "python", "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    files = sum(path.lstat().st_size for path in built.rglob("*") if stat.S_ISREG(path.lstat().st_mode))

    assert done.returncode == 0, done.stderr
    assert files / 1e6 + BASE_MEGABYTES < MEGABYTES
    assert not list(built.glob("bin/pip*"))


@pytest.mark.full
@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_a_service_runs_from_it_as_another_user_writes_nothing_and_drains(
    built: Path, kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    Fleet(kafka.bootstrap_servers, topic_prefix, tmp_path).make_topics(1)
    environ, as_user = in_image(built)
    before = state_of(built)
    settings = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "TELEMETRY_TOPIC_PREFIX": topic_prefix}
    log = (tmp_path / "log").open("wb")
    service = subprocess.Popen(
        [*as_user, "hypervisor-telemetry", "ring-metrics", "--port", "0"],
        env={**environ, **settings},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        assert service.stdout is not None
        url = service.stdout.readline().split()[1]
        eventually(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code, lambda code: code == 200, 60)
        check = [*stage("run").of("HEALTHCHECK")[0].words, "--port", url.rpartition(":")[2]]
        well = subprocess.run([*as_user, *check], env=environ, cwd="/", capture_output=True, text=True, check=False)
        service.terminate()
        status = service.wait(20)
    finally:
        service.kill()
        service.communicate()
        log.close()

    assert (well.returncode, well.stdout.rstrip().endswith("200 ok")) == (0, True), well.stdout + well.stderr
    assert status == 0, (tmp_path / "log").read_text()
    assert state_of(built) == before


@pytest.fixture(scope="module")
def image() -> Iterator[tuple[str, str]]:
    """The docker client, and the image that it has built."""
    docker = needs_engine()
    name = "hypervisor-telemetry:test"
    done = subprocess.run(
        [docker, "build", "--tag", name, ROOT], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    yield docker, name
    subprocess.run([docker, "image", "rm", name], capture_output=True, check=False)


@pytest.mark.full
@pytest.mark.kafka
@pytest.mark.timeout(1200)
def test_the_image_runs_read_only_without_rights_and_drains(
    image: tuple[str, str], kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    docker, name = image
    Fleet(kafka.bootstrap_servers, topic_prefix, tmp_path).make_topics(1)

    def output_of(*command: str) -> str:
        return subprocess.run([docker, *command], capture_output=True, text=True, check=True).stdout.strip()

    assert int(output_of("image", "inspect", "--format", "{{.Size}}", name)) < MEGABYTES * 1_000_000
    container = output_of(
        *("run", "--detach", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "host"),  # noqa: S108
        *("--security-opt", "no-new-privileges", "--env", f"KAFKA_BOOTSTRAP_SERVERS={kafka.bootstrap_servers}"),
        *("--env", f"TELEMETRY_TOPIC_PREFIX={topic_prefix}", "--health-interval", "1s", name, "ring-metrics"),
    )
    try:
        eventually(
            lambda: output_of("inspect", "--format", "{{.State.Health.Status}}", container),
            lambda status: status == "healthy",
            60,
        )
        assert (
            output_of("exec", container, "python", "-c", "import os; print(os.getuid(), os.getgid())")
            == "10001 10001"
        )
        began = time.monotonic()
        output_of("stop", "--time", "30", container)
        assert output_of("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
        assert time.monotonic() - began < 30
    finally:
        output_of("rm", "--force", container)
