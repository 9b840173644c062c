"""Dead letters as text for people and programs. Pure.

Keys, headers, errors and payloads come from strangers: characters that a terminal would act on are escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from hypervisor_schemas.dead_letters import DeadLetter
from hypervisor_schemas.errors import RecordError, RegistryUnavailable
from hypervisor_schemas.printable import printable
from hypervisor_schemas.wire.codec import EventDecoder
from hypervisor_telemetry.dead_letter_tools.dead_letters import DeadLetterEntry, RecordPosition

__all__ = ["describe", "hexdump", "json_line", "key_text", "utc_time"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DUMPED_BYTES = 1024


def utc_time(milliseconds: int) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC, to the second; `-` if there is no such time."""
    try:
        at = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return "-"
    return f"{at:%Y-%m-%dT%H:%M:%SZ}" if milliseconds >= 0 else "-"


def key_text(key: bytes | None, width: int | None = None) -> str:
    """A key as text, at most `width` characters of it; `-` for none."""
    if key is None:
        return "-"
    return printable(key.decode("utf-8", "backslashreplace"), width)


def json_line(entry: DeadLetterEntry) -> str:
    """The entry as one line of JSON. A key that isn't UTF-8 is `key_base64`."""
    key: dict[str, Any] = {"key": None}
    if entry.key is not None:
        try:
            key = {"key": entry.key.decode()}
        except UnicodeDecodeError:
            key = {"key_base64": base64.b64encode(entry.key).decode()}
    fields = {
        "place": entry.id.place,
        "service": entry.id.service,
        "topic": entry.id.topic,
        "partition": entry.id.partition,
        "offset": entry.id.offset,
        "output": entry.id.output or None,
        "reason": entry.reason,
        "error": entry.error,
        **key,
        "schema_id": entry.schema_id,
        "bytes": entry.size_bytes,
        "published_at": _utc_time_or_none(entry.published_at_ms),
        "kept_at": _utc_time_or_none(entry.kept_at_ms),
        "replayed_at": _utc_time_or_none(entry.replayed_at_ms),
        "dead_letter_partition": entry.dead_letter_partition,
        "dead_letter_offset": entry.dead_letter_offset,
    }
    return json.dumps(fields)


def describe(entry: DeadLetterEntry, letter: DeadLetter, decoder: EventDecoder, topic: str) -> str:
    """Everything about one dead letter of `topic`, as lines of text."""
    return "\n".join(_description(entry, letter, decoder, topic))


def _description(entry: DeadLetterEntry, letter: DeadLetter, decoder: EventDecoder, topic: str) -> Iterator[str]:
    yield letter.id.place
    yield f"  service    {printable(letter.service)}"
    yield f"  reason     {printable(letter.reason)}"
    yield f"  error      {printable(letter.error)}"
    yield f"  published  {utc_time(letter.timestamp)}"
    position = RecordPosition(topic, entry.dead_letter_partition, entry.dead_letter_offset)
    yield f"  kept       {utc_time(entry.kept_at_ms)} as {position}"
    yield f"  replayed   {'no' if entry.replayed_at_ms is None else utc_time(entry.replayed_at_ms)}"
    if letter.output:
        yield f"  output     {printable(letter.output)}"
    yield f"  key        {key_text(letter.key)}"
    if letter.schema_id is not None:
        yield f"  schema id  {letter.schema_id}"
    for name, content in letter.original_headers:
        text = "(null)" if content is None else printable(content.decode("utf-8", "backslashreplace"))
        yield f"  header     {printable(name)} = {text}"
    if letter.value is None:
        yield "  value      none (a tombstone)"
        return
    yield f"  value      {len(letter.value):,} bytes"
    if letter.output:
        yield "  the output, that nobody took:"
        yield from _json_lines(letter.value)
        return
    try:
        event = decoder.decode(letter.value)
    except (RecordError, RegistryUnavailable) as error:
        yield f"  can't be decoded now: {printable(str(error))}"
        yield from hexdump(letter.value)
    else:
        yield "  the event, as this version decodes it:"
        for line in json.dumps(event.to_dict(), indent=2, ensure_ascii=False).splitlines():
            yield f"    {printable(line)}"


def _json_lines(value: bytes) -> Iterator[str]:
    try:
        text = json.dumps(json.loads(value), indent=2, ensure_ascii=False)
    except ValueError:
        yield from hexdump(value)
    else:
        yield from (f"    {printable(line)}" for line in text.splitlines())


def hexdump(value: bytes, limit: int = DUMPED_BYTES) -> Iterator[str]:
    """At most `limit` bytes, sixteen a line: their position, the bytes in hex, and as ASCII."""
    for at in range(0, min(len(value), limit), 16):
        piece = value[at : min(at + 16, limit)]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        yield f"    {at:08x}  {piece.hex(' '):<47}  {text}"
    if len(value) > limit:
        yield f"    … and {len(value) - limit:,} bytes more"


def _utc_time_or_none(milliseconds: int | None) -> str | None:
    return None if milliseconds is None or milliseconds < 0 else utc_time(milliseconds)
