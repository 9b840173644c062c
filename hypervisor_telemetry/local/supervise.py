"""Runs one command that can't outlive the process that started it.

    python -I -S supervise.py [--grace SECONDS] [--report FD] -- COMMAND [ARGUMENT ...]

The command runs in a process group of its own. It is ended (SIGTERM to the group, SIGKILL after the
grace of 10 seconds) when standard input reaches its end, or on SIGTERM, SIGINT or SIGHUP. The starter
holds the other end of standard input: it closes however the starter dies, by `kill -9` too. On Linux the
command is killed even when this program is. What a command leaves in its group is killed when it ends.

The exit status is the command's; when a signal ended it, this program ends by the same signal.
To FD goes the command's pid, then, if it can't be run, the errno, each as a decimal line; end of file
comes when the command runs or can't.

Only the standard library, and few modules of it: it starts in 20 ms.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # the typing module alone would take as long as everything else here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

USAGE = "usage: supervise.py [--grace SECONDS] [--report FD] -- COMMAND [ARGUMENT ...]\n"
DEFAULT_GRACE = 10.0
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
HANDLED = (*ENDING, signal.SIGCHLD)
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the command to its end, and end with its exit status or signal."""
    grace, report, command = _parse(arguments)
    wakeups = _signals_as_bytes()
    # A signal between fork and exec would go to a handler that exec forgets, and be lost for the command.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(command, report, supervisor, mask)
    _make_group_leader(pid)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if report is not None:
        os.close(report)
    _end_as(_watch(pid, grace, wakeups))


def _parse(arguments: Sequence[str]) -> tuple[float, int | None, list[str]]:
    grace, report = DEFAULT_GRACE, None
    left = list(arguments)
    try:
        while (option := left.pop(0)) != "--":
            if option == "--grace":
                grace = float(left.pop(0))
            elif option == "--report":
                report = int(left.pop(0))
                os.set_inheritable(report, False)
            else:
                raise ValueError(option)  # noqa: TRY301 - one usage line for every wrong argument
        if not left:
            raise ValueError(left)  # noqa: TRY301 - the same
    except (IndexError, ValueError, OSError):
        sys.stderr.write(USAGE)
        sys.exit(2)
    return grace, report, left


def _signals_as_bytes() -> int:
    """A file descriptor that gives one byte, the signal's number, for every handled signal."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in HANDLED:
        signal.signal(number, lambda *_: None)
    return readable


def _become(command: list[str], report: int | None, supervisor: int, mask: set[int]) -> NoReturn:
    """Turn the forked child into the command."""
    try:
        _make_group_leader(0)
        if report is not None:
            os.write(report, b"%d\n" % os.getpid())
        for number in (*HANDLED, *IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        _die_with(supervisor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(command[0], command)  # noqa: S606 - running the given command is this program's job
    except OSError as error:
        if report is not None:
            os.write(report, b"%d\n" % (error.errno or 0))
        else:
            sys.stderr.write(f"{command[0]} can't be run: {error.strerror}\n")
            sys.stderr.flush()
    finally:
        os._exit(127)


def _make_group_leader(pid: int) -> None:
    # Done by parent and child, as shells do: whoever comes first, the group exists before it is needed.
    with suppress(OSError):  # the other one was first and the command runs, or has ended
        os.setpgid(pid, pid)


def _die_with(supervisor: int) -> None:
    if sys.platform != "linux":
        return
    try:
        import ctypes  # noqa: PLC0415 - only the child needs it, and it takes 6 ms
    except ImportError:  # a Python without libffi: the command ends with the starter all the same
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before the request was made
        os._exit(127)


def _watch(pid: int, grace: float, wakeups: int) -> int:
    """Wait for the command to end, or end it when told to, and return its wait status."""
    stdin = sys.stdin.fileno()
    sources = [stdin, wakeups]
    deadline: float | None = None
    is_ending = False
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _signal_group(pid, signal.SIGKILL)
            return status
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        if timeout == 0.0:
            _signal_group(pid, signal.SIGKILL)
            deadline = timeout = None
        readable, _, _ = select.select(sources, [], [], timeout)
        must_end = wakeups in readable and any(number in ENDING for number in os.read(wakeups, 512))
        if stdin in readable and not os.read(stdin, 512):
            sources.remove(stdin)
            must_end = True
        if must_end and not is_ending:
            is_ending = True
            deadline = time.monotonic() + grace
            _signal_group(pid, signal.SIGTERM)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left in it (macOS: only the dead are)
        os.killpg(group, number)


def _end_as(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(sys.argv[1:])
