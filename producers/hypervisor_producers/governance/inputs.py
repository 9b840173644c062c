"""Checks of everything that GovernanceMetrics is given: ids, latencies, scores, results of callbacks. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "MAX_TEXT_CHARACTERS",
    "read_bool",
    "read_count",
    "read_details",
    "read_latency",
    "read_optional_text",
    "read_score",
    "read_scores",
    "read_text",
]

MAX_TEXT_CHARACTERS = 512
"""The length of the longest id or name. A longer text is most likely a prompt or an argument passed by mistake."""


def read_text(name: str, value: Any) -> str:
    """`value` as a plain string. It must be text that UTF-8 can write, not empty and not too long.

    Raises:
        ValueError: It isn't such text.
    """
    if type(value) is str:
        text = value
    elif isinstance(value, str):
        text = str.__str__(value)  # the value of a member of a string enum
    else:
        raise ValueError(f"{name} must be a string, not {_type_name(value)}.")
    if not text:
        raise ValueError(f"{name} must not be empty.")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"{name} has {len(text)} characters; {MAX_TEXT_CHARACTERS} are the most.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # One such label would make every scrape of the process fail.
            raise ValueError(f"{name} holds half a surrogate pair, which UTF-8 can't write.") from None
    return text


def read_optional_text(name: str, value: Any) -> str | None:
    """`value` as `read_text` reads it; None for None or an empty string.

    Raises:
        ValueError: It is neither absent nor such text.
    """
    return None if value is None or value == "" else read_text(name, value)


def read_bool(name: str, value: Any) -> bool:
    """`value`, which must be True or False. Truth isn't enough: "deny" is true, and so is an unawaited coroutine.

    Raises:
        ValueError: It is neither True nor False.
    """
    if value is True or value is False:
        return bool(value)
    raise ValueError(f"{name} must be True or False, not {_type_name(value)}.")


def read_details(value: Any) -> dict[str, Any]:
    """A copy of the mapping `value`; empty for None.

    Raises:
        ValueError: It is no mapping.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"details must be a mapping, not {_type_name(value)}.")
    return dict(value or {})


def read_latency(value: Any) -> float:
    """A latency in milliseconds, finite and 0 or more.

    Raises:
        ValueError: `value` is no such number.
    """
    milliseconds = _read_number("evaluation_ms", value)
    if milliseconds >= 0:
        return milliseconds
    raise ValueError(f"evaluation_ms must be 0 or more, not {milliseconds!r}.")


def read_score(value: Any) -> float:
    """A trust score, 0 to 1000.

    Raises:
        ValueError: `value` is no such number.
    """
    score = _read_number("score", value)
    if 0 <= score <= 1000:
        return score
    raise ValueError(f"score must lie between 0 and 1000; {score!r} doesn't.")


def read_count(value: Any) -> float:
    """The number of active agents, 0 or more.

    Raises:
        ValueError: `value` is no such number.
    """
    count = _read_number("the number of active agents", value)
    if count >= 0:
        return count
    raise ValueError(f"the number of active agents must be 0 or more, not {count!r}.")


def read_scores(answer: Any) -> Iterator[tuple[str, float] | ValueError]:
    """Each agent with its score, from the result of a callback; an error in place of one that can't be used.

    `answer` is a mapping of agent to score, or an iterable of pairs (score, attributes) or of OpenTelemetry's
    Observations. Of the attributes only `agent_id` is read.

    Raises:
        Exception: Iterating over `answer` raised it.
    """
    is_mapping = isinstance(answer, Mapping)
    if not is_mapping and (isinstance(answer, str | bytes) or not hasattr(answer, "__iter__")):
        raise ValueError(f"it returned {_type_name(answer)}, not a mapping and not an iterable of observations.")
    for entry in answer.items() if is_mapping else answer:
        try:
            agent, score = entry if is_mapping else _read_observation(entry)
            yield read_text("agent_id", agent), read_score(score)
        except ValueError as error:
            yield error


def _read_observation(entry: Any) -> tuple[Any, Any]:
    """The agent and the score of one observation."""
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
            raise ValueError(f"{name} must be a number, not {_type_name(value)}.")
        try:
            value = float(value)
        except (OverflowError, TypeError) as error:
            raise ValueError(f"{name} must be a number: {error}.") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}.")
    return float(value) + 0.0  # -0.0 is 0.0


def _type_name(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__}"
