"""`python -m hypervisor_telemetry.healthcheck`: whether the service on this machine is well, by exit status.

For containers without a shell and without curl. It is run every few seconds, so it asks with the standard library
and stays out of the `hypervisor-telemetry` command, which takes a second of processor time to import.
"""

from __future__ import annotations

import argparse
import http.client
import sys
from collections.abc import Iterable, Sequence

__all__ = ["PORTS", "main", "statuses"]

PORTS = (8000, 8001, 8002, 8003)
"""Where the four services are, unless told otherwise. In a container there is one; which, its arguments say."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if a service answers and every one that answers is well; 1 otherwise, with a sentence."""
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
    for port, said in answers:
        print(f"{path} on port {port}: {said}")  # noqa: T201 - the same
    return 0 if answers and all(said.startswith("200 ") for _, said in answers) else 1


def statuses(host: str, ports: Iterable[int], path: str, timeout: float) -> Iterable[tuple[int, str]]:
    """What each port that anybody listens on says: the status and the first line, or that nothing came."""
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
