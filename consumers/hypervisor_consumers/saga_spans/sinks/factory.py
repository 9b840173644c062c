"""From `--sink`, or `TELEMETRY_SPAN_SINKS`, to the output that it names."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hypervisor_consumers.runtime.protocols import Output
from hypervisor_consumers.saga_spans.sinks.console import ConsoleSink
from hypervisor_consumers.saga_spans.sinks.endpoints import shown
from hypervisor_consumers.saga_spans.sinks.entry_points import installed_sink, installed_sinks
from hypervisor_consumers.saga_spans.sinks.jsonl import JsonlSink
from hypervisor_consumers.saga_spans.sinks.multi import SeveralSinks
from hypervisor_consumers.saga_spans.sinks.null import NullSink
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import Settings

__all__ = ["sinks_of"]

OPTION = "--sink"

SpanOutput: TypeAlias = Output[SagaSpanRecord]


@dataclass(frozen=True, slots=True)
class _Where:
    """What a sink is made from."""

    setting: str
    """That named it: the option or the variable."""
    text: str
    """Behind the colon."""
    environ: Mapping[str, str]
    bootstrap_servers: str | None


def sinks_of(given: Sequence[str], environ: Mapping[str, str], bootstrap_servers: str | None = None) -> SpanOutput:
    """The sink that `--sink` names, or several as one; without the option, those of `TELEMETRY_SPAN_SINKS`.

    Args:
        given: The option's texts, each `NAME` or `NAME:TEXT`.
        environ: The environment, for the sinks' own settings.
        bootstrap_servers: The option that names Kafka, for the Kafka sink.

    Raises:
        SettingError: One names none, is named twice, or can't be made.
    """
    setting = OPTION if given else Settings.SPAN_SINKS.name
    texts = tuple(given) or Settings.SPAN_SINKS.of(environ)
    with contextlib.ExitStack() as made:
        sinks: list[tuple[str, SpanOutput]] = []
        for text in texts:
            name, _, rest = text.partition(":")
            # What an entry point is given may be a secret whole.
            is_shown = bool(rest) and name in _KINDS
            people_see = f"{name}:{shown(rest) if '://' in rest else rest}" if is_shown else name
            if texts.count(text) > 1:
                raise SettingError(setting, f"names {people_see} twice; every span would be there twice.")
            sink = _made(name, _Where(setting, rest, environ, bootstrap_servers), is_bare=":" not in text)
            made.callback(sink.close)
            sinks.append((people_see, sink))
        made.pop_all()
    return sinks[0][1] if len(sinks) == 1 else SeveralSinks(sinks)


def _made(name: str, where: _Where, *, is_bare: bool) -> SpanOutput:
    kind = _KINDS.get(name)
    if kind is not None and (kind.takes_text or is_bare) and (where.text or not kind.needs_text):
        return kind.make(where)
    installed = [each for each in installed_sinks() if each not in _KINDS]
    if name in installed:
        return installed_sink(where.setting, name, where.text)
    # Of a text, only the first word is shown: a password may stand behind it.
    wrong = name if is_bare else f"{name}:" if not where.text else f"{name}:…"
    choice = ", ".join([*(each.usage for each in _KINDS.values()), *installed])
    raise SettingError(where.setting, f"can't be {wrong!r}; give one of: {choice}.")


def _console(_where: _Where) -> SpanOutput:
    return ConsoleSink(sys.stdout)


def _null(_where: _Where) -> SpanOutput:
    return NullSink()


def _jsonl(where: _Where) -> SpanOutput:
    try:
        return JsonlSink(where.text)
    except OSError as error:
        raise SettingError(
            where.setting,
            f"can't write to {where.text}: {error.strerror}. "
            "Give a file in a folder that exists and may be written to.",
        ) from None


# The imports of the others stand inside: they take half a second, and nobody needs them all.


def _otlp(where: _Where) -> SpanOutput:
    from hypervisor_consumers.saga_spans.sinks.otel_environment import resource_of  # noqa: PLC0415
    from hypervisor_consumers.saga_spans.sinks.otlp_settings import otlp_settings  # noqa: PLC0415

    settings, resource = otlp_settings(where.environ, where.text), resource_of(where.environ)
    if settings.is_grpc:
        from hypervisor_consumers.saga_spans.sinks.otlp_grpc import OtlpGrpcSink  # noqa: PLC0415

        return OtlpGrpcSink(settings, resource)
    from hypervisor_consumers.saga_spans.sinks.otlp_http import OtlpHttpSink  # noqa: PLC0415

    return OtlpHttpSink(settings, resource)


def _zipkin(where: _Where) -> SpanOutput:
    from hypervisor_consumers.saga_spans.sinks.zipkin import zipkin_sink  # noqa: PLC0415

    return zipkin_sink(where.environ, where.text)


def _kafka(where: _Where) -> SpanOutput:
    from hypervisor_consumers.saga_spans.sinks.kafka import kafka_sink  # noqa: PLC0415

    return kafka_sink(where.environ, where.bootstrap_servers, where.text)


@dataclass(frozen=True, slots=True)
class _Kind:
    make: Callable[[_Where], SpanOutput]
    usage: str
    takes_text: bool = True
    needs_text: bool = False


_KINDS: Mapping[str, _Kind] = {
    "otlp": _Kind(_otlp, "otlp[:URL]"),
    "zipkin": _Kind(_zipkin, "zipkin[:URL]"),
    "kafka": _Kind(_kafka, "kafka[:TOPIC]"),
    "console": _Kind(_console, "console", takes_text=False),
    "jsonl": _Kind(_jsonl, "jsonl:PATH", needs_text=True),
    "null": _Kind(_null, "null", takes_text=False),
}
