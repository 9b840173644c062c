"""What a check says about one thing that has to be there, line by line."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to say about one thing, a topic or a subject.

    `severity`: ok, created, warning, missing, different or refused.
    """

    name: str
    severity: str
    sentence: str

    @property
    def is_fault(self) -> bool:
        """Whether it can't be relied on as it is."""
        return self.severity in {"missing", "different", "refused"}
