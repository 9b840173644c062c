"""The commands `schemas check`, `register` and `export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hypervisor_telemetry.cli.cli_support import speaking, tell
from hypervisor_telemetry.schema_tools.export import export_contract
from hypervisor_telemetry.schema_tools.registration import check_schema, register_schema

__all__ = ["schemas"]

schemas = typer.Typer(
    help="The contract: check and register the schema at SCHEMA_REGISTRY_URL, export everything as files.",
    no_args_is_help=True,
)

RegistryWait = Annotated[
    float, typer.Option(min=0, help="Seconds to wait at most for the registry's first answer.")
]


@schemas.command()
def check(wait: RegistryWait = 0.0) -> None:
    """Say whether this version's schema is registered, and what would change; exit status 1 if it isn't."""
    with speaking():
        tell(check_schema(os.environ, wait))


@schemas.command()
def register(wait: RegistryWait = 0.0) -> None:
    """Register this version's schema, if it isn't, with compatibility FULL_TRANSITIVE.

    An incompatible one is refused with the registry's reason, and exit status 1.
    """
    with speaking():
        tell(register_schema(os.environ, wait))


@schemas.command()
def export(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="The folder to write to; made if it isn't there.")
    ],
) -> None:
    """Write the contract as files: Avro, JSON Schema of the payloads, AsyncAPI of the topics, golden records."""
    with speaking():
        for path in export_contract(directory, os.environ):
            typer.echo(path)
