"""Read tokens: how far the log was written, as a compact text, to ask for answers that include it. Pure.

Form: `topic:partition.offset:partition.offset~topic:…`, sorted; all of it may stand in a URL as it is. An offset is
the first one that need not be included. Nothing written is the empty text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["MAX_TOKEN_CHARACTERS", "read_token", "write_token"]

MAX_TOKEN_CHARACTERS = 16_384
"""A thousand partitions and more."""

_PART = re.compile(r"[A-Za-z0-9._-]{1,249}(:[0-9]{1,10}\.[0-9]{1,19})+")


def write_token(offsets: Mapping[tuple[str, int], int]) -> str:
    """The token of these next offsets, per topic and partition."""
    of_topics: dict[str, list[str]] = {}
    for (topic, partition), offset in sorted(offsets.items()):
        of_topics.setdefault(topic, [topic]).append(f"{partition}.{offset}")
    return "~".join(":".join(parts) for parts in of_topics.values())


def read_token(token: str) -> dict[tuple[str, int], int]:
    """The offsets that a token was made of.

    Raises:
        ValueError: It is no token.
    """
    offsets: dict[tuple[str, int], int] = {}
    for part in token.split("~") if token else ():
        if not _PART.fullmatch(part):
            raise _not_a_token()
        topic, *places = part.split(":")
        for place in places:
            partition, offset = map(int, place.split("."))
            if partition >= 2**31 or offset >= 2**63:
                raise _not_a_token()
            key = topic, partition
            offsets[key] = max(offset, offsets.get(key, 0))
    return offsets


def _not_a_token() -> ValueError:
    return ValueError("This is not a read token; give the `token` of a publisher's flush() as it is.")
