"""Each rule of the exactly-once runtime, switched off, makes its test fail: the tests bite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import hypervisor_consumers

pytestmark = pytest.mark.full

PACKAGE = Path(hypervisor_consumers.__file__).parent
ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """A rule, how it is switched off, and who finds out."""

    rule: str
    module: str
    old: str
    new: str
    test: str

    @property
    def file(self) -> str:
        """The file of the test."""
        return "test_interleavings" if self.test.startswith("Test") else "test_forgotten"


MUTANTS = (
    Mutant(
        "flush before the offsets are sent",
        "commit/transactions",
        "left = call(producer.flush, CALL_TIMEOUT_SECONDS)",
        "left = 0",
        "TestCommitting::test_offsets_are_sent_when_the_changelog_has_arrived_not_before[memory]",
    ),
    Mutant(
        "what Kafka did not take is not committed without",
        "commit/transactions",
        "            if left:\n",
        "            if False:\n",
        "TestCommitting::test_what_kafka_did_not_take_in_time_is_not_committed_without[memory]",
    ),
    Mutant(
        "a timed-out sending of offsets is aborted",
        "commit/transactions",
        "            return self._abort(text_of(error))\n",
        "            self._move(Step.OFFSETS_SENT)\n            return self._go_on_committing()\n",
        "TestCommitting::test_offsets_that_timed_out_are_aborted_never_committed[memory]",
    ),
    Mutant(
        "a timed-out commit is called again",
        "commit/transactions",
        "                return Outcome.UNFINISHED\n            return self._unknown()\n",
        "                self._phase = Phase.OPEN\n                return self._abort(text_of(error))\n"
        "            return self._unknown()\n",
        "TestCommitting::test_a_commit_that_timed_out_is_called_again_never_aborted[memory]",
    ),
    Mutant(
        "reading waits for an outcome",
        "loop",
        "            self._consumer.pause(_for_client(self._assignment.read()))\n",
        "            pass\n",
        "TestCommitting::test_nothing_is_read_on_while_a_commit_has_no_outcome[memory]",
    ),
    Mutant(
        "an unknown outcome is looked up: it was committed",
        "commit/committer",
        "        if outcome is Outcome.ABORTED:\n",
        "        if outcome is not Outcome.COMMITTED:\n",
        "TestCommitting::test_a_commit_with_an_unknown_outcome_is_looked_up_in_the_changelog[memory-True]",
    ),
    Mutant(
        "an unknown outcome is looked up: it was not committed",
        "commit/committer",
        "            raise OutputUnavailable(self.transactions.reason)\n        took",
        "            raise OutputUnavailable(self.transactions.reason)\n"
        "        if outcome is Outcome.UNKNOWN:\n            outcome = Outcome.COMMITTED\n        took",
        "TestCommitting::test_a_commit_with_an_unknown_outcome_is_looked_up_in_the_changelog[memory-False]",
    ),
    Mutant(
        "an abort drops what is pending",
        "partitions/partition",
        "        self._state.discard()\n",
        "        self._state.merge()\n",
        "TestCommitting::test_an_aborted_transaction_leaves_no_trace_in_counts_and_known_ids[memory]",
    ),
    Mutant(
        "what was taken together is written with the offsets that count it",
        "partitions/partition",
        "        if self._batches is not None:\n            self._batches.settle()",
        "        pass",
        "TestRestoring::test_a_restarted_copy_goes_on_with_the_same_counts_and_known_ids[together]",
    ),
    Mutant(
        "an abort undoes the known ids",
        "partitions/partition",
        "        self._ids.window.rollback()\n",
        "        self._ids.window.mark()\n",
        "TestCommitting::test_an_aborted_transaction_leaves_no_trace_in_counts_and_known_ids[memory]",
    ),
    Mutant(
        "an abort seeks back",
        "loop",
        "                self._ingest.read_again(partition, offset)\n",
        "                pass\n",
        "TestCommitting::test_an_aborted_transaction_leaves_no_trace_in_counts_and_known_ids[memory]",
    ),
    Mutant(
        "a fenced producer is replaced",
        "commit/transactions",
        "        self._producer = None\n        self._move(Step.GIVEN_UP)\n",
        "        self._phase = Phase.READY\n",
        "TestCommitting::test_a_fenced_producer_is_replaced_and_its_partitions_are_restored[memory]",
    ),
    Mutant(
        "a producer that replaces another ends what that one left open",
        "commit/transactions",
        "        return self._sweep()\n",
        "        return True\n",
        "test_a_commit_that_was_shown_and_undone_is_counted_again_from_the_log_and_nothing_lower_is_shown[groups0]",
    ),
    Mutant(
        "a copy that is behind what was shown shows nothing",
        "partitions/fold_partition",
        "offset >= goal.counted_to",
        "True",
        "test_a_commit_that_was_shown_and_undone_is_counted_again_from_the_log_and_nothing_lower_is_shown[groups0]",
    ),
    Mutant(
        "a partition with more to read is shown after its next commit",
        "commit/stateful_processor",
        "now + MAX_HIDDEN_SECONDS if restored.has_more else now",
        "now",
        "test_who_gets_the_partition_then_shows_nothing_lower_than_was_shown[groups1]",
    ),
    Mutant(
        "what the commit before an abort wrote is written once more",
        "commit/changeset",
        "            batches += one.rewrite.with_earlier(own)\n",
        "            batches += own\n",
        "test_an_abort_that_undoes_the_commit_before_it_is_made_good_by_the_next_commit",
    ),
    Mutant(
        "its dead letters, too, if the connection was lost",
        "commit/committer",
        "None if self.transactions.was_cut_off else self._builder.topics.dead_letters",
        "self._builder.topics.dead_letters",
        "test_dead_letters_are_written_once_more_only_if_the_connection_was_lost[True]",
    ),
    Mutant(
        "its dead letters not, if it was not",
        "commit/committer",
        "None if self.transactions.was_cut_off else self._builder.topics.dead_letters",
        "None",
        "test_dead_letters_are_written_once_more_only_if_the_connection_was_lost[False]",
    ),
    Mutant(
        "what a dead copy left open is ended in its name",
        "commit/committer",
        "                self._hanging.end_found(self._builder.dead_letter_partitions())\n",
        "                pass\n",
        "test_what_a_dead_copy_left_open_for_ever_is_ended_in_its_name[the state]",
    ),
    Mutant(
        "a record says who wrote it",
        "commit/transactions",
        "                headers = headers or [(WRITER, self._id.encode())]\n",
        "",
        "test_what_a_dead_copy_left_open_for_ever_is_ended_in_its_name[the state]",
    ),
    Mutant(
        "a transaction is left to Kafka as long as it may end by itself",
        "partitions/restore",
        " and now - one.asked_at > HANGING_AFTER_SECONDS",
        "",
        "test_a_transaction_is_left_to_kafka_as_long_as_it_may_end_by_itself",
    ),
    Mutant(
        "a transaction names the offsets of what it writes for, also when they did not move",
        "commit/transactions",
        "            call(producer.send_offsets_to_transaction, positions, member, CALL_TIMEOUT_SECONDS)\n"
        "        except",
        "        except",
        "TestCommitting::test_a_transaction_of_tombstones_alone_is_refused_to_one_who_is_no_member",
    ),
    Mutant(
        "records are folded while their partition is owned",
        "loop",
        "        gone = self._assignment.revoke(topic_partitions)\n",
        "        gone: list[AssignedPartition[Any]] = []\n",
        "TestOwning::test_records_that_came_with_the_loss_of_their_partition_are_not_folded",
    ),
    Mutant(
        "the last commit comes before a partition is given back",
        "loop",
        "        self._commit(is_last=True)\n        self._on_lost(consumer, partitions)",
        "        self._on_lost(consumer, partitions)",
        "TestOwning::test_what_was_read_is_committed_before_a_partition_is_given_back",
    ),
    Mutant(
        "a gap is believed when the log was asked twice",
        "ingest",
        "(offset > expected and partition.is_gap_believed())",
        "offset > expected",
        "TestOwning::test_a_client_that_begins_to_read_at_a_wrong_place_loses_nothing[memory]",
    ),
    Mutant(
        "numbers are shown for a lease",
        "commit/lease",
        "        return self._clock() < self._until\n",
        "        return True\n",
        "TestOwning::test_numbers_are_shown_for_a_lease_and_no_longer",
    ),
    Mutant(
        "a lease counts from the beginning of its transaction",
        "commit/committer",
        "            self._visibility.lease.renew(self._began)\n",
        "            self._visibility.lease.renew(self._visibility.lease.now())\n",
        "TestOwning::test_a_lease_counts_from_the_beginning_of_its_transaction",
    ),
    Mutant(
        "a copy that Kafka says is out shows nothing",
        "commit/committer",
        "            self._visibility.lease.end()\n",
        "            pass\n",
        "TestOwning::test_a_copy_that_kafka_says_is_out_shows_nothing_from_then_on",
    ),
    Mutant(
        "a lease that is due is renewed whatever the interval of commits",
        "loop",
        "self._schedule.is_due or (self._lease is not None and self._lease.is_due)",
        "self._schedule.is_due",
        "TestGoingOn::test_numbers_stay_shown_when_commits_are_rarer_than_a_lease",
    ),
    Mutant(
        "an empty commit is no recovery",
        "loop",
        "            self._schedule.rolled_back({one: self._assignment[one].position for one in again})\n",
        "",
        "TestGoingOn::test_trouble_lasts_and_tries_grow_rare_until_a_commit_covers_what_was_rolled_back",
    ),
    Mutant(
        "a gap within a continuous read is believed",
        "partitions/assignment",
        "if self._is_continuous or doubted == self.position:",
        "if doubted == self.position:",
        "TestGoingOn::test_a_source_of_small_transactions_is_read_on_without_asking_again_at_every_gap",
    ),
    Mutant(
        "known ids are restored",
        "partitions/restore",
        "            self._window_reader.read(one.into, records)\n",
        "            pass\n",
        "TestRestoring::test_a_restarted_copy_goes_on_with_the_same_counts_and_known_ids[memory]",
    ),
    Mutant(
        "uncommitted records count for the end of the changelog",
        "kafka/offset_queries",
        '{**self._settings, "isolation.level": "read_uncommitted"}',
        '{**self._settings, "isolation.level": "read_committed"}',
        "TestRestoring::test_records_of_an_open_transaction_at_the_end_of_the_changelog_are_waited_for[memory]",
    ),
    Mutant(
        "only what was committed is restored",
        "partitions/restore",
        "reader_settings(consumer)\n        self._limited",
        '{**reader_settings(consumer), "isolation.level": "read_uncommitted"}\n        self._limited',
        "TestRestoring::test_an_aborted_transaction_in_the_changelog_is_not_restored[memory]",
    ),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.rule for mutant in MUTANTS])
def test_a_rule_that_is_switched_off_is_found(mutant: Mutant, tmp_path: Path) -> None:
    package = tmp_path / "hypervisor_consumers"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    module = package / "runtime" / f"{mutant.module}.py"
    source = module.read_text()
    assert source.count(mutant.old) == 1, "the rule is written differently by now"
    module.write_text(source.replace(mutant.old, mutant.new))

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=60",
         f"tests/kafka/{mutant.file}.py::{mutant.test}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert run.returncode == 1, run.stdout
    assert "1 failed" in run.stdout, run.stdout
