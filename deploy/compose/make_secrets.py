"""Random secrets for docker compose, in `secrets/` beside this file. What is there already stays.

The folder is for its owner alone. The files in it can be read by anyone who gets there: containers that run as
other users have them mounted one by one.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"


def make(folder: Path) -> list[Path]:
    """Write the files that are missing; returns them. The database's address holds the database's password."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    password = folder / "database_password"
    made = []

    def write(path: Path, text: str) -> None:
        if not path.exists():
            path.write_text(f"{text}\n")
            path.chmod(0o644)
            made.append(path)

    for path in (password, folder / "api_token", folder / "grafana_password"):
        write(path, secrets.token_urlsafe(24))
    # token_urlsafe has no character that an address would have to escape.
    address = f"postgresql+psycopg://telemetry:{password.read_text().strip()}@postgres:5432/telemetry"
    write(folder / "database_url", address)
    return made


if __name__ == "__main__":
    for made in make(FOLDER):
        sys.stdout.write(f"made {made.relative_to(Path.cwd()) if made.is_relative_to(Path.cwd()) else made}\n")
