"""The gauges' text that is kept is the text that would be made of all rows, whatever happens between scrapes."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervisor_consumers.ring_metrics.exposition import agent_lines
from hypervisor_consumers.ring_metrics.exposition.agent_lines import AgentLines
from hypervisor_consumers.ring_metrics.exposition.families import ring_families
from hypervisor_consumers.runtime.ops.exposition import Exposition
from hypervisor_schemas.agent_rings import AgentRing
from hypervisor_schemas.topics import partition_of

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PARTITIONS = 3
NOW = 10.0

Rows = dict[int, dict[tuple[str, str], AgentRing]]

agents = st.sampled_from(["a", 'b"\\\n', "é", "d", "e"])
sessions = st.sampled_from("stuvw")
# Few, so that they tie; and some that a float doesn't hold.
times = st.none() | st.integers(0, 4).map(lambda second: second * 1_000_000) | st.sampled_from([-7, 2**53 + 1])
ids = st.none() | st.sampled_from(["1", "2", ""])
rows = st.builds(
    AgentRing,
    agent_did=agents,
    session_id=sessions,
    ring=st.none() | st.integers(0, 3),
    changed_at=times,
    event_id=ids,
    elevated_since=times,
    ended_at=times,
    ended_event_id=ids,
    ended_duration=st.none() | st.integers(0, 3),
)
changes = st.tuples(rows, st.booleans(), st.integers(0, PARTITIONS - 1))
scrapes = st.lists(
    st.tuples(
        st.lists(changes, max_size=8),
        st.sets(st.integers(0, PARTITIONS - 1), max_size=1),
        st.floats(0, 1e5),
    ),
    max_size=6,
)


def text_of(shown: Rows, now: float, **gauges: Any) -> list[str]:
    text, _ = Exposition().write(ring_families({}, shown, now, **gauges), "")
    return sorted(text.decode().splitlines())


def assert_same(lines: AgentLines, shown: Rows, now: float = NOW) -> None:
    gauges = lines.families(shown, now)
    assert gauges is not None
    assert text_of(shown, now, gauges=gauges) == text_of(shown, now)


@LAW
@given(scrapes)
def test_what_is_kept_is_what_all_rows_say(scrapes: list[Any]) -> None:
    lines = AgentLines()
    table: Rows = {partition: {} for partition in range(PARTITIONS)}
    for of_rows, gone, now in scrapes:
        for row, is_there, _ in of_rows:
            partition = table[partition_of(row.agent_did.encode(), PARTITIONS)]
            if is_there:
                partition[row.agent_did, row.session_id] = row
            else:
                partition.pop((row.agent_did, row.session_id), None)
        shown = {partition: rows.copy() for partition, rows in table.items() if partition not in gone}
        assert_same(lines, shown, now)
        assert_same(lines, shown, now + 1.5)


@LAW
@given(scrapes)
def test_an_agent_with_rows_in_several_partitions_is_shown_right(scrapes: list[Any]) -> None:
    lines = AgentLines()
    table: Rows = {partition: {} for partition in range(PARTITIONS)}
    for of_rows, _, now in scrapes:
        for row, is_there, partition in of_rows:
            if is_there:
                table[partition][row.agent_did, row.session_id] = row
            else:
                table[partition].pop((row.agent_did, row.session_id), None)
        shown = {partition: rows.copy() for partition, rows in table.items()}
        assert text_of(shown, now, gauges=lines.families(shown, now)) == text_of(shown, now)


def test_a_row_that_is_the_same_is_not_looked_at_again() -> None:
    lines, key = AgentLines(), ("a", "s")
    row = AgentRing("a", "s", 2, 1, "1")
    assert_same(lines, {0: {key: row}})
    msgspec.structs.force_setattr(row, "ring", 3)
    assert text_of({}, NOW, gauges=lines.families({0: {key: row}}, NOW)) != text_of({0: {key: row}}, NOW)


def test_a_number_beyond_64_bits_is_shown_all_the_same() -> None:
    lines = AgentLines()
    fine = {0: {("a", "s"): AgentRing("a", "s", 2, 1, "1")}}
    huge = {0: {**fine[0], ("b", "s"): AgentRing("b", "s", 1, 2**70, "2")}}
    assert_same(lines, fine)
    for _ in range(2):
        assert lines.families(huge, NOW) is None
    assert_same(lines, fine)


def test_agents_that_are_gone_are_not_kept_for_ever() -> None:
    lines = AgentLines()
    for start in range(0, 50_000, 5000):
        names = [f"did:{number}" for number in range(start, start + 5000)]
        assert_same(lines, {0: {(name, "s"): AgentRing(name, "s", 2, 1, "1") for name in names}})
    assert len(lines._partitions[0].index_by_name) <= 2 * 5000 + agent_lines._MAX_AGENTS_WITHOUT_ROWS + 5000
