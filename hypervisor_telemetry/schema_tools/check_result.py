"""The results of checks, such as `topics check` and `schemas check`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CheckResult"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of checking one thing, a topic or a subject.

    `status`: ok, created, warning, missing, different or refused.
    """

    name: str
    status: str
    sentence: str

    @property
    def is_fault(self) -> bool:
        """Whether the thing can't be relied on as it is."""
        return self.status in {"missing", "different", "refused"}
