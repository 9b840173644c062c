"""Causal trace ids: a span and its parent in one short string, and their form in W3C Trace Context.

Format: `{trace_id}/{span_id}[/{parent_span_id}]`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from hypervisor_schemas.ids import random_hex
from hypervisor_schemas.public import public

__all__ = ["CausalTraceId", "W3CTrace", "w3c_span_id", "w3c_trace_id"]


@dataclass(frozen=True, slots=True)
class W3CTrace:
    """The ids of one span in W3C Trace Context: 32 and 16 lower-case hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_span_id: str | None = None

    @property
    def traceparent(self) -> str:
        """The `traceparent` header, version 00, sampled."""
        return f"00-{self.trace_id}-{self.span_id}-01"


@public
@dataclass(frozen=True, slots=True)
class CausalTraceId:
    """One span in a tree of delegations.

    `trace_id` has 12 hexadecimal digits, `span_id` and `parent_span_id` have 8. `depth` counts from the root, 0.
    """

    trace_id: str = field(default_factory=lambda: random_hex(12))
    span_id: str = field(default_factory=lambda: random_hex(8))
    parent_span_id: str | None = None
    depth: int = 0

    def child(self) -> CausalTraceId:
        """A new span under this one."""
        return CausalTraceId(self.trace_id, random_hex(8), self.span_id, self.depth + 1)

    def sibling(self) -> CausalTraceId:
        """A new span beside this one, with the same parent and depth."""
        return CausalTraceId(self.trace_id, random_hex(8), self.parent_span_id, self.depth)

    @property
    def full_id(self) -> str:
        """The id as text: `trace/span`, or `trace/span/parent` if there is a parent."""
        path = f"{self.trace_id}/{self.span_id}"
        return f"{path}/{self.parent_span_id}" if self.parent_span_id else path

    @classmethod
    def from_string(cls, text: str) -> CausalTraceId:
        """The span of a `full_id`. The text has no depth: it becomes 1 with a parent (it may be more), else 0.

        Raises:
            ValueError: The text has not two or three non-empty parts. They need not be hexadecimal.
        """
        parts = text.split("/")
        if len(parts) not in {2, 3} or not all(parts):
            raise ValueError(
                f"A causal trace id has the form trace/span or trace/span/parent, each part non-empty; "
                f"{text!r} has not."
            )
        trace_id, span_id, *parent = parts
        return cls(trace_id, span_id, parent[0] if parent else None, len(parent))

    def is_ancestor_of(self, other: CausalTraceId) -> bool:
        """Whether `other` is deeper in the same trace, or names this span as its parent.

        The second rule helps where the depth was lost on the way through a string. A span is never an ancestor of
        itself or of its own parent, whatever their depths are.
        """
        if self.trace_id != other.trace_id or other.span_id in {self.span_id, self.parent_span_id}:
            return False
        return other.depth > self.depth or other.parent_span_id == self.span_id

    def to_w3c(self) -> W3CTrace:
        """This span in W3C Trace Context. The same id gives the same form everywhere."""
        parent = w3c_span_id(self.parent_span_id) if self.parent_span_id else None
        return W3CTrace(w3c_trace_id(self.trace_id), w3c_span_id(self.span_id), parent)

    @classmethod
    def from_traceparent(cls, traceparent: str) -> CausalTraceId:
        """The span of a `traceparent` header, with the short ids if the header was made from such, else whole ones.

        Raises:
            ValueError: The text is no `traceparent` of W3C Trace Context.
        """
        match = _TRACEPARENT.fullmatch(traceparent.strip())
        if not match or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
            raise ValueError(f"{traceparent!r} is not a traceparent; its form is 00-<32 hex>-<16 hex>-<2 hex>.")
        trace_id, span_id = match["trace"], match["span"]
        if not trace_id.strip("0") or not span_id.strip("0"):
            raise ValueError(f"{traceparent!r} has an id of zeros only, which W3C Trace Context calls invalid.")
        return cls(_shorten(trace_id, 12), _shorten(span_id, 8))

    def __str__(self) -> str:
        return self.full_id


def w3c_trace_id(trace_id: str) -> str:
    """The trace id in 32 hexadecimal digits.

    An id of 12 digits gets 20 digits of its own hash in front, one of 32 stays, and any other id is hashed whole.
    Zeros in front would not do: samplers read the low 56 bits as a random number, and some read all of them.
    """
    return _lengthen(trace_id, short=12, long=32)


def w3c_span_id(span_id: str) -> str:
    """The span id in 16 hexadecimal digits.

    An id of 8 digits gets 8 digits of its own hash in front, one of 16 stays, and any other id is hashed whole.
    """
    return _lengthen(span_id, short=8, long=16)


_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?"
)
_HEX_DIGITS = frozenset("0123456789abcdef")


def _hash(text: str) -> str:
    # Lone surrogates can't be UTF-8; an id of them is as good as any other.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _lengthen(text: str, short: int, long: int) -> str:
    if _HEX_DIGITS.issuperset(text):
        if len(text) == short:
            return _hash(text)[: long - short] + text
        # W3C calls an id of zeros only invalid, so that one is hashed like any other.
        if len(text) == long and text.strip("0"):
            return text
    return _hash(text)[:long]


def _shorten(text: str, short: int) -> str:
    tail = text[-short:]
    return tail if _lengthen(tail, short, len(text)) == text else text
