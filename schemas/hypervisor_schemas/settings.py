"""Our own settings, each declared once; `docs/settings.md` is made from this table.

`KAFKA_*` settings go to librdkafka unchanged (see `connection`). `SCHEMA_REGISTRY_URL` and `OTEL_*` have the
meaning that their makers define.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.secret_files import secret_text
from hypervisor_schemas.topics import is_legal_prefix

__all__ = ["SETTINGS", "Setting", "Settings"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One environment variable: its name, default, the function that reads its text, and its meaning."""

    name: str
    default: T
    read: Callable[[str], T]
    meaning: str
    secret: bool = False

    def of(self, environ: Mapping[str, str]) -> T:
        """The value in this environment. An empty text counts as not set. A secret may come from a file.

        Raises:
            SettingError: The text is no such value, or the file of a secret can't be used.
        """
        text = (secret_text(environ, self.name) if self.secret else environ.get(self.name, "")).strip()
        if not text:
            return self.default
        try:
            return self.read(text)
        except ValueError as error:
            shown = "this value" if self.secret else repr(text)
            raise SettingError(self.name, f"can't be {shown}: {error}.") from None


def _prefix(text: str) -> str:
    if not is_legal_prefix(text):
        raise ValueError("it must be letters, digits, '.', '_' or '-', at most 200 of them")
    return text


def _number(least: float, most: float, kind: type[Any] = int) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError("it must be a number") from None
        if not least <= value <= most:
            raise ValueError(f"it must be between {least} and {most}")
        return value

    return read


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _duration(least: float, most: float) -> Callable[[str], float]:
    number = _number(least, most, float)

    def read(text: str) -> float:
        digits, unit = (text[:-1], text[-1].lower()) if text[-1].lower() in _SECONDS else (text, "s")
        try:
            seconds = float(digits) * _SECONDS[unit]
        except ValueError:
            raise ValueError("it must be seconds, or a number with s, m, h, d or w, such as 30d") from None
        return float(number(str(seconds)))

    return read


def _word(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"it must be one of: {', '.join(words)}")
        return text.lower()

    return read


def _words(*words: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        chosen = {part.strip().lower() for part in text.split(",")}
        if not chosen <= set(words):
            raise ValueError(f"it must be some of these, separated by commas: {', '.join(words)}")
        return tuple(word for word in words if word in chosen)

    return read


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ValueError("between two commas something is missing")
    return parts


class Settings:
    """The table of all settings."""

    TOPIC_PREFIX: Setting[str] = Setting(
        "TELEMETRY_TOPIC_PREFIX",
        "hypervisor.",
        _prefix,
        "In front of every topic name and every consumer group id.",
    )
    REPLICATION_FACTOR: Setting[int | None] = Setting(
        "TELEMETRY_REPLICATION_FACTOR",
        None,
        _number(1, 32767),
        "Replicas of every topic that `topics apply` creates; without it, the broker's default.",
    )
    MIN_INSYNC_REPLICAS: Setting[int | None] = Setting(
        "TELEMETRY_MIN_INSYNC_REPLICAS",
        None,
        _number(1, 32767),
        "`min.insync.replicas` of every topic that `topics apply` creates; without it, the broker's default.",
    )
    MAX_EVENT_BYTES: Setting[int] = Setting(
        "TELEMETRY_MAX_EVENT_BYTES",
        900 * 1024,
        _number(1024, 100 * 1024 * 1024),
        "An event whose record is larger (in bytes) is dropped by the publisher and counted.",
    )
    FLUSH_TIMEOUT: Setting[float] = Setting(
        "TELEMETRY_FLUSH_TIMEOUT",
        5.0,
        _number(0, 3600, float),
        "Seconds that an agent's exit waits at most for what its publisher still holds.",
    )
    TRACEPARENT: Setting[str] = Setting(
        "TELEMETRY_TRACEPARENT",
        "off",
        _word("on", "off"),
        "`on` adds the header `traceparent` to records with a causal trace, for foreign consumers; it nearly "
        "halves the rate of publishing.",
    )
    API_TOKEN: Setting[str | None] = Setting(
        "TELEMETRY_API_TOKEN",
        None,
        str,
        "Bearer token of `/v1/*`. A service that serves `/v1/*` refuses to bind anywhere but loopback without it.",
        secret=True,
    )
    DATABASE_URL: Setting[str | None] = Setting(
        "TELEMETRY_DATABASE_URL",
        None,
        str,
        "Where the event index is kept, in place of `--database`: `sqlite:///PATH` or "
        "`postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME`.",
        secret=True,
    )
    INDEX_RETENTION: Setting[float | None] = Setting(
        "TELEMETRY_INDEX_RETENTION",
        None,
        _duration(60, 10_000_000_000),
        "How long the event index keeps events, by the time they happened: seconds, or a number with `s`, `m`, "
        "`h`, `d` or `w`, such as `30d`. Without it, for good.",
    )
    QUERY_TIMEOUT: Setting[float] = Setting(
        "TELEMETRY_QUERY_TIMEOUT",
        10.0,
        _number(0.1, 600, float),
        "Seconds after which a statement of a question to the event index is ended (503).",
    )
    INDEX_URL: Setting[str] = Setting(
        "TELEMETRY_INDEX_URL",
        "http://127.0.0.1:8002",
        str,
        "The `event-index` that `query` and `tail` ask, in place of `--url`; with `TELEMETRY_API_TOKEN`, where it "
        "wants one.",
    )
    COMMIT_INTERVAL: Setting[float] = Setting(
        "TELEMETRY_COMMIT_INTERVAL",
        0.2,
        _number(0.01, 60, float),
        "Seconds between two commits of a service; what was read since the last one is not shown yet.",
    )
    DUPLICATE_WINDOW: Setting[int] = Setting(
        "TELEMETRY_DUPLICATE_WINDOW",
        100_000,
        _number(1, 100_000_000),
        "An event counts once if it comes again within so many records of its partition (at most twice as many).",
    )
    SERIES_TTL: Setting[int] = Setting(
        "TELEMETRY_SERIES_TTL",
        86_400,
        _number(1, 1_000_000_000),
        "Seconds without an event after which a series is forgotten, in the state and on `/metrics`.",
    )
    ELEVATION_MAX: Setting[int] = Setting(
        "TELEMETRY_ELEVATION_MAX",
        86_400,
        _number(1, 1_000_000_000),
        "A series with a running elevation is not forgotten within so many seconds of its last event.",
    )
    MAX_SERIES: Setting[int] = Setting(
        "TELEMETRY_MAX_SERIES",
        100_000,
        _number(1, 100_000_000),
        "How many series (of `governance-metrics`, of each kind) a service keeps per partition; the events of new "
        "ones beyond are counted in one overflow series (`__overflow__`), and rings, trust scores and presence of "
        "their agents are not kept.",
    )
    RING_LABELS: Setting[tuple[str, ...]] = Setting(
        "TELEMETRY_RING_LABELS",
        ("event_type", "agent_did", "session_id"),
        _words("event_type", "agent_did", "session_id"),
        "The labels that the ring counters keep, separated by commas; over the others they are summed. Changing it "
        "starts the counters anew.",
    )
    AGENT_TTL: Setting[float] = Setting(
        "TELEMETRY_AGENT_TTL",
        900.0,
        _number(1, 1_000_000_000, float),
        "Seconds without a governance event after which an agent is no longer counted as active, whether or not it "
        "deregistered.",
    )
    GOVERNANCE_LABELS: Setting[tuple[str, ...]] = Setting(
        "TELEMETRY_GOVERNANCE_LABELS",
        (),
        _words("agent_id", "tool_name"),
        "The labels that the governance metrics per decision have beside `decision`, separated by commas: "
        "`agent_id`, `tool_name`. Each agent and tool then has series of its own, a histogram among them. Changing "
        "it starts those metrics anew.",
    )
    SAGA_TIMEOUT: Setting[float] = Setting(
        "TELEMETRY_SAGA_TIMEOUT",
        86_400.0,
        _number(1, 1_000_000_000, float),
        "Seconds after the publishing of its first event at which a saga without an end becomes an error span.",
    )
    SAGA_GRACE: Setting[float] = Setting(
        "TELEMETRY_SAGA_GRACE",
        600.0,
        _number(0, 1_000_000_000, float),
        "Seconds for which a saga that has ended is remembered: the ends of its steps that come late find their "
        "starts, and what comes twice is not exported twice.",
    )
    LEASE: Setting[float | None] = Setting(
        "TELEMETRY_LEASE",
        None,
        _number(1, 3600, float),
        "Seconds for which a service shows what belongs to the log after a commit; it must be less than the "
        "group's session timeout. Without it, 80 % of that timeout, 5 where it can't be found out.",
    )
    DEAD_LETTER_RATIO: Setting[float] = Setting(
        "TELEMETRY_DEAD_LETTER_RATIO",
        0.2,
        _number(0, 1, float),
        "The share of the last 1,000 records from which on dead letters are called a flood (degraded).",
    )
    DEAD_LETTER_RUN: Setting[int] = Setting(
        "TELEMETRY_DEAD_LETTER_RUN",
        50,
        _number(1, 1_000_000),
        "How many dead letters in a row are called a flood.",
    )
    SPAN_SINKS: Setting[tuple[str, ...]] = Setting(
        "TELEMETRY_SPAN_SINKS",
        ("console",),
        _parts,
        "Where `saga-spans` sends spans, in place of `--sink`, separated by commas: `otlp[:URL]`, `zipkin[:URL]`, "
        "`kafka[:TOPIC]`, `console`, `jsonl:PATH`, `null`, or an installed entry point.",
        secret=True,
    )
    LOG_LEVEL: Setting[str] = Setting(
        "TELEMETRY_LOG_LEVEL",
        "info",
        _word("debug", "info", "warning", "error"),
        "How much the services log, to standard error.",
    )
    KAFKA: Setting[str | None] = Setting(
        "TELEMETRY_KAFKA",
        None,
        _word("docker"),
        "`docker` makes the demo and the tests run Kafka in a container; without it, as a child process.",
    )
    TEST_BOOTSTRAP_SERVERS: Setting[str | None] = Setting(
        "TELEMETRY_TEST_BOOTSTRAP_SERVERS",
        None,
        str,
        "A Kafka for the demo and the tests to use in place of their own; `KAFKA_BOOTSTRAP_SERVERS` never is.",
    )


SETTINGS: tuple[Setting[Any], ...] = tuple(value for value in vars(Settings).values() if isinstance(value, Setting))
