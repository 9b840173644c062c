"""The `hypervisor-telemetry` command."""

from __future__ import annotations

import sys

from hypervisor_schemas.extras import importing_extra


def main() -> None:
    """Run the command. Without the packages of the services, say which one is missing and exit with status 2."""
    try:
        with importing_extra("services", "The command"):
            from hypervisor_telemetry.cli.app import app  # noqa: PLC0415 - an agent's install has no typer
    except ImportError as error:
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
