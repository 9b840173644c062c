"""The timer of an evaluation: blocks, functions and coroutines, and what counts as a decision."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.governance.governance_metrics import GovernanceMetrics


class Clock:
    """Seconds, as they are set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def takes(self, milliseconds: float) -> None:
        self.now += milliseconds / 1000


class World:
    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.bus = HypervisorEventBus()
        self.metrics = GovernanceMetrics(self.bus, clock=self.clock, **settings)

    def decisions(self) -> list[tuple[Any, ...]]:
        """Agent, tool, allowed, rate-limited, milliseconds."""
        return [
            (
                event.agent_did,
                event.payload["tool_name"],
                event.payload["allowed"],
                event.payload["rate_limited"],
                round(event.payload["evaluation_ms"], 6),
            )
            for event in self.bus.all_events
        ]


@pytest.fixture
def world() -> World:
    return World()


class Denied(Exception):
    pass


class TooMany(Denied):
    pass


class TestBlocks:
    @pytest.mark.parametrize(
        ("say", "allowed", "limited"),
        [("allow", True, False), ("deny", False, False), ("rate_limited", False, True)],
    )
    def test_the_block_says_its_decision(self, world, say, allowed, limited):
        with world.metrics.evaluate("a", "t") as evaluation:
            world.clock.takes(0.25)
            getattr(evaluation, say)()
        assert world.decisions() == [("a", "t", allowed, limited, 0.25)]

    def test_what_runs_after_the_decision_is_not_in_the_latency(self, world):
        with world.metrics.evaluate("a", "t") as evaluation:
            world.clock.takes(1)
            evaluation.allow()
            world.clock.takes(5000)
        assert world.decisions() == [("a", "t", True, False, 1)]

    def test_the_last_word_counts(self, world):
        with world.metrics.evaluate("a", "t") as evaluation:
            evaluation.rate_limited()
            world.clock.takes(2)
            evaluation.allow()
            world.clock.takes(2)
            evaluation.deny()
        assert world.decisions() == [("a", "t", False, False, 4)]

    def test_session_and_trace_go_along(self, world):
        with world.metrics.evaluate("a", "t", session_id="s", causal_trace_id="x/y") as evaluation:
            evaluation.deny()
        [event] = world.bus.all_events
        assert (event.session_id, event.causal_trace_id) == ("s", "x/y")

    def test_the_same_one_may_be_used_again(self, world):
        evaluation = world.metrics.evaluate("a", "t")
        with evaluation:
            world.clock.takes(1)
            evaluation.rate_limited()
        with evaluation:
            world.clock.takes(3)
            evaluation.allow()
        with evaluation:
            pass
        assert world.decisions() == [("a", "t", False, True, 1), ("a", "t", True, False, 3)]
        assert world.metrics.troubles["undecided"] == 1

    def test_without_a_word_there_is_no_decision(self, world, caplog):
        with world.metrics.evaluate("a", "t"):
            pass
        assert world.decisions() == []
        assert world.metrics.troubles["undecided"] == 1
        assert [record.message for record in caplog.records] == [
            "An evaluation ended without allow(), deny() or rate_limited(); it is not counted."
        ]


class TestExceptions:
    def test_before_a_decision_it_is_none_and_goes_on(self, world):
        with pytest.raises(PermissionError, match=r"policy\.json"), world.metrics.evaluate("a", "t"):
            raise PermissionError("policy.json")
        assert world.decisions() == []
        assert world.metrics.troubles["undecided"] == 1

    def test_after_a_decision_it_changes_nothing_and_goes_on(self, world):
        def block() -> None:
            with world.metrics.evaluate("a", "t", denied_by=Denied) as evaluation:
                evaluation.allow()
                raise Denied

        with pytest.raises(Denied):
            block()
        assert world.decisions() == [("a", "t", True, False, 0)]

    @pytest.mark.parametrize(
        ("error", "expected"),
        [(Denied, [("a", "t", False, False, 7)]), (TooMany, [("a", "t", False, True, 7)]), (OSError, [])],
    )
    def test_one_that_is_named_is_a_decision_and_goes_on(self, world, error, expected):
        def block() -> None:
            with world.metrics.evaluate("a", "t", denied_by=(Denied, KeyError), rate_limited_by=TooMany):
                world.clock.takes(7)
                raise error

        with pytest.raises(error):
            block()
        assert world.decisions() == expected


class TestFunctions:
    def test_true_allows_and_false_denies(self, world):
        @world.metrics.evaluate(lambda agent, _: agent, lambda _, tool: tool)
        def is_allowed(agent: str, tool: str) -> bool:
            """Ask the policy."""
            world.clock.takes(2)
            return tool != "shell_exec"

        assert is_allowed("a", "file_read") is True
        assert is_allowed("b", tool="shell_exec") is False
        assert world.metrics.troubles["invalid"] == 1  # that lambda has no `tool`: the call went on all the same
        assert is_allowed("b", "shell_exec") is False
        assert world.decisions() == [("a", "file_read", True, False, 2), ("b", "shell_exec", False, False, 2)]
        assert (is_allowed.__name__, is_allowed.__doc__) == ("is_allowed", "Ask the policy.")

    def test_a_coroutine_function_stays_one(self, world):
        @world.metrics.evaluate("a", "t", denied_by=Denied)
        async def check(answer: Any) -> Any:
            await asyncio.sleep(0)
            world.clock.takes(3)
            if answer is None:
                raise Denied
            return answer

        async def ask() -> list[Any]:
            return [
                await check(True),
                await check(False),
                *await asyncio.gather(check(None), return_exceptions=True),
            ]

        allowed, denied, raised = asyncio.run(ask())
        assert (allowed, denied, type(raised)) == (True, False, Denied)
        assert world.decisions() == [
            ("a", "t", True, False, 3),
            ("a", "t", False, False, 3),
            ("a", "t", False, False, 3),
        ]

    @pytest.mark.parametrize("answer", [None, 1, "deny", [], object()])
    def test_any_other_answer_is_undecided_and_handed_on(self, world, answer):
        check: Callable[[], Any] = world.metrics.evaluate("a", "t")(lambda: answer)
        assert check() is answer
        assert world.decisions() == []
        assert world.metrics.troubles["undecided"] == 1

    def test_a_method_knows_its_object(self, world):
        class Agent:
            did = "did:a"

            @world.metrics.evaluate(lambda self, _: self.did, lambda _, tool: tool, session_id=lambda *_: "s")
            def may(self, tool: str) -> bool:
                return tool == "t"

        assert Agent().may("t")
        assert world.decisions() == [("did:a", "t", True, False, 0)]
        assert world.bus.all_events[0].session_id == "s"

    def test_calls_that_run_at_the_same_time_and_within_each_other_are_apart(self, world):
        met = threading.Barrier(2)

        @world.metrics.evaluate(lambda depth, *_: f"depth-{depth}", "t")
        def check(depth: int, answer: bool) -> bool:
            met.wait(10)
            if depth:
                check(depth - 1, not answer)
            return answer

        threads = [threading.Thread(target=check, args=[2, answer]) for answer in (True, False)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = [(f"depth-{depth}", "t", answer, False, 0.0) for depth in range(3) for answer in (False, True)]
        assert sorted(world.decisions()) == expected


class TestBadValues:
    def test_ids_that_cant_be_told_hurt_nobody(self, world):
        def who(*_: object) -> str:
            raise KeyError("agent")

        check: Callable[[], bool] = world.metrics.evaluate(who, "t")(lambda: True)
        assert check() is True
        with world.metrics.evaluate("", "t") as evaluation:
            evaluation.allow()
        with world.metrics.evaluate(who, "t") as evaluation:
            evaluation.allow()
        assert world.decisions() == []
        assert world.metrics.troubles["invalid"] == 3

    def test_a_clock_that_goes_back_is_no_latency(self, world):
        with world.metrics.evaluate("a", "t") as evaluation:
            world.clock.takes(-1)
            evaluation.allow()
        assert world.decisions() == []
        assert world.metrics.troubles["invalid"] == 1

    def test_strict_says_so_at_the_end(self):
        strict = World(strict=True)
        with pytest.raises(ValueError, match="ended without allow"), strict.metrics.evaluate("a", "t"):
            pass
        with pytest.raises(ValueError, match="agent_id must not be empty"), strict.metrics.evaluate("", "t") as bad:
            bad.allow()

        def who() -> str:
            raise KeyError("agent")

        with pytest.raises(ValueError, match="a function of its ids raised KeyError") as refused:
            strict.metrics.evaluate(who, "t")(lambda: True)()
        assert isinstance(refused.value.__cause__, KeyError)

    def test_strict_hides_no_exception(self):
        strict = World(strict=True)
        with pytest.raises(OSError, match="the policy"), strict.metrics.evaluate("", "t"):
            raise OSError("the policy")

        def block() -> None:
            with strict.metrics.evaluate("", "t") as evaluation:
                evaluation.allow()
                raise OSError("the tool")

        with pytest.raises(OSError, match="the tool"):
            block()
        assert (strict.metrics.troubles["undecided"], strict.metrics.troubles["invalid"]) == (1, 1)
