"""The `hypervisor-telemetry` command."""

from __future__ import annotations

import sys

_OF_THE_SERVICES = {"fastapi", "prometheus_client", "pydantic", "rich", "sqlalchemy", "typer", "uvicorn"}


def main() -> None:
    """Run the command; without the packages of the services, say which are missing."""
    try:
        from hypervisor_telemetry.cli.app import app  # noqa: PLC0415 - an agent's install has no typer
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _OF_THE_SERVICES:
            raise
        sys.exit(f"The command needs {error.name}: pip install 'hypervisor-telemetry[services]'")
    app()


if __name__ == "__main__":
    main()
