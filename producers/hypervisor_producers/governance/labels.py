"""The labels of the governance metrics in an agent's process, and the limit on their series. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hypervisor_producers.governance.inputs import read_text
from hypervisor_schemas.public import public

__all__ = ["ALLOW", "DENY", "OVERFLOW", "GovernanceLabels", "LabelValues", "SeriesLimit"]

ALLOW, DENY = "allow", "deny"
"""The values of the label `decision`."""

OVERFLOW = "__overflow__"
"""The label value of the series that all others share once the limit is reached."""

LabelValues: TypeAlias = tuple[str, ...]
"""The values of the labels that were chosen besides `decision`, in the order of `GovernanceLabels.names`."""


@public
@dataclass(frozen=True, slots=True)
class GovernanceLabels:
    """The labels that metrics of decisions have besides `decision`. By default there are none.

    Each label multiplies series: with both, every combination of decision, agent and tool has one series of each
    counter and 22 of the histogram. Choose a label with True, or with a function that maps many ids to one value,
    such as `lambda did: did.split(":")[1]`. After `max_series` different values, all further ones share one series
    whose labels are `__overflow__`. At most `max_series` trust scores are shown; they always have the agent as a
    label.

    Raises:
        ValueError: `max_series` is below 1.
    """

    agent_id: bool | Callable[[str], str] = False
    tool_name: bool | Callable[[str], str] = False
    max_series: int = 1000

    def __post_init__(self) -> None:
        if self.max_series < 1:
            raise ValueError(f"max_series must be 1 or more, not {self.max_series}.")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the labels that were chosen."""
        return ("agent_id",) * bool(self.agent_id) + ("tool_name",) * bool(self.tool_name)

    def values(self, agent_id: str, tool_name: str) -> LabelValues:
        """The values of the chosen labels for this agent and tool.

        Raises:
            Exception: A function of a label raised it.
            ValueError: A function returned no text that can be a label.
        """
        chosen = [_value("agent_id", self.agent_id, agent_id)] if self.agent_id else []
        if self.tool_name:
            chosen.append(_value("tool_name", self.tool_name, tool_name))
        return tuple(chosen)


def _value(name: str, choice: bool | Callable[[str], str], text: str) -> str:
    return read_text(f"the label {name}", choice(text)) if callable(choice) else text


class SeriesLimit:
    """Gives the first `max_series` different label values series of their own. The caller holds a lock."""

    def __init__(self, max_series: int) -> None:
        self._max_series = max_series
        self._known: set[LabelValues] = set()

    def admit(self, values: LabelValues) -> LabelValues:
        """The same values, or those of the overflow series."""
        if values in self._known:
            return values
        if len(self._known) >= self._max_series:
            return (OVERFLOW,) * len(values)
        self._known.add(values)
        return values
