"""Several sinks at once: each gets every span, and a batch that comes again goes where it is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.sinks.multi import MultiSink
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import OutputUnavailable
from tests.support.saga_records import spans


class Sink:
    def __init__(self, *refuses: str) -> None:
        self.refuses = refuses
        self.trouble: Exception | None = None
        self.taken: Counter[str] = Counter()
        self.closed = 0

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        if self.trouble is not None:
            raise self.trouble
        self.taken.update(output.name for output in outputs)
        return [Refused(index, "no") for index, output in enumerate(outputs) if output.name in self.refuses]

    def close(self) -> None:
        self.closed += 1
        if self.trouble is not None:
            raise self.trouble


@pytest.fixture
def a() -> Sink:
    return Sink()


@pytest.fixture
def b() -> Sink:
    return Sink()


@pytest.fixture
def both(a: Sink, b: Sink) -> MultiSink:
    return MultiSink([("otlp", a), ("jsonl:x", b)])


def names(count: int) -> dict[str, int]:
    return {one.name: 1 for one in spans(count)}


def test_each_gets_every_span(both: MultiSink, a: Sink, b: Sink):
    assert both.deliver(spans(3)) == []
    assert a.taken == b.taken == names(3)
    assert both.deliver(spans(3)) == []
    assert a.taken == dict.fromkeys(names(3), 2)


def test_a_batch_that_comes_again_goes_only_to_those_that_have_not_taken_it(both: MultiSink, a: Sink, b: Sink):
    a.trouble = OutputUnavailable("It is away.", retry_after=5)
    with pytest.raises(OutputUnavailable) as caught:
        both.deliver(spans(3))
    assert str(caught.value) == "otlp: It is away."
    assert caught.value.retry_after == 5
    assert (a.taken, b.taken) == ({}, names(3))

    a.trouble = None
    assert both.deliver(spans(3)) == []
    assert a.taken == b.taken == names(3)


def test_of_a_batch_that_comes_again_longer_only_the_new_ones_go_to_those(both: MultiSink, a: Sink, b: Sink):
    a.trouble = OSError(28, "No space left on device")
    with pytest.raises(OutputUnavailable, match=r"^otlp: \[Errno 28\] No space left on device\.$"):
        both.deliver(spans(2))
    a.trouble = None
    both.deliver(spans(4)[::-1])
    assert a.taken == b.taken == names(4)


def test_another_span_under_the_same_ids_is_another_span(both: MultiSink, a: Sink, b: Sink):
    a.trouble = OutputUnavailable("away")
    (one,) = spans(1)
    with pytest.raises(OutputUnavailable):
        both.deliver([one])
    a.trouble = None
    both.deliver([replace(one, status="error")])
    assert b.taken[one.name] == 2


def test_all_that_are_away_are_named_and_the_longest_wait_holds(both: MultiSink, a: Sink, b: Sink):
    a.trouble = OutputUnavailable("A is away.", retry_after=2)
    b.trouble = OutputUnavailable("B is away.", retry_after=9)
    with pytest.raises(OutputUnavailable) as caught:
        both.deliver(spans(1))
    assert str(caught.value) == "otlp: A is away; jsonl:x: B is away."
    assert caught.value.retry_after == 9
    b.trouble = None
    a.trouble = OutputUnavailable("A is away.")
    with pytest.raises(OutputUnavailable) as caught:
        both.deliver(spans(1))
    assert caught.value.retry_after is None


def test_what_any_refuses_is_refused_once_with_the_names_also_if_it_comes_again():
    a, b, c = Sink("span-1"), Sink("span-1", "span-3"), Sink()
    sink = MultiSink([("a", a), ("b", b), ("c", c)])
    expected = [Refused(1, "a: no; b: no"), Refused(3, "b: no")]
    assert sink.deliver(spans(5)) == expected

    c.trouble = OutputUnavailable("away")
    with pytest.raises(OutputUnavailable):
        sink.deliver(spans(5))
    c.trouble = None
    assert sink.deliver(spans(5)) == expected
    assert a.taken == dict.fromkeys(names(5), 2)


def test_other_errors_are_no_output_that_is_away(both: MultiSink, a: Sink):
    a.trouble = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        both.deliver(spans(1))


def test_all_are_closed_whatever_one_says(both: MultiSink, a: Sink, b: Sink):
    b.trouble = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        both.close()
    assert (a.closed, b.closed) == (1, 1)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=8), st.integers(0, 4))
def test_until_all_have_taken_a_batch_each_takes_it_once(rounds: list[list[bool]], count: int):
    sinks = [Sink(), Sink("span-0"), Sink()]
    several = MultiSink((str(number), sink) for number, sink in enumerate(sinks))
    for away in [*rounds, [False] * 3]:
        for sink, is_away in zip(sinks, away, strict=True):
            sink.trouble = OutputUnavailable("away") if is_away else None
        try:
            refused = several.deliver(spans(count))
        except OutputUnavailable:
            continue
        assert [each.at for each in refused] == [0][:count]
        assert all(sink.taken == names(count) for sink in sinks)
        for sink in sinks:
            sink.taken.clear()
