"""The outputs that a receiver refuses are found by sending halves again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.sinks.bisect_rejects import Rejection, send_bisecting
from hypervisor_schemas.errors import OutputUnavailable


class Receiver:
    """Refuses what is negative; each request whole, or only those in it (`partly`)."""

    def __init__(self, *, partly: bool = False, doubtful: bool = False) -> None:
        self.partly, self.doubtful = partly, doubtful
        self.taken: set[int] = set()
        self.requests: list[list[int]] = []

    def send(self, outputs: Sequence[int]) -> Rejection | None:
        self.requests.append(list(outputs))
        bad = [output for output in outputs if output < 0]
        if self.partly or not bad:
            self.taken.update(set(outputs) - set(bad))
        if not bad:
            return None
        return Rejection("negative", len(bad) if self.partly else None, is_doubtful=self.doubtful)


@given(st.lists(st.integers(-3, 20), max_size=60), st.integers(1, 16), st.booleans(), st.booleans())
def test_exactly_the_bad_ones_are_refused_in_order_and_all_others_are_taken(
    outputs: list[int], at_once: int, partly: bool, doubtful: bool
):
    receiver = Receiver(partly=partly, doubtful=doubtful and not partly)

    refused = send_bisecting(outputs, receiver.send, at_once)

    assert refused == [Refused(index, "negative") for index, output in enumerate(outputs) if output < 0]
    assert receiver.taken == {output for output in outputs if output >= 0}
    assert max(map(len, receiver.requests), default=0) <= at_once
    # Every part is sent once, and a part of one ends it; one request more asks whether it is a receiver at all.
    assert len(receiver.requests) <= max(2 * len(outputs), 0) + 1


def test_what_is_taken_at_once_is_sent_once_in_order():
    receiver = Receiver()
    assert send_bisecting(range(10), receiver.send, 4) == []
    assert receiver.requests == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_one_bad_one_costs_two_requests_per_halving():
    receiver = Receiver()
    outputs = [*range(511), -1]
    send_bisecting(outputs, receiver.send, 512)
    assert len(receiver.requests) == 1 + 2 * 9


def test_a_receiver_that_says_it_refuses_all_of_a_part_is_not_asked_again():
    receiver = Receiver(partly=True)
    assert [each.at for each in send_bisecting([-1, -2, -3], receiver.send, 512)] == [0, 1, 2]
    assert receiver.requests == [[-1, -2, -3]]


def test_an_address_that_refuses_even_nothing_is_no_receiver_and_no_output_is_given_up():
    requests: list[int] = []

    def send(outputs: Sequence[int]) -> Rejection | None:
        requests.append(len(outputs))
        return Rejection("It speaks another language.", is_doubtful=True)

    with pytest.raises(OutputUnavailable) as caught:
        send_bisecting(range(600), send, 512)

    assert str(caught.value) == "A request without spans is refused, too: It speaks another language."
    assert requests == [512, 0]


def test_what_has_taken_something_is_a_receiver():
    receiver = Receiver(doubtful=True)
    send_bisecting([1, -1, -2, -3], receiver.send, 1)
    assert [] not in receiver.requests
    receiver = Receiver(doubtful=True)
    send_bisecting([-1, -2, -3], receiver.send, 1)
    assert receiver.requests.count([]) == 1


def test_trouble_on_the_way_is_the_callers():
    def send(outputs: Sequence[int]) -> Rejection | None:
        if len(outputs) == 1:
            raise OutputUnavailable("gone", retry_after=3)
        return Rejection("no")

    sending: Callable[[Sequence[int]], Rejection | None] = send
    with pytest.raises(OutputUnavailable, match="gone") as caught:
        send_bisecting(range(4), sending, 4)
    assert caught.value.retry_after == 3
