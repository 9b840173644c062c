"""A child process that can't outlive this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Child"]

SUPERVISOR = Path(__file__).with_name("supervise.py")


class Child:
    """A command that runs under `supervise.py`, so that it ends when this process ends, however.

    The command has a session of its own (a Ctrl-C in the terminal reaches only this process), nothing to
    read on standard input, and none of this process's file descriptors but `stdout` and `stderr`. As a
    context manager it is stopped at the end of the block, and its `stdout` closed. Every method may be
    called from any thread.

    Args:
        args: The command and its arguments; it is looked up on the PATH of `env`.
        env: Its whole environment; by default this process's.
        cwd: Its working directory; by default this process's.
        stdout: The target of its output, as for `subprocess.Popen`; by default this process's.
        stderr: The same for its errors.
        grace: Seconds from SIGTERM to SIGKILL, when it is stopped or this process has died.
        name: Its name in errors; by default the command.

    Raises:
        OSError: The command can't be run; FileNotFoundError when there is no such command.
    """

    def __init__(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        grace: float = 10.0,
        name: str | None = None,
    ) -> None:
        command = [os.fspath(arg) for arg in args]
        self.name = name or command[0]
        report, report_writer = os.pipe()
        with os.fdopen(report, "rb") as reports:
            try:
                self._supervisor = subprocess.Popen(  # noqa: S603 - starting the caller's command is the point
                    [
                        *(sys.executable, "-I", "-S", SUPERVISOR),
                        *("--grace", str(grace), "--report", str(report_writer), "--", *command),
                    ],
                    env=env,
                    cwd=cwd,
                    stdin=subprocess.PIPE,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=[report_writer],
                    start_new_session=True,
                )
            finally:
                os.close(report_writer)
            reported = [int(line) for line in reports]
        if len(reported) != 1:
            status = self.stop()
            if not reported:
                raise OSError(f"{self.name} was not started: its supervisor ended with status {status}.")
            raise OSError(reported[1], os.strerror(reported[1]), command[0])
        self.pid = reported[0]
        """The command's own process id."""
        self.stdout: IO[bytes] | None = self._supervisor.stdout
        """The reading end when `stdout=subprocess.PIPE` was given."""
        _lifelines.add(self)

    def poll(self) -> int | None:
        """Return the exit status, or None while the command runs; -9 means that SIGKILL ended it."""
        status = self._supervisor.poll()
        if status is not None:
            self._close_lifeline()
        return status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command to end by itself and return its exit status.

        Raises:
            TimeoutError: It still runs after `timeout` seconds.
        """
        try:
            status = self._supervisor.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout:g} seconds.") from None
        self._close_lifeline()
        return status

    def stop(self, timeout: float | None = None) -> int:
        """End the command (SIGTERM, then SIGKILL after `timeout` or the grace) and return its exit status."""
        self._close_lifeline()
        try:
            return self.wait(timeout)
        except TimeoutError:
            self.kill()
            return self.wait()

    def kill(self) -> None:
        """End the command at once, as `kill -9` does."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.stdout is not None:
            self.stdout.close()

    def _close_lifeline(self) -> None:
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()


_lifelines: weakref.WeakSet[Child] = weakref.WeakSet()


def _close_inherited_lifelines() -> None:
    # A fork of this process holds the lifelines too, and would keep the commands alive after it.
    for child in _lifelines:
        child._close_lifeline()
    _lifelines.clear()


os.register_at_fork(after_in_child=_close_inherited_lifelines)
