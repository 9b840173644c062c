"""The counters' text that is kept is the text that would be written anew, whatever happens between scrapes."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervisor_consumers.ring_metrics.exposition.counter_lines import CounterLines
from hypervisor_consumers.ring_metrics.exposition.families import ring_families
from hypervisor_consumers.ring_metrics.fold.state import OVERFLOW, RingSeries, RingState
from hypervisor_consumers.runtime.ops.cardinality import UNKNOWN
from hypervisor_consumers.runtime.ops.exposition import Exposition
from hypervisor_schemas.topics import partition_of

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HOME = 2

texts = st.sampled_from(["a", 'b"\\\n', "é", UNKNOWN])
keys = st.tuples(texts, texts) | st.just(OVERFLOW) | st.sampled_from([("a", ""), ("", "a")])
series = st.builds(
    RingSeries,
    assigned=st.integers(0, 2),
    elevated=st.integers(0, 1),
    demoted=st.just(0),
    breaches=st.integers(0, 2),
)
changes = st.tuples(st.integers(0, 3), keys, series | st.none())
scrapes = st.lists(
    st.tuples(st.lists(changes, max_size=6), st.sets(st.integers(0, 3)), st.sampled_from([HOME, HOME, None])),
    max_size=6,
)


def written(families: list[Any]) -> list[str]:
    return sorted(Exposition().write(families, "")[0].decode().splitlines())


def is_at_home(partition: int, key: tuple[str, str]) -> bool:
    agent, session = key
    return partition_of((agent if session == UNKNOWN else session).encode(), HOME) == partition


@LAW
@given(scrapes, st.booleans())
def test_what_is_kept_is_what_would_be_written(scrapes: list[Any], is_sent_as_it_should_be: bool) -> None:
    lines = CounterLines()
    states = {partition: RingState() for partition in range(4)}
    for of_rows, gone, home in scrapes:
        for partition, key, row in of_rows:
            # Without growth a series lies where its session does; a stranger's client may send it elsewhere.
            if is_sent_as_it_should_be and home is None and not is_at_home(partition, key):
                continue
            if row is None:
                states[partition].series.pop(key, None)
            else:
                states[partition].series[key] = row
        shown = {partition: state for partition, state in states.items() if partition not in gone}
        counters = lines.families(shown, home)
        anew = ring_families(shown, {}, 0.0, home_partitions=home)
        assert written(ring_families(shown, {}, 0.0, home_partitions=home, counters=counters)) == written(anew)


def test_a_row_that_is_the_same_is_not_looked_at_again() -> None:
    state, lines = RingState(), CounterLines()
    row = state.series["a", "s"] = RingSeries(assigned=1, breaches=1)
    before = written(ring_families({0: state}, {}, 0.0, counters=lines.families({0: state}, 1)))
    msgspec.structs.force_setattr(row, "assigned", 2)
    assert written(ring_families({0: state}, {}, 0.0, counters=lines.families({0: state}, 1))) == before


def test_a_session_that_somebody_sends_to_two_partitions_is_added_up() -> None:
    states, lines = {0: RingState(), 1: RingState()}, CounterLines()
    for state in states.values():
        state.series["a", "s"] = RingSeries(assigned=1)
    assert lines.families(states, None) is None
    assert lines.families(states, None) is None


def test_a_count_beyond_64_bits_is_shown_all_the_same() -> None:
    states, lines = {0: RingState()}, CounterLines()
    for count, is_kept in ((1, True), (2**70, False), (2**70, False), (3, True)):
        states[0].series["a", "s"] = RingSeries(assigned=count)
        counters = lines.families(states, 1)
        assert (counters is not None) == is_kept
        anew = written(ring_families(states, {}, 0.0))
        assert written(ring_families(states, {}, 0.0, counters=counters)) == anew
