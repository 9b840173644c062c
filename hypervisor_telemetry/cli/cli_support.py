"""What every command has in common: how it reaches Kafka, says what it found, and what went wrong."""

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
from hypervisor_telemetry.schema_tools.check_result import Finding

__all__ = ["Bootstrap", "Wait", "speaking", "tell"]

Bootstrap = Annotated[
    str | None,
    typer.Option("--bootstrap-servers", help="Kafka's addresses; default: KAFKA_BOOTSTRAP_SERVERS."),
]
Wait = Annotated[float, typer.Option(min=1, help="Seconds to wait at most for Kafka's first answer.")]


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Errors as sentences, with their exit status; logs to standard error."""
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


def tell(findings: Sequence[Finding], accepted: Collection[str] = ()) -> None:
    """Print them, a line each; exit status 1 if one is a fault whose severity isn't accepted."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        typer.echo(f"{finding.severity:<9}  {finding.name:<{width}}  {finding.sentence}")
    if any(finding.is_fault and finding.severity not in accepted for finding in findings):
        raise typer.Exit(1)
