"""Writing the last commit once more after an abort: bounded by its keys, however many aborts come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.partitions.pending import Rewrite
from hypervisor_consumers.runtime.records import OutputBatch, TopicPartition

STATE, LETTERS = TopicPartition("state", 0), TopicPartition("letters", 0)


def rows(**values: str | None) -> OutputBatch:
    return OutputBatch(
        STATE, [(key.encode(), None if value is None else value.encode(), None) for key, value in values.items()]
    )


def letter(value: str) -> OutputBatch:
    return OutputBatch(LETTERS, [(None, value.encode(), [("reason", b"why")])])


def written(batches: object) -> list[tuple[str, bytes | None, bytes | None]]:
    return [(one.topic_partition.topic, key, value) for one in batches for key, value, _ in one.records]  # type: ignore[attr-defined]


def test_without_an_abort_nothing_is_written_twice():
    rewrite = Rewrite()
    assert written(rewrite.with_earlier([rows(a="1")])) == [("state", b"a", b"1")]
    rewrite.committed()
    assert written(rewrite.with_earlier([rows(a="2")])) == [("state", b"a", b"2")]


def test_after_an_abort_the_last_commit_is_written_before_the_next():
    rewrite = Rewrite()
    rewrite.with_earlier([rows(a="1", b=None), letter("x")])
    rewrite.committed()
    rewrite.with_earlier([rows(c="1")])
    rewrite.aborted()
    again = rewrite.with_earlier([rows(c="2")])
    assert written(again) == [
        ("state", b"a", b"1"),
        ("state", b"b", None),
        ("letters", None, b"x"),
        ("state", b"c", b"2"),
    ]


def test_without_the_dead_letters_where_there_is_no_reason_to():
    rewrite = Rewrite()
    rewrite.with_earlier([rows(a="1"), letter("x")])
    rewrite.committed()
    rewrite.aborted(without_topic="letters")
    assert written(rewrite.with_earlier([rows(c="2")])) == [("state", b"a", b"1"), ("state", b"c", b"2")]
    rewrite.aborted()  # which is known by now
    assert ("letters", None, b"x") in written(rewrite.with_earlier([]))


def test_a_row_that_changed_since_is_written_as_it_is_now():
    rewrite = Rewrite()
    rewrite.with_earlier([rows(a="1", b="1")])
    rewrite.committed()
    rewrite.aborted()
    assert written(rewrite.with_earlier([rows(a="2")])) == [("state", b"b", b"1"), ("state", b"a", b"2")]


def test_one_row_that_changes_stays_one_row_over_many_aborts():
    rewrite = Rewrite()
    for number in range(60):
        batches = rewrite.with_earlier([rows(account=str(number), a=str(number))])
        assert len(written(batches)) == 2
        rewrite.committed()
        rewrite.with_earlier([rows(account="?", a="?")])
        rewrite.aborted()


@given(
    st.lists(st.tuples(st.dictionaries(st.sampled_from("abc"), st.sampled_from(["1", "2", None])), st.booleans()))
)
def test_whatever_an_abort_undoes_is_in_the_log_after_the_next_commit(steps: list[tuple[dict[str, str], bool]]):
    """The log of a producer whose every abort also undoes the commit right before it."""
    rewrite = Rewrite()
    truth: dict[bytes | None, bytes | None] = {}
    log: list[list[tuple[str, bytes | None, bytes | None]]] = []
    was_aborted = False
    for changes, is_aborted in steps:
        batches = rewrite.with_earlier([rows(**changes)])
        if is_aborted:
            rewrite.aborted()
            log = log if was_aborted else log[:-1]
        else:
            rewrite.committed()
            log.append(written(batches))
            truth |= {key: value for _, key, value in written([rows(**changes)])}
            kept = {key: value for commit in log for _, key, value in commit}
            assert kept == truth
        was_aborted = is_aborted
