"""governance-metrics end to end, beside plain reading of the same topic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bench.load import Record, read_plainly, working_off, write_plainly
from bench.row import Row
from bench.setting import Setting
from hypervisor_schemas.events import GovernanceEventType, HypervisorEvent
from hypervisor_schemas.wire.codec import encode_event
from tests.support.service_processes import Fleet

OURS = "governance-metrics"
PARTITIONS = 8
AGENTS = 5_000
WARM_UP = 50_000


def measure(setting: Setting) -> Iterable[Row]:
    count = 1_600_000 if setting.full else 480_000
    records = list(decision_records(count))
    ours: list[float] = []
    plain: list[float] = []
    for number in range(setting.rounds):
        with setting.fleet(PARTITIONS) as fleet:
            setting.say(f"round {number + 1} of {setting.rounds}")
            topic = fleet.topic("governance")
            write_plainly(fleet, topic, records)
            plain.append((count - WARM_UP) / read_plainly(fleet, topic, PARTITIONS, count, WARM_UP))
            ours.append(_ours(fleet, count))
    what = f"{OURS}, exactly-once, one process"
    note = f"{count:,} decisions of {len(records[0][1])} bytes, {AGENTS:,} agents, {PARTITIONS} partitions."
    yield Row(what, "events/s", ours, "plain consume()", plain, note=note)


def decision_records(count: int) -> Iterator[Record]:
    """Make policy decisions; every fifth of each agent is denied."""
    for number in range(count):
        turn, agent = divmod(number, AGENTS)
        event = HypervisorEvent(
            event_type=GovernanceEventType.POLICY_DECISION,
            agent_did=f"did:mesh:{agent:032x}",
            payload={"allowed": turn % 5 != 0, "tool_name": f"tool-{turn % 20}", "evaluation_ms": turn % 40 / 10},
        )
        yield (event.agent_did or "").encode(), encode_event(event)


def _ours(fleet: Fleet, count: int) -> float:
    service = fleet.start(OURS)
    try:
        rate = working_off(fleet, fleet.prefix + OURS, fleet.topic("governance"), count, WARM_UP)
        counted = int(sum(service.metrics("agent_governance_policy_decisions_total").values()))
        if counted != count:
            raise AssertionError(f"{OURS} has counted {counted:,} decisions of {count:,}")
    finally:
        service.close()
    return rate
