"""What GovernanceMetrics takes, checked: ids, latencies, scores, and what the callbacks of gauges return. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "LONGEST_TEXT",
    "optional_text",
    "read_count",
    "read_details",
    "read_latency",
    "read_score",
    "read_scores",
    "read_text",
    "read_truth",
]

LONGEST_TEXT = 512
"""Characters of an id or a name. A longer one is most likely a prompt or an argument in the wrong place."""


def read_text(name: str, value: Any) -> str:
    """`value` as a plain string: not empty, not too long, and such that UTF-8 can write it.

    Raises:
        ValueError: It isn't.
    """
    if type(value) is str:
        text = value
    elif isinstance(value, str):
        text = str.__str__(value)  # of a member of an enum of strings: its value
    else:
        raise ValueError(f"{name} must be a string, not {_kind(value)}.")
    if not text:
        raise ValueError(f"{name} must not be empty.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{name} has {len(text)} characters; {LONGEST_TEXT} are the most.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # One such label would make every scrape of the process fail.
            raise ValueError(f"{name} holds half a surrogate pair, which UTF-8 can't write.") from None
    return text


def optional_text(name: str, value: Any) -> str | None:
    """The same; None or an empty string is None.

    Raises:
        ValueError: It is neither.
    """
    return None if value is None or value == "" else read_text(name, value)


def read_truth(name: str, value: Any) -> bool:
    """`value`, which must be True or False: "deny" is true as well, and so is a coroutine that nobody awaited.

    Raises:
        ValueError: It is something else.
    """
    if value is True or value is False:
        return bool(value)
    raise ValueError(f"{name} must be True or False, not {_kind(value)}.")


def read_details(value: Any) -> dict[str, Any]:
    """A copy of a mapping; None is an empty one.

    Raises:
        ValueError: It is something else.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"details must be a mapping, not {_kind(value)}.")
    return dict(value or {})


def read_latency(value: Any) -> float:
    """Milliseconds, finite, 0 or more.

    Raises:
        ValueError: They aren't.
    """
    milliseconds = _read_number("evaluation_ms", value)
    if milliseconds >= 0:
        return milliseconds
    raise ValueError(f"evaluation_ms must be 0 or more, not {milliseconds!r}.")


def read_score(value: Any) -> float:
    """A trust score, 0 to 1000.

    Raises:
        ValueError: It isn't.
    """
    score = _read_number("score", value)
    if 0 <= score <= 1000:
        return score
    raise ValueError(f"score must lie between 0 and 1000; {score!r} doesn't.")


def read_count(value: Any) -> float:
    """How many agents are active, 0 or more.

    Raises:
        ValueError: It is no such number.
    """
    count = _read_number("the number of active agents", value)
    if count >= 0:
        return count
    raise ValueError(f"the number of active agents must be 0 or more, not {count!r}.")


def read_scores(answer: Any) -> Iterator[tuple[str, float] | ValueError]:
    """The agents and scores in what a callback returned, one by one; in place of one that can't be used, why.

    `answer`: a mapping of agent to score, or an iterable of pairs (score, attributes) or of OpenTelemetry's
    Observations. Of the attributes, `agent_id` is read; others are passed over.

    Raises:
        Exception: Whatever iterating over it raises.
    """
    is_mapping = isinstance(answer, Mapping)
    if not is_mapping and (isinstance(answer, str | bytes) or not hasattr(answer, "__iter__")):
        raise ValueError(f"it returned {_kind(answer)}, not a mapping and not an iterable of observations.")
    for entry in answer.items() if is_mapping else answer:
        try:
            agent, score = entry if is_mapping else _read_observation(entry)
            yield read_text("agent_id", agent), read_score(score)
        except ValueError as error:
            yield error


def _read_observation(entry: Any) -> tuple[Any, Any]:
    """Agent and score."""
    if isinstance(entry, tuple | list) and len(entry) == 2:
        score, attributes = entry
    else:
        score, attributes = getattr(entry, "value", None), getattr(entry, "attributes", None)
    if not isinstance(attributes, Mapping) or "agent_id" not in attributes:
        raise ValueError("an observation must be a pair (score, attributes), and agent_id one of the attributes.")
    return attributes["agent_id"], score


def _read_number(name: str, value: Any) -> float:
    if type(value) is not float:
        if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
            raise ValueError(f"{name} must be a number, not {_kind(value)}.")
        try:
            value = float(value)
        except (OverflowError, TypeError) as error:
            raise ValueError(f"{name} must be a number: {error}.") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}.")
    return float(value) + 0.0  # -0.0 is 0.0


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__}"
