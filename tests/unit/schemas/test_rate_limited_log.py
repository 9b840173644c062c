"""LimitedLog: what a flood of messages leaves in the log."""

import logging
import os
import signal
import threading

import pytest

from hypervisor_schemas.rate_limited_log import RateLimitedLog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logger() -> logging.Logger:
    return logging.getLogger("tests.limited_log")


def test_a_flood_is_one_line_per_interval_that_says_how_many_were_left_out(clock, logger, caplog):
    limited = RateLimitedLog(logger, interval=60, clock=clock)
    for clock.now in (0.0, 1.0, 59.9):
        limited.log(logging.WARNING, "kind", "Lost %s.", "this")
    clock.now = 60.0
    limited.log(logging.ERROR, "kind", "Lost %s.", "that")
    clock.now = 120.0
    limited.log(logging.ERROR, "kind", "Lost %s.", "all")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Lost this."),
        ("ERROR", "Lost that. (and 2 more like it since)"),
        ("ERROR", "Lost all."),
    ]


def test_kinds_are_limited_apart(clock, logger, caplog):
    limited = RateLimitedLog(logger, clock=clock)
    for kind in ("a", "b", "a", "b"):
        limited.log(logging.WARNING, kind, kind)
    assert [record.getMessage() for record in caplog.records] == ["a", "b"]


def test_kinds_beyond_the_ceiling_share_one_limit(clock, logger, caplog):
    limited = RateLimitedLog(logger, clock=clock, max_kinds=2)
    for kind in ("a", "b", "c", "d", "e", "a"):
        limited.log(logging.WARNING, kind, kind)
    assert [record.getMessage() for record in caplog.records] == ["a", "b", "c"]
    clock.now = 60.0
    limited.log(logging.WARNING, "f", "f")
    assert caplog.records[-1].getMessage() == "f (and 2 more like it since)"


def test_the_error_comes_with_its_traceback(clock, logger, caplog):
    limited = RateLimitedLog(logger, clock=clock)
    limited.log(logging.ERROR, "kind", "It failed.", error=ValueError("why"))
    assert "ValueError: why" in caplog.text


def test_a_log_handler_that_raises_reaches_nobody(clock, logger):
    class Broken(logging.Handler):
        def emit(self, record):
            raise OSError("disk full")

    handler = Broken()
    logger.addHandler(handler)
    try:
        RateLimitedLog(logger, clock=clock).log(logging.WARNING, "kind", "message")
    finally:
        logger.removeHandler(handler)


def test_a_log_handler_may_log_here_again(clock, logger, caplog):
    limited = RateLimitedLog(logger, clock=clock)

    class Echo(logging.Handler):
        def emit(self, record):
            limited.log(logging.WARNING, "kind", "echo")

    handler = Echo()
    logger.addHandler(handler)
    try:
        limited.log(logging.WARNING, "kind", "message")
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in caplog.records] == ["message"]


def test_threads_lose_no_count(clock, logger, caplog):
    limited = RateLimitedLog(logger, clock=clock)
    threads = [
        threading.Thread(target=lambda: [limited.log(logging.WARNING, "kind", "m") for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now = 60.0
    limited.log(logging.WARNING, "kind", "m")
    assert [record.getMessage() for record in caplog.records] == ["m", "m (and 1999 more like it since)"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_message_does_not_lock_the_child(logger):
    inside, go_on = threading.Event(), threading.Event()

    def clock() -> float:
        return 0.0

    class SlowKinds(str):
        __slots__ = ()

        def __hash__(self) -> int:
            # Looked up with the lock held.
            inside.set()
            go_on.wait(10)
            return super().__hash__()

        __eq__ = str.__eq__

    limited = RateLimitedLog(logger, clock=clock)
    thread = threading.Thread(target=limited.log, args=(logging.DEBUG, SlowKinds("slow"), "slow"))
    thread.start()
    inside.wait(10)
    child = os.fork()
    if child == 0:
        # Ends the child by SIGALRM if the lock is still held.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        limited.log(logging.DEBUG, "kind", "child")
        os._exit(0)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
