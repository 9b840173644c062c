"""Programs and jars for tests from Maven coordinates: fetched once, complete or missing, beside Kafka's jars."""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
from pathlib import Path

from jgo.maven import MavenContext


def maven_file(group: str, artifact: str, version: str, classifier: str = "", packaging: str = "jar") -> Path:
    """Return the file of these coordinates; for a `tar.gz`, the folder with its content."""
    name = "-".join(filter(None, [artifact, version, classifier]))
    target = cache() / (name if packaging == "tar.gz" else f"{name}.{packaging}")
    with (cache() / f"{artifact}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            scratch = cache() / f"download-{artifact}"
            shutil.rmtree(scratch, ignore_errors=True)
            project = MavenContext(repo_cache=scratch / "repository").project(group, artifact)
            file = project.at_version(version).artifact(classifier, packaging).resolve()
            if packaging == "tar.gz":
                with tarfile.open(file) as archive:
                    archive.extractall(scratch / "whole", filter="data")
                file = scratch / "whole"
            file.replace(target)
            shutil.rmtree(scratch)
    return target


def cache() -> Path:
    """Return the folder of the files; it is made if it isn't there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "hypervisor-telemetry"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
