"""The phases of a partition and of a transaction: every event in every state, as the tables say."""

from __future__ import annotations

import itertools
from enum import Enum

import pytest

from hypervisor_consumers.runtime.commit.transactions import PHASES as TRANSACTION_PHASES
from hypervisor_consumers.runtime.commit.transactions import Phase as TransactionPhase
from hypervisor_consumers.runtime.commit.transactions import Step
from hypervisor_consumers.runtime.partitions.assignment import PHASES as PARTITION_PHASES
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition, Assignment, Phase, PhaseEvent
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_consumers.runtime.state_table import IllegalTransition, StateTable, next_state

HERE, THERE = TopicPartition("t", 0), TopicPartition("t", 1)

TABLES = [
    pytest.param(PARTITION_PHASES, Phase, PhaseEvent, Phase.RESTORING, id="a partition"),
    pytest.param(TRANSACTION_PHASES, TransactionPhase, Step, TransactionPhase.NEW, id="a transaction"),
]


@pytest.mark.parametrize(("table", "states", "events", "first"), TABLES)
class TestATable:
    def test_names_every_state_and_leads_to_states_only(
        self, table: StateTable[Enum, Enum], states: type[Enum], events: type[Enum], first: Enum
    ) -> None:
        assert set(table) == set(states)
        for state, event in itertools.product(states, events):
            if event in table[state]:
                assert next_state(table, state, event) in states
            else:
                with pytest.raises(IllegalTransition, match=f"{event.name} can't happen in {state.name}"):
                    next_state(table, state, event)

    def test_reaches_every_state_from_the_first(
        self, table: StateTable[Enum, Enum], states: type[Enum], events: type[Enum], first: Enum
    ) -> None:
        reached, new = set(), {first}
        while new:
            reached |= new
            new = {following for state in new for following in table[state].values()} - reached
        assert reached == set(states)

    def test_uses_every_event(
        self, table: StateTable[Enum, Enum], states: type[Enum], events: type[Enum], first: Enum
    ) -> None:
        assert {event for following in table.values() for event in following} == set(events)


def test_a_commit_that_was_called_is_never_aborted() -> None:
    reached, new = set(), {TransactionPhase.COMMITTING}
    while new:
        reached |= new
        following = {
            state for phase in new for step, state in TRANSACTION_PHASES[phase].items() if step != Step.ENDED
        }
        new = following - reached - {TransactionPhase.NEW}
    assert TransactionPhase.ABORTING not in reached


def test_every_phase_but_the_last_can_be_revoked() -> None:
    for phase in Phase:
        assert (PhaseEvent.REVOKED in PARTITION_PHASES[phase]) == (phase is not Phase.REVOKED)


class TestAnAssignedPartition:
    def test_is_read_from_when_it_is_restored(self) -> None:
        one: AssignedPartition[str] = AssignedPartition(HERE)
        assert not one.is_read
        with pytest.raises(AssertionError, match="is not restored"):
            _ = one.content
        one.restored("content", 7)
        assert one.is_read
        assert (one.content, one.position, one.phase) == ("content", 7, Phase.CATCHING_UP)
        one.caught_up()
        assert one.is_read
        assert one.phase is Phase.SHOWN

    def test_has_no_content_while_it_is_restored_once_more(self) -> None:
        one: AssignedPartition[str] = AssignedPartition(HERE)
        one.restored("content", 7)
        one.restore_again()
        assert not one.is_read
        with pytest.raises(AssertionError):
            _ = one.content

    def test_is_told_once_that_it_is_restored(self) -> None:
        one: AssignedPartition[str] = AssignedPartition(HERE)
        one.restored("content", 7)
        with pytest.raises(IllegalTransition):
            one.restored("content", 7)

    def test_believes_a_gap_behind_an_interruption_the_second_time(self) -> None:
        one: AssignedPartition[str] = AssignedPartition(HERE)
        one.restored("content", 7)
        assert not one.is_gap_believed()
        assert one.is_gap_believed()
        assert not one.is_gap_believed()
        one.position = 8
        assert not one.is_gap_believed()

    def test_believes_a_gap_within_a_continuous_read(self) -> None:
        one: AssignedPartition[str] = AssignedPartition(HERE)
        one.restored("content", 7)
        one.read_up_to(8)
        assert one.is_gap_believed()
        one.read_is_interrupted()
        assert not one.is_gap_believed()


class TestAnAssignment:
    def test_holds_what_was_assigned_until_it_is_revoked(self) -> None:
        assignment: Assignment[str] = Assignment()
        assignment.assign([HERE, THERE], tables=[])
        here = assignment[HERE]
        here.restored("content", 0)
        assert (len(assignment), assignment.read(), assignment.is_restored) == (2, [here], False)
        assert assignment.revoke([HERE, TopicPartition("u", 0)]) == [here]
        assert here.is_revoked
        assert assignment.get(HERE) is None
        assert [one.topic_partition for one in assignment] == [THERE]

    def test_of_a_partition_that_comes_back_is_a_new_one(self) -> None:
        assignment: Assignment[str] = Assignment()
        assignment.assign([HERE])
        old = assignment[HERE]
        assignment.revoke([HERE])
        assignment.assign([HERE])
        assert assignment[HERE] is not old

    def test_is_gone_through_as_it_was_at_one_moment(self) -> None:
        assignment: Assignment[str] = Assignment()
        assignment.assign([HERE, THERE])
        seen = []
        for one in assignment:
            assignment.revoke([HERE, THERE])
            seen.append(one.topic_partition)
        assert seen == [HERE, THERE]

    def test_tells_tables_from_events(self) -> None:
        assignment: Assignment[str] = Assignment()
        assignment.assign([HERE, TopicPartition("table", 0)], tables=["table"])
        for one in assignment:
            one.restored("content", 0)
        assert [one.topic_partition for one in assignment.events_read()] == [HERE]
