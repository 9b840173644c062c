"""The commands `dead-letters list`, `show` and `replay`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Annotated

import typer

from hypervisor_schemas.connection import registry_url
from hypervisor_schemas.errors import KafkaError, SettingError
from hypervisor_schemas.printable import printable
from hypervisor_schemas.timestamps import microseconds
from hypervisor_schemas.wire.codec import EventDecoder
from hypervisor_schemas.wire.registry import SchemaRegistry
from hypervisor_telemetry.cli.cli_support import Bootstrap, Wait, speaking
from hypervisor_telemetry.dead_letter_tools.dead_letters import (
    DeadLetterEntry,
    DeadLetterTopic,
    RecordPosition,
    Selection,
)
from hypervisor_telemetry.dead_letter_tools.replay import ReplayResult, plan_replay, replay
from hypervisor_telemetry.dead_letter_tools.text import describe, json_line, key_text, utc_time

__all__ = ["dead_letters"]

dead_letters = typer.Typer(
    help="The records that services could not use: look at them, and replay them after a fix.",
    no_args_is_help=True,
)

PositionArgument = Annotated[
    str | None,
    typer.Argument(metavar="PLACE", help="One record: topic/partition/offset, as `list` shows it."),
]
Service = Annotated[str | None, typer.Option(help="Only those of this service.")]
Reason = Annotated[str | None, typer.Option(help="Only those with this reason.")]
Topic = Annotated[str | None, typer.Option(help="Only those from this topic, with or without the prefix.")]
Partition = Annotated[int | None, typer.Option(min=0, help="Only those from this partition.")]
Session = Annotated[
    str | None,
    typer.Option(help="Only those whose record key is this: the session's id (of governance events: the agent's)."),
]
Since = Annotated[
    str | None,
    typer.Option(help="Only those kept at this time or later, ISO 8601; without a zone it is UTC."),
]
Until = Annotated[str | None, typer.Option(help="Only those kept before this time, ISO 8601.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many, in the order of a replay.")]


@dead_letters.command("list")
def list_(
    *,
    place: PositionArgument = None,
    service: Service = None,
    reason: Reason = None,
    topic: Topic = None,
    partition: Partition = None,
    session: Session = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    json: Annotated[bool, typer.Option("--json", help="JSON lines, and nothing else.")] = False,
    bootstrap_servers: Bootstrap = None,
    wait: Wait = 10.0,
) -> None:
    """One line for each, and how many there are of each service and reason."""
    with speaking():
        selection = _selection(
            position=place,
            service=service,
            reason=reason,
            topic=topic,
            partition=partition,
            session=session,
            since=since,
            until=until,
        )
        with _open(bootstrap_servers, wait) as letters:
            entries = letters.index(selection)[:limit]
    if json:
        for entry in entries:
            typer.echo(json_line(entry))
        return
    if not entries:
        typer.echo("no dead letters" if selection == Selection() else "no dead letters of this kind")
        return
    _table(_rows(entries))
    typer.echo()
    _table(_summary(entries))
    typer.echo(f"\nOne of them: hypervisor-telemetry dead-letters show {entries[0].id.place}")
    typer.echo("What a replay would do: hypervisor-telemetry dead-letters replay --dry-run")


@dead_letters.command()
def show(
    *,
    place: PositionArgument = None,
    service: Service = None,
    reason: Reason = None,
    topic: Topic = None,
    partition: Partition = None,
    session: Session = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    bootstrap_servers: Bootstrap = None,
    wait: Wait = 10.0,
) -> None:
    """Everything about one, or about each that the options let through: headers, error, and the event itself.

    An id of a schema registry is asked at SCHEMA_REGISTRY_URL.
    """
    with speaking():
        selection = _selection(
            position=place,
            service=service,
            reason=reason,
            topic=topic,
            partition=partition,
            session=session,
            since=since,
            until=until,
        )
        registry = registry_url(os.environ)
        decoder = EventDecoder(SchemaRegistry(registry).schema_by_id if registry else None)
        shown = 0
        with _open(bootstrap_servers, wait) as letters:
            for entry in letters.index(selection)[:limit]:
                letter = letters.fetch([entry]).get(entry.id)
                if letter is not None:
                    typer.echo(("\n" if shown else "") + describe(entry, letter, decoder, letters.name))
                    shown += 1
        if not shown:
            raise KafkaError(
                f"There is no such dead letter in {letters.name}; "
                "`hypervisor-telemetry dead-letters list` shows them."
            )


@dead_letters.command("replay")
def replay_(
    *,
    place: PositionArgument = None,
    service: Service = None,
    reason: Reason = None,
    topic: Topic = None,
    partition: Partition = None,
    session: Session = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be replayed, and change nothing.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Replay also what was replayed before.")] = False,
    bootstrap_servers: Bootstrap = None,
    wait: Wait = 10.0,
) -> None:
    """Send records back to their topics, for the service that could not use them; others ignore them.

    Each goes once, in order, unless --again is given, however often this is run, and also when it is killed. A
    replay that begins ends one that still runs.
    """
    with speaking():
        selection = _selection(
            position=place,
            service=service,
            reason=reason,
            topic=topic,
            partition=partition,
            session=session,
            since=since,
            until=until,
        )
        with _open(bootstrap_servers, wait) as letters:
            if dry_run:
                result = plan_replay(letters, selection, _say, limit=limit, again=again)
            else:
                result = replay(letters, selection, _say, limit=limit, again=again)
    if dry_run and result.replayed:
        _table(_rows(result.replayed))
    elif result.replayed:
        _table(_replayed(result.replayed))
    typer.echo("".join(_sentences(result, dry_run=dry_run)))
    if result.refused:
        raise typer.Exit(1)


def _sentences(result: ReplayResult, *, dry_run: bool) -> Iterator[str]:
    yield f"{'would replay' if dry_run else 'replayed'} {len(result.replayed):,}"
    if again := sum(entry.replayed_at_ms is not None for entry in result.replayed):
        yield f" ({again:,} of them again)"
    if result.replayed_before:
        yield f", replayed before {result.replayed_before:,}"
    if result.refused:
        yield f", not replayed {len(result.refused):,}"


def _open(bootstrap_servers: str | None, wait: float) -> DeadLetterTopic:
    return DeadLetterTopic(os.environ, bootstrap_servers, _say, wait=wait)


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _selection(
    *,
    position: str | None,
    service: str | None,
    reason: str | None,
    topic: str | None,
    partition: int | None,
    session: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    offset = None
    if position is not None:
        if topic is not None or partition is not None:
            raise SettingError("PLACE", "names a topic and a partition already; leave --topic and --partition out.")
        try:
            topic, partition, offset = RecordPosition.parse(position)
        except ValueError as error:
            raise SettingError("PLACE", f"can't be {position!r}: {error}.") from None
    return Selection(
        service=service,
        reason=reason,
        topic=topic,
        partition=partition,
        offset=offset,
        session=session,
        since_ms=_milliseconds("--since", since),
        until_ms=_milliseconds("--until", until),
    )


def _milliseconds(option: str, text: str | None) -> int | None:
    """An ISO 8601 time in milliseconds since 1970, rounded up."""
    if text is None:
        return None
    try:
        return -(-microseconds(datetime.fromisoformat(text)) // 1000)
    except (ValueError, OverflowError):
        raise SettingError(
            option, f"can't be {text!r}: it must be a time in ISO 8601, such as 2026-01-31T12:00:00Z."
        ) from None


def _rows(entries: Sequence[DeadLetterEntry]) -> Iterator[Sequence[str]]:
    yield "PLACE", "SERVICE", "REASON", "KEPT", "KEY", "REPLAYED"
    for entry in entries:
        replayed = "no" if entry.replayed_at_ms is None else utc_time(entry.replayed_at_ms)
        yield (
            entry.id.place,
            entry.id.service,
            entry.reason,
            utc_time(entry.kept_at_ms),
            key_text(entry.key, 40),
            replayed,
        )


def _summary(entries: Sequence[DeadLetterEntry]) -> Iterator[Sequence[str]]:
    yield "SERVICE", "REASON", "DEAD LETTERS", "REPLAYED"
    totals = Counter((entry.id.service, entry.reason) for entry in entries)
    replayed = Counter((entry.id.service, entry.reason) for entry in entries if entry.replayed_at_ms is not None)
    for (service, reason), total in sorted(totals.items()):
        yield service, reason, f"{total:,}", f"{replayed[service, reason]:,}"


def _replayed(done: Sequence[DeadLetterEntry]) -> Iterator[Sequence[str]]:
    yield "TOPIC/PARTITION", "FOR", "RECORDS", "OFFSETS"
    parts: dict[tuple[str, int, str], list[int]] = {}
    for entry in done:
        parts.setdefault((entry.id.topic, entry.id.partition, entry.id.service), []).append(entry.id.offset)
    for (topic, partition, service), offsets in parts.items():
        yield f"{topic}/{partition}", service, f"{len(offsets):,}", f"{offsets[0]}-{offsets[-1]}"


def _table(rows: Iterable[Sequence[str]]) -> None:
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
