"""Common parts of the commands: options for Kafka, errors as sentences, results as a table."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated

import typer

from hypervisor_schemas.errors import SettingError, TelemetryError
from hypervisor_schemas.settings import Settings
from hypervisor_telemetry.schema_tools.check_result import CheckResult

__all__ = ["Bootstrap", "Wait", "speaking", "tell"]

Bootstrap = Annotated[
    str | None,
    typer.Option("--bootstrap-servers", help="Kafka's addresses; default: KAFKA_BOOTSTRAP_SERVERS."),
]
Wait = Annotated[float, typer.Option(min=1, help="Seconds to wait at most for Kafka's first answer.")]


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Print errors as sentences and exit with their status; logs go to standard error."""
    try:
        level = Settings.LOG_LEVEL.of(os.environ).upper()
        logging.basicConfig(
            level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))
        yield
    except SettingError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except TelemetryError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def tell(results: Sequence[CheckResult], accepted: Collection[str] = ()) -> None:
    """Print the results, a line each. Exit with 1 if one is a fault whose status isn't accepted."""
    width = max(len(result.name) for result in results)
    for result in results:
        typer.echo(f"{result.status:<9}  {result.name:<{width}}  {result.sentence}")
    if any(result.is_fault and result.status not in accepted for result in results):
        raise typer.Exit(1)
