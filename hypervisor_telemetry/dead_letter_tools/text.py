"""Dead letters as text for people and programs. Pure.

Keys, headers, errors and payloads come from anybody: what a terminal would act on is never printed as it is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from hypervisor_schemas.dead_letters import DeadLetter
from hypervisor_schemas.errors import RecordError, RegistryUnavailable
from hypervisor_schemas.wire.codec import EventDecoder
from hypervisor_telemetry.cli.terminal_text import printable, shortened
from hypervisor_telemetry.dead_letter_tools.dead_letters import Kept

__all__ = ["as_json", "described", "hexdump", "key_text", "moment"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DUMPED_BYTES = 1024


def moment(milliseconds: int) -> str:
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
    text = printable(key.decode("utf-8", "backslashreplace"))
    return text if width is None else shortened(text, width)


def as_json(kept: Kept) -> str:
    """One line of JSON. A key that isn't UTF-8 is `key_base64`."""
    key: dict[str, Any] = {"key": None}
    if kept.key is not None:
        try:
            key = {"key": kept.key.decode()}
        except UnicodeDecodeError:
            key = {"key_base64": base64.b64encode(kept.key).decode()}
    fields = {
        "place": kept.id.place,
        "service": kept.id.service,
        "topic": kept.id.topic,
        "partition": kept.id.partition,
        "offset": kept.id.offset,
        "output": kept.id.output or None,
        "reason": kept.reason,
        "error": kept.error,
        **key,
        "schema_id": kept.schema_id,
        "bytes": kept.size,
        "published_at": _moment_or_none(kept.published_at),
        "kept_at": _moment_or_none(kept.kept_at),
        "replayed_at": _moment_or_none(kept.replayed_at),
        "dead_letter_partition": kept.partition,
        "dead_letter_offset": kept.offset,
    }
    return json.dumps(fields)


def described(kept: Kept, letter: DeadLetter, decoder: EventDecoder, topic: str) -> str:
    """Everything about one dead letter of `topic`, in lines."""
    return "\n".join(_description(kept, letter, decoder, topic))


def _description(kept: Kept, letter: DeadLetter, decoder: EventDecoder, topic: str) -> Iterator[str]:
    yield letter.id.place
    yield f"  service    {printable(letter.service)}"
    yield f"  reason     {printable(letter.reason)}"
    yield f"  error      {printable(letter.error)}"
    yield f"  published  {moment(letter.timestamp)}"
    yield f"  kept       {moment(kept.kept_at)} as {topic}/{kept.partition}/{kept.offset}"
    yield f"  replayed   {'no' if kept.replayed_at is None else moment(kept.replayed_at)}"
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
    """Sixteen bytes a line: where, the bytes in hex, and what of them is printable ASCII; `limit` bytes at most."""
    for at in range(0, min(len(value), limit), 16):
        piece = value[at : min(at + 16, limit)]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        yield f"    {at:08x}  {piece.hex(' '):<47}  {text}"
    if len(value) > limit:
        yield f"    … and {len(value) - limit:,} bytes more"


def _moment_or_none(milliseconds: int | None) -> str | None:
    return None if milliseconds is None or milliseconds < 0 else moment(milliseconds)
