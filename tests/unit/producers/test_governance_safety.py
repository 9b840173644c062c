"""GovernanceMetrics hurts no agent: bad values, threads, forks, packages that are missing."""

import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.governance.errors import TROUBLES
from hypervisor_producers.governance.governance_metrics import GovernanceMetrics
from hypervisor_producers.governance.labels import GovernanceLabels
from tests.support.governance_outputs import GovernanceOutputs

OWN = {"hypervisor_governance_troubles", "hypervisor_governance_overflow"}


@pytest.fixture
def world() -> GovernanceOutputs:
    return GovernanceOutputs()


BAD_CALLS = {
    "decision without agent": lambda m: m.record_decision(True, "", "t", 1),
    "decision of no agent": lambda m: m.record_decision(True, None, "t", 1),
    "decision on a long tool": lambda m: m.record_decision(True, "a", "t" * 1000, 1),
    "negative latency": lambda m: m.record_decision(True, "a", "t", -1),
    "latency that is none": lambda m: m.record_decision(True, "a", "t", float("nan")),
    "endless latency": lambda m: m.record_decision(True, "a", "t", float("inf")),
    "decision in words": lambda m: m.record_decision("deny", "a", "t", 1),
    "rate limit in words": lambda m: m.record_decision(False, "a", "t", 1, "yes"),
    "session that is none": lambda m: m.record_decision(False, "a", "t", 1, session_id=7),
    "trace that is none": lambda m: m.record_decision(False, "a", "t", 1, causal_trace_id=object()),
    "score above 1000": lambda m: m.set_trust_score("a", 1000.5),
    "score below 0": lambda m: m.set_trust_score("a", -1),
    "score of nobody": lambda m: m.set_trust_score("", 1),
    "nobody registered": lambda m: m.register_agent(None),
    "nobody deregistered": lambda m: m.deregister_agent(7),
    "audit of nobody": lambda m: m.record_audit_event("x", 7),
    "audit of nothing": lambda m: m.record_audit_event(None, "a"),
    "audit details": lambda m: m.record_audit_event("x", "a", details=["x"]),
}


class TestBadValues:
    @pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS.keys())
    def test_it_is_counted_and_logged_and_nothing_is_recorded(self, call, world, caplog):
        before = generate_latest(world.registry)
        call(world.metrics)
        assert world.metrics.troubles == {reason: int(reason == "invalid") for reason in TROUBLES}
        assert world.value("hypervisor_governance_troubles_total", reason="invalid") == 1
        assert world.points("hypervisor_governance_troubles")["invalid",] == 1
        assert generate_latest(world.registry) == before.replace(b'"invalid"} 0.0', b'"invalid"} 1.0')
        assert world.events() == []
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert " is not recorded: " in record.message

    @pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS.keys())
    def test_strict_raises_the_sentence(self, call):
        strict = GovernanceOutputs(strict=True)
        with pytest.raises(ValueError, match=" is not recorded: "):
            call(strict.metrics)
        assert strict.metrics.troubles["invalid"] == 1

    def test_a_flood_is_logged_once_and_counted_whole(self, world, caplog):
        for above in range(1, 1001):
            world.metrics.set_trust_score("a", 1000 + above)
        assert world.metrics.troubles["invalid"] == 1000
        assert len(caplog.records) == 1

    def test_a_class_that_raises_when_it_is_looked_at(self, world):
        class Evil:
            def __float__(self) -> float:
                raise RuntimeError("boo")

        world.metrics.record_decision(True, "a", "t", Evil())
        assert world.metrics.troubles["invalid"] == 1


class TestThreads:
    def test_nothing_is_lost_between_threads_while_somebody_scrapes(self):
        world = GovernanceOutputs(labels=GovernanceLabels(agent_id=True, max_series=3))
        start, stop = threading.Barrier(5), threading.Event()
        sums = []

        def work(number: int) -> None:
            start.wait()
            for n in range(2000):
                world.metrics.record_decision(n % 2 == 0, f"agent-{(n + number) % 5}", "t", n % 7, n % 3 == 0)
                world.metrics.register_agent(f"agent-{number}-{n % 10}")

        def scrape() -> None:
            start.wait()
            while not stop.is_set():
                by_name: dict[str, float] = {}
                for family in world.registry.collect():
                    for sample in family.samples:
                        by_name[sample.name] = by_name.get(sample.name, 0) + sample.value
                sums.append(by_name)

        workers = [threading.Thread(target=work, args=[number]) for number in range(4)]
        scraper = threading.Thread(target=scrape)
        for thread in (*workers, scraper):
            thread.start()
        for worker in workers:
            worker.join()
        stop.set()
        scraper.join()
        assert sum(world.points("agent_governance.policy_decisions").values()) == 8000
        assert sum(world.points("agent_governance.rate_limit_hits").values()) == 4 * 667
        assert len(world.points("agent_governance.policy_decisions")) == 2 * 4
        assert world.value("agent_governance_active_agents") == 40
        final: dict[str, float] = {}
        for family in world.registry.collect():
            for sample in family.samples:
                final[sample.name] = final.get(sample.name, 0) + sample.value
        prefix = "agent_governance_"
        for shown in (*sums, final):
            decisions = shown.get(prefix + "policy_decisions_total", 0)
            parts = ("tool_calls_allowed_total", "tool_calls_blocked_total")
            assert sum(shown.get(prefix + part, 0) for part in parts) == decisions
            assert shown.get(prefix + "evaluation_latency_ms_count", 0) == decisions
        assert final[prefix + "policy_decisions_total"] == 8000
        assert final[prefix + "rate_limit_hits_total"] == 4 * 667

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")
    def test_a_signal_handler_may_record_while_its_thread_is_inside(self):
        registry = CollectorRegistry()
        bus = HypervisorEventBus()
        metrics = GovernanceMetrics(bus, prometheus=registry, labels=GovernanceLabels(agent_id=True, max_series=2))
        before = signal.signal(signal.SIGALRM, lambda *_: metrics.record_decision(False, "handler", "t", 1))
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        try:
            while len(bus.query_by_agent("handler")) < 50:
                metrics.record_decision(True, "loop", "t", 1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        labels = {"decision": "deny", "agent_id": "handler"}
        assert registry.get_sample_value("agent_governance_policy_decisions_total", labels) >= 50

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    def test_a_child_begins_at_0_although_another_thread_was_inside(self):
        script = """
            import os, signal, threading
            from prometheus_client import CollectorRegistry
            from hypervisor_telemetry import GovernanceMetrics, HypervisorEventBus

            bus, registry = HypervisorEventBus(), CollectorRegistry()
            metrics = GovernanceMetrics(bus, prometheus=registry)
            metrics.register_active_agents_gauge(lambda: 42)
            metrics.record_decision(False, "a", "t", 1)
            metrics.set_trust_score("a", 5)
            metrics.set_trust_score("a", 1001)
            entered, leave = threading.Event(), threading.Event()

            def hold_every_lock():
                with metrics._lock, metrics._agents._lock, metrics._troubles._lock:
                    entered.set()
                    leave.wait()

            inside = threading.Thread(target=hold_every_lock)
            inside.start()
            entered.wait()
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                value = registry.get_sample_value
                none = value("agent_governance_tool_calls_blocked_total", {"decision": "deny"})
                metrics.record_decision(False, "a", "t", 1)
                one = value("agent_governance_tool_calls_blocked_total", {"decision": "deny"})
                score = value("agent_governance_trust_score", {"agent_id": "a"})
                troubles = metrics.troubles["invalid"]
                active = value("agent_governance_active_agents")
                os._exit(0 if (none, one, score, troubles, active) == (0, 1, None, 0, 42) else 1)
            _, status = os.waitpid(child, 0)
            leave.set()
            inside.join()
            raise SystemExit(os.waitstatus_to_exitcode(status))
        """
        done = run(script)
        assert (done.returncode, done.stderr) == (
            0,
            "A trust score is not recorded: score must lie between 0 and 1000; 1001.0 doesn't.\n",
        )


class TestInstall:
    def test_events_need_neither_library(self):
        script = """
            import sys
            sys.modules["prometheus_client"] = sys.modules["opentelemetry"] = None
            from hypervisor_telemetry import GovernanceMetrics, HypervisorEventBus

            bus = HypervisorEventBus()
            metrics = GovernanceMetrics(bus)
            with metrics.evaluate("a", "t") as evaluation:
                evaluation.allow()
            print(bus.type_counts())
        """
        done = run(script)
        assert (done.stdout, done.stderr) == ("{'governance.policy_decision': 1}\n", "")

    def test_metrics_that_nobody_refers_to_go(self):
        metrics = GovernanceMetrics(HypervisorEventBus())
        gone = []
        metrics.register_active_agents_gauge(Finalized(gone))
        del metrics
        gc.collect()
        assert gone == ["gone"]


class Finalized:
    def __init__(self, gone: list[str]) -> None:
        self._gone = gone

    def __call__(self) -> int:
        return 0

    def __del__(self) -> None:
        self._gone.append("gone")


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
