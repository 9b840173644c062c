"""The resident memory of a process."""

from __future__ import annotations

from pathlib import Path

__all__ = ["resident"]


def resident(pid: int | str) -> float:
    """Return the resident memory in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    [kilobytes] = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(kilobytes) * 1024 / 1e6
