"""Versions of the code side by side: an earlier one from the repository's history, and one with a newer schema."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.wire.codec import (
    SINGLE_OBJECT,
    confluent_framing,
    encode_event,
    schema_fingerprint,
    schema_text,
)
from tests.chaos.harness import record_of

ROOT = Path(__file__).parents[2]
FOLDERS = ("schemas", "producers", "consumers", "hypervisor_telemetry")

EARLIER = "9fe384d148367f8082f9bf3696fba98ff7005841"
"""The commit of the upgrade's earlier version: a commit while nothing is released, then the release before."""

_FIELD = {"name": "tenant", "type": ["null", "string"], "default": None}
_TENANT = b"\x02\x08acme"
"""The field's bytes in Avro, after the others: the union's second branch, four bytes."""


@dataclass(frozen=True)
class Code:
    """A version of all packages, in a folder of its own."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which a process runs this version, whatever is installed."""
        paths = (self.folder / name for name in ("schemas", "producers", "consumers", "."))
        return {"PYTHONPATH": ":".join(map(str, paths)), "PYTHONSAFEPATH": "1"}

    def checked(self) -> Code:
        """Return itself, after checking that a process with its environment has all packages from its folder."""
        names = "hypervisor_schemas, hypervisor_producers, hypervisor_consumers, hypervisor_telemetry"
        code = f"import {names}\nprint(*(each.__file__ for each in ({names})), sep='\\n')"
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.environ, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert all(Path(line).is_relative_to(self.folder) for line in done.stdout.splitlines()), done.stdout
        return self


def earlier(folder: Path) -> Code:
    """Unpack the packages as they were at `EARLIER`."""
    archive = folder / "earlier.tar"
    done = subprocess.run(
        ["git", "archive", "--output", archive, EARLIER, *FOLDERS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(
            f"no such commit in this clone, try git fetch --unshallow: {EARLIER[:7]} ({done.stderr.strip()})"
        )
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "earlier", filter="data")
    return Code(folder / "earlier").checked()


def with_newer_schema(folder: Path) -> Code:
    """Copy this version, with one more version of the schema."""
    target = folder / "newer"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    history = target / "schemas" / "hypervisor_schemas" / "avro" / "history"
    number = len(list(history.iterdir())) + 1
    (history / f"v{number}.avsc").write_text(newer_schema(), "utf-8")
    return Code(target).checked()


def newer_schema() -> str:
    """Return the schema with one more optional field."""
    schema = json.loads(schema_text())
    return json.dumps({**schema, "fields": [*schema["fields"], _FIELD]})


def newer_record(event: HypervisorEvent, registry_id: int | None = None) -> tuple[bytes | None, bytes]:
    """Make key and value as an agent with the newer schema does: under a registry's id, or by fingerprint."""
    key, _ = record_of(event)
    by_fingerprint = SINGLE_OBJECT[:2] + schema_fingerprint(newer_schema())
    framing = by_fingerprint if registry_id is None else confluent_framing(registry_id)
    return key, encode_event(event, framing) + _TENANT
