"""Runs a function in several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["run_concurrently"]


def run_concurrently(work: Callable[[int], None], count: int, seconds: float = 60) -> None:
    """Run `work` with the numbers up to `count`, each in a thread; it is an error if one fails."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    assert errors == []
