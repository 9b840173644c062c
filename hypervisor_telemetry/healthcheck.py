"""`python -m hypervisor_telemetry.healthcheck`: exits with 0 if the service on this machine is healthy, else 1.

It is for containers without a shell and without curl. It runs every few seconds, so it uses `http.client` of the
standard library (urllib3 would cost as much again), and it is no part of the `hypervisor-telemetry` command, which
takes a second of processor time to import.
"""

from __future__ import annotations

import argparse
import http.client
import sys
from collections.abc import Iterable, Sequence

__all__ = ["PORTS", "main", "statuses"]

PORTS = (8000, 8001, 8002, 8003)
"""The default ports of the four services. A container has one of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if a service answers and every one that answers is healthy; else 1, with a sentence."""
    parser = argparse.ArgumentParser(prog="python -m hypervisor_telemetry.healthcheck", description=__doc__)
    parser.add_argument(
        "--port",
        type=int,
        action="append",
        help="the service's port; may be given several times; default: all four",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address that it is bound to")
    parser.add_argument("--ready", action="store_true", help="ask /readyz instead of /healthz")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds to wait for an answer")
    options = parser.parse_args(arguments)

    path = "/readyz" if options.ready else "/healthz"
    answers = list(statuses(options.host, options.port or PORTS, path, options.timeout))
    if not answers:
        print(f"no service answers on {options.host}")  # noqa: T201 - `docker inspect` shows it
    for port, status in answers:
        print(f"{path} on port {port}: {status}")  # noqa: T201 - the same
    return 0 if answers and all(status.startswith("200 ") for _, status in answers) else 1


def statuses(host: str, ports: Iterable[int], path: str, timeout: float) -> Iterable[tuple[int, str]]:
    """The answer of each port on which a process listens: status and first line, or that there was none."""
    for port in ports:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            yield port, f"{answer.status} {answer.read(200).decode(errors='replace').partition(chr(10))[0]}"
        except ConnectionRefusedError:
            continue
        except (OSError, http.client.HTTPException) as error:
            yield port, f"no answer ({str(error) or type(error).__name__})"
        finally:
            connection.close()


if __name__ == "__main__":
    sys.exit(main())
