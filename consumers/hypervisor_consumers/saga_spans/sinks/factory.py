"""Makes the sinks that `--sink` or `TELEMETRY_SPAN_SINKS` names."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hypervisor_consumers.runtime.protocols import Output
from hypervisor_consumers.saga_spans.sinks.console import ConsoleSink
from hypervisor_consumers.saga_spans.sinks.endpoints import redacted_url
from hypervisor_consumers.saga_spans.sinks.entry_points import installed_sink, installed_sinks
from hypervisor_consumers.saga_spans.sinks.jsonl import JsonlSink
from hypervisor_consumers.saga_spans.sinks.multi import MultiSink
from hypervisor_consumers.saga_spans.sinks.null import NullSink
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import Settings

__all__ = ["make_span_sink"]

OPTION = "--sink"

SpanOutput: TypeAlias = Output[SagaSpanRecord]


@dataclass(frozen=True, slots=True)
class _SinkArguments:
    """The arguments that a sink is made from."""

    setting: str
    """The option or the variable that named the sink."""
    text: str
    """The text behind the colon."""
    environ: Mapping[str, str]
    bootstrap_servers: str | None


def make_span_sink(
    options: Sequence[str], environ: Mapping[str, str], bootstrap_servers: str | None = None
) -> SpanOutput:
    """The sink that `--sink` names, or several as one. Without the option: those of `TELEMETRY_SPAN_SINKS`.

    Args:
        options: The option's texts, each `NAME` or `NAME:TEXT`.
        environ: The environment, for the sinks' own settings.
        bootstrap_servers: The option that names Kafka, for the Kafka sink.

    Raises:
        SettingError: A text names no sink, one is named twice, or one can't be made.
    """
    setting = OPTION if options else Settings.SPAN_SINKS.name
    texts = tuple(options) or Settings.SPAN_SINKS.of(environ)
    with contextlib.ExitStack() as to_close:
        sinks: list[tuple[str, SpanOutput]] = []
        for text in texts:
            name, _, rest = text.partition(":")
            # The whole text of an entry point may be a secret.
            is_shown = bool(rest) and name in _KINDS
            redacted = f"{name}:{redacted_url(rest) if '://' in rest else rest}" if is_shown else name
            if texts.count(text) > 1:
                raise SettingError(setting, f"names {redacted} twice; every span would be there twice.")
            sink = _make_sink(
                name, _SinkArguments(setting, rest, environ, bootstrap_servers), is_bare=":" not in text
            )
            to_close.callback(sink.close)
            sinks.append((redacted, sink))
        to_close.pop_all()
    return sinks[0][1] if len(sinks) == 1 else MultiSink(sinks)


def _make_sink(name: str, arguments: _SinkArguments, *, is_bare: bool) -> SpanOutput:
    kind = _KINDS.get(name)
    if kind is not None and (kind.takes_text or is_bare) and (arguments.text or not kind.needs_text):
        return kind.make(arguments)
    installed = [each for each in installed_sinks() if each not in _KINDS]
    if name in installed:
        return installed_sink(arguments.setting, name, arguments.text)
    # Only the first word of a text is shown: a password may stand behind it.
    wrong = name if is_bare else f"{name}:" if not arguments.text else f"{name}:…"
    choice = ", ".join([*(each.usage for each in _KINDS.values()), *installed])
    raise SettingError(arguments.setting, f"can't be {wrong!r}; give one of: {choice}.")


def _console(_arguments: _SinkArguments) -> SpanOutput:
    return ConsoleSink(sys.stdout)


def _null(_arguments: _SinkArguments) -> SpanOutput:
    return NullSink()


def _jsonl(arguments: _SinkArguments) -> SpanOutput:
    try:
        return JsonlSink(arguments.text)
    except OSError as error:
        raise SettingError(
            arguments.setting,
            f"can't write to {arguments.text}: {error.strerror}. "
            "Give a file in a folder that exists and may be written to.",
        ) from None


# The other sinks are imported when they are made: all of them take half a second, and nobody needs all.


def _otlp(arguments: _SinkArguments) -> SpanOutput:
    from hypervisor_consumers.saga_spans.sinks.otel_environment import resource_of  # noqa: PLC0415
    from hypervisor_consumers.saga_spans.sinks.otlp_settings import otlp_settings  # noqa: PLC0415

    settings, resource = otlp_settings(arguments.environ, arguments.text), resource_of(arguments.environ)
    if settings.is_grpc:
        from hypervisor_consumers.saga_spans.sinks.otlp_grpc import OtlpGrpcSink  # noqa: PLC0415

        return OtlpGrpcSink(settings, resource)
    from hypervisor_consumers.saga_spans.sinks.otlp_http import OtlpHttpSink  # noqa: PLC0415

    return OtlpHttpSink(settings, resource)


def _zipkin(arguments: _SinkArguments) -> SpanOutput:
    from hypervisor_consumers.saga_spans.sinks.zipkin import zipkin_sink  # noqa: PLC0415

    return zipkin_sink(arguments.environ, arguments.text)


def _kafka(arguments: _SinkArguments) -> SpanOutput:
    from hypervisor_consumers.saga_spans.sinks.kafka import kafka_sink  # noqa: PLC0415

    return kafka_sink(arguments.environ, arguments.bootstrap_servers, arguments.text)


@dataclass(frozen=True, slots=True)
class _SinkKind:
    make: Callable[[_SinkArguments], SpanOutput]
    usage: str
    takes_text: bool = True
    needs_text: bool = False


_KINDS: Mapping[str, _SinkKind] = {
    "otlp": _SinkKind(_otlp, "otlp[:URL]"),
    "zipkin": _SinkKind(_zipkin, "zipkin[:URL]"),
    "kafka": _SinkKind(_kafka, "kafka[:TOPIC]"),
    "console": _SinkKind(_console, "console", takes_text=False),
    "jsonl": _SinkKind(_jsonl, "jsonl:PATH", needs_text=True),
    "null": _SinkKind(_null, "null", takes_text=False),
}
