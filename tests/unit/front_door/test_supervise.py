"""A command under supervision ends as it should, and never outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hypervisor_telemetry.local.child import SUPERVISOR, Child
from tests.support.processes import is_running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUPERVISE = (sys.executable, "-I", "-S", str(SUPERVISOR))
STUBBORN = ("sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.05; done')
FOREVER = ("sleep", "1000")

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def first_line(child: Child) -> str:
    assert child.stdout is not None
    return child.stdout.readline().decode().strip()


@pytest.fixture
def supervised() -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Runs a command under supervise.py by hand; gives the supervisor and the command's pid."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, options: tuple[str, ...] = ()) -> tuple[subprocess.Popen[str], int]:
        reader, writer = os.pipe()
        supervisor = subprocess.Popen(
            [*SUPERVISE, *options, "--report", str(writer), "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[writer],
            text=True,
        )
        started.append(supervisor)
        os.close(writer)
        with os.fdopen(reader) as report:
            return supervisor, int(report.read())

    yield run
    for supervisor in started:
        with supervisor:
            supervisor.kill()


class TestTheSupervisor:
    def test_ends_with_the_status_of_its_command(self, supervised):
        supervisor, _ = supervised("sh", "-c", "exit 7")
        assert supervisor.wait(20) == 7

    def test_ends_by_the_signal_that_ended_its_command(self, supervised):
        supervisor, pid = supervised(*FOREVER)
        os.kill(pid, signal.SIGUSR1)
        assert supervisor.wait(20) == -signal.SIGUSR1

    def test_ends_the_command_when_the_other_end_of_its_input_closes(self, supervised):
        supervisor, pid = supervised(*FOREVER)
        supervisor.stdin.close()
        assert supervisor.wait(20) == -signal.SIGTERM
        assert not is_running(pid)

    def test_keeps_its_input_for_itself(self, supervised):
        supervisor, _ = supervised("sh", "-c", "cat; echo nothing to read; exec sleep 1000")
        supervisor.stdin.write("not for the command\n")
        supervisor.stdin.flush()
        assert supervisor.stdout.readline() == "nothing to read\n"
        assert supervisor.poll() is None

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_ends_the_command_on_a_signal(self, supervised, number):
        supervisor, pid = supervised(*FOREVER)
        os.kill(supervisor.pid, number)
        assert supervisor.wait(20) == -signal.SIGTERM
        assert not is_running(pid)

    def test_lets_the_command_end_in_its_own_way(self, supervised):
        supervisor, _ = supervised("sh", "-c", 'trap "exit 9" TERM; echo ready; while :; do sleep 0.05; done')
        supervisor.stdout.readline()
        supervisor.stdin.close()
        assert supervisor.wait(20) == 9

    def test_kills_a_command_that_does_not_end_in_its_grace(self, supervised):
        supervisor, pid = supervised(*STUBBORN, options=("--grace", "0.3"))
        supervisor.stdout.readline()
        asked = time.monotonic()
        supervisor.stdin.close()
        assert supervisor.wait(20) == -signal.SIGKILL
        assert time.monotonic() - asked >= 0.3
        assert not is_running(pid)

    def test_ends_the_grandchildren_too(self, supervised):
        supervisor, _ = supervised("sh", "-c", "sleep 1000 & echo $!; wait")
        grandchild = int(supervisor.stdout.readline())
        supervisor.stdin.close()
        supervisor.wait(20)
        wait_until(lambda: not is_running(grandchild))

    def test_ends_what_a_command_that_has_ended_left_behind(self, supervised):
        supervisor, _ = supervised("sh", "-c", "sleep 1000 >/dev/null & echo $!")
        grandchild = int(supervisor.stdout.readline())
        assert supervisor.wait(20) == 0
        wait_until(lambda: not is_running(grandchild))

    @linux
    def test_takes_the_command_along_when_it_is_killed(self, supervised):
        supervisor, pid = supervised(*FOREVER)
        os.kill(supervisor.pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid))

    @linux
    def test_gives_the_command_ordinary_signals(self, supervised):
        supervisor, _ = supervised("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
        blocked, ignored = (int(line.split()[1], 16) for line in supervisor.stdout)
        assert blocked == 0
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGCHLD):
            assert not ignored & 1 << number - 1, number

    def test_says_why_a_command_does_not_run(self):
        # Its input stays open: else it would be told to end before it could say anything.
        run = subprocess.Popen([*SUPERVISE, "--", "no-such-command"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        with run:
            assert run.wait(20) == 127
            assert b"no-such-command can't be run: No such file" in run.stderr.read()

    @pytest.mark.parametrize("arguments", [[], ["--"], ["true"], ["--grace", "soon", "--", "true"], ["--grace"]])
    def test_explains_its_use(self, arguments):
        run = subprocess.run([*SUPERVISE, *arguments], capture_output=True, text=True, input="", check=False)
        assert (run.returncode, run.stderr[:6]) == (2, "usage:")


class TestAChild:
    def test_gives_its_exit_status(self):
        assert Child(["sh", "-c", "exit 7"]).wait(20) == 7

    def test_is_known_by_the_pid_of_the_command_itself(self):
        with Child(["sh", "-c", "echo $$; sleep 1000"], stdout=subprocess.PIPE) as child:
            assert first_line(child) == str(child.pid)

    def test_stops_on_request(self):
        child = Child(FOREVER)
        assert child.poll() is None
        assert child.stop() == -signal.SIGTERM
        assert child.poll() == -signal.SIGTERM
        assert not is_running(child.pid)

    def test_is_killed_when_it_does_not_stop_in_time(self):
        with Child(STUBBORN, stdout=subprocess.PIPE, grace=60) as child:
            first_line(child)
            assert child.stop(timeout=0.2) == -signal.SIGKILL

    def test_can_be_killed(self):
        with Child(STUBBORN, stdout=subprocess.PIPE) as child:
            first_line(child)
            child.kill()
            assert child.wait(20) == -signal.SIGKILL
            child.kill()

    def test_names_itself_when_it_does_not_end(self):
        with (
            Child(FOREVER, name="the sleeper") as child,
            pytest.raises(TimeoutError, match="the sleeper still runs"),
        ):
            child.wait(0.05)

    def test_that_can_not_run_is_an_error_at_once(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no-such-command"):
            Child(["no-such-command"])
        (tmp_path / "data").touch()
        with pytest.raises(PermissionError):
            Child([tmp_path / "data"])

    def test_gets_its_own_environment_and_folder(self, tmp_path):
        with Child(
            ["sh", "-c", "echo $GREETING; pwd -P"],
            env={"GREETING": "hello", "PATH": os.environ["PATH"]},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
        ) as child:
            assert (first_line(child), first_line(child)) == ("hello", str(tmp_path.resolve()))

    def test_is_not_reached_by_a_ctrl_c_in_our_terminal(self):
        with Child(FOREVER) as child:
            assert os.getsid(child.pid) != os.getsid(0)

    def test_does_not_hold_another_one_alive(self):
        with Child(FOREVER) as first, Child(FOREVER):
            assert first.stop(timeout=20) == -signal.SIGTERM

    @linux
    def test_gets_none_of_our_file_descriptors(self):
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        try:
            with Child(["sh", "-c", "echo /proc/$$/fd/*"], stdout=subprocess.PIPE) as child:
                # The shell has opened the folder itself while it lists it.
                assert {Path(name).name for name in first_line(child).split()} <= {"0", "1", "2", "3"}
        finally:
            os.close(reader)
            os.close(writer)


OWNER = """
import os, sys, time
from hypervisor_telemetry.local.child import Child
child = Child(["sleep", "1000"])
fork = os.fork() if "fork" in sys.argv else 0
if "fork" not in sys.argv or fork:
    print(child.pid, fork, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("mode", ["plain", "fork"])
def test_a_child_ends_when_its_owner_is_killed_even_if_a_fork_of_the_owner_lives(mode):
    with subprocess.Popen([sys.executable, "-c", OWNER, mode], stdout=subprocess.PIPE) as owner:
        pid, fork = map(int, owner.stdout.readline().split())
        try:
            assert is_running(pid)
            os.kill(owner.pid, signal.SIGKILL)
            wait_until(lambda: not is_running(pid))
            assert not fork or is_running(fork)
        finally:
            owner.kill()
            if fork:
                os.kill(fork, signal.SIGKILL)
