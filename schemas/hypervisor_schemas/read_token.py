"""Read tokens: offsets up to which the log was written, as compact text, to ask for answers with all before. Pure.

The form is `topic:partition.offset:partition.offset~topic:…`, sorted; it needs no quoting in a URL. An offset is
the first one that need not be included. If nothing was written, the token is the empty text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["MAX_TOKEN_CHARACTERS", "read_token", "write_token"]

MAX_TOKEN_CHARACTERS = 16_384
"""The length of the longest token: enough for more than a thousand partitions."""

_PART = re.compile(r"[A-Za-z0-9._-]{1,249}(:[0-9]{1,10}\.[0-9]{1,19})+")


def write_token(offsets: Mapping[tuple[str, int], int]) -> str:
    """The token of these next offsets per topic and partition."""
    parts_by_topic: dict[str, list[str]] = {}
    for (topic, partition), offset in sorted(offsets.items()):
        parts_by_topic.setdefault(topic, [topic]).append(f"{partition}.{offset}")
    return "~".join(":".join(parts) for parts in parts_by_topic.values())


def read_token(token: str) -> dict[tuple[str, int], int]:
    """The offsets in a token, per topic and partition.

    Raises:
        ValueError: The text is no token.
    """
    offsets: dict[tuple[str, int], int] = {}
    for part in token.split("~") if token else ():
        if not _PART.fullmatch(part):
            raise _not_a_token()
        topic, *partitions = part.split(":")
        for partition_and_offset in partitions:
            partition, offset = map(int, partition_and_offset.split("."))
            if partition >= 2**31 or offset >= 2**63:
                raise _not_a_token()
            key = topic, partition
            offsets[key] = max(offset, offsets.get(key, 0))
    return offsets


def _not_a_token() -> ValueError:
    return ValueError("This is not a read token; give the `token` of a publisher's flush() as it is.")
