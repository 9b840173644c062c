"""Where a stream stands: an offset of every partition, and the text of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from hypervisor_consumers.runtime.processor import Place
from hypervisor_schemas.read_token import write_token

__all__ = ["Vector"]


class Vector:
    """Per partition the first offset that wasn't sent yet; 0 of one that isn't named.

    The text is that of a read token. It is made after every event, so only the topic that moved is written anew.
    """

    def __init__(self, offsets: Mapping[Place, int]) -> None:
        self._offsets: dict[str, dict[int, int]] = {}
        for place, offset in offsets.items():
            self._offsets.setdefault(place.topic, {})[place.partition] = offset
        self._texts = {topic: _text(topic, parts) for topic, parts in sorted(self._offsets.items())}

    def of(self, place: Place) -> int:
        """The first offset of the partition that wasn't sent yet."""
        return self._offsets.get(place.topic, {}).get(place.partition, 0)

    def move(self, place: Place, offset: int) -> None:
        """Everything before this offset of the partition is sent."""
        parts = self._offsets.setdefault(place.topic, {})
        if offset <= parts.get(place.partition, 0):
            return
        parts[place.partition] = offset
        is_new = place.topic not in self._texts
        self._texts[place.topic] = _text(place.topic, parts)
        if is_new:
            self._texts = dict(sorted(self._texts.items()))

    def behind(self, offsets: Mapping[Place, int]) -> dict[Place, int]:
        """Those of `offsets` that are further than this."""
        return {place: offset for place, offset in offsets.items() if offset > self.of(place)}

    def __str__(self) -> str:
        return "~".join(self._texts.values())


def _text(topic: str, parts: Mapping[int, int]) -> str:
    return write_token({(topic, partition): offset for partition, offset in parts.items()})
