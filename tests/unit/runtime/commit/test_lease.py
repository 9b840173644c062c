"""For how long a copy may show what belongs to the log."""

from __future__ import annotations

import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ResourceType

from hypervisor_consumers.runtime.commit.lease import DEFAULT_LEASE_SECONDS, Lease, boot_clock, lease_of_group
from tests.support.word_count_service import Clock

KIP_848 = {"group.protocol": "consumer", "group.id": "t.words"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_may_be_shown_before_the_first_transaction(clock: Clock):
    lease = Lease(9, clock)
    assert not lease.is_valid
    assert lease.is_due


def test_a_transaction_is_good_for_so_long_from_its_beginning(clock: Clock):
    lease = Lease(9, clock)
    began = lease.now()
    clock.now += 4
    lease.renew(began)
    clock.now += 4.9
    assert lease.is_valid
    clock.now += 0.1
    assert not lease.is_valid


def test_it_is_due_when_a_third_of_it_has_passed(clock: Clock):
    lease = Lease(9, clock)
    lease.renew(lease.now())
    clock.now += 3
    assert not lease.is_due
    clock.now += 0.1
    assert lease.is_due


def test_an_older_transaction_never_shortens_it(clock: Clock):
    lease = Lease(9, clock)
    began = lease.now()
    clock.now += 5
    lease.renew(lease.now())
    lease.renew(began)
    clock.now += 8.9
    assert lease.is_valid


def test_of_unknown_length_it_lets_nothing_be_shown(clock: Clock):
    lease = Lease(None, clock)
    lease.renew(lease.now())
    assert not lease.is_valid
    lease.seconds = 9
    lease.renew(lease.now())
    assert lease.is_valid


def test_its_clock_never_stands_behind_the_monotonic_one():
    before = time.monotonic()
    assert boot_clock() >= before
    assert boot_clock() <= boot_clock()


class Admin:
    """Answers with settings; a setting that is an error is raised, None is not known."""

    def __init__(self, group: Any = None, broker: Any = None, away: bool = False) -> None:
        self._answers = {ResourceType.GROUP: group, ResourceType.BROKER: broker}
        self._away = away

    def list_topics(self, timeout: float) -> Any:
        if self._away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(brokers={3: None})

    def describe_configs(self, resources: list[Any], request_timeout: float) -> dict[Any, Future[Any]]:
        [resource] = resources
        name, answer = {
            ResourceType.GROUP: ("consumer.session.timeout.ms", self._answers[ResourceType.GROUP]),
            ResourceType.BROKER: ("group.consumer.session.timeout.ms", self._answers[ResourceType.BROKER]),
        }[resource.restype]
        assert resource.name == ("t.words" if resource.restype is ResourceType.GROUP else "3")
        future: Future[Any] = Future()
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result({} if answer is None else {name: SimpleNamespace(value=answer)})
        return {resource: future}


REFUSED = KafkaException(KafkaError(KafkaError.INVALID_REQUEST))


@pytest.mark.parametrize(
    ("admin", "seconds"),
    [
        (Admin("10000", "45000"), 8),
        (Admin(None, "45000"), 36),
        (Admin(REFUSED, "6000"), 4.8),
        (Admin(None, None), DEFAULT_LEASE_SECONDS),
        (Admin(None, REFUSED), DEFAULT_LEASE_SECONDS),
        (Admin(None, TimeoutError()), DEFAULT_LEASE_SECONDS),
        (Admin(None, "soon"), DEFAULT_LEASE_SECONDS),
        (Admin(REFUSED, None, away=True), DEFAULT_LEASE_SECONDS),
    ],
)
def test_it_is_most_of_the_session_timeout_that_kafka_tells(admin: Admin, seconds: float):
    assert lease_of_group(admin, KIP_848) == pytest.approx(seconds)


def test_without_knowledge_it_is_shorter_than_the_shortest_session_that_kafka_allows():
    assert DEFAULT_LEASE_SECONDS < 6


@pytest.mark.parametrize(("settings", "seconds"), [({}, 36), ({"session.timeout.ms": "9000"}, 7.2)])
def test_with_the_classic_protocol_the_timeout_is_the_consumers_own(settings: dict[str, str], seconds: float):
    assert lease_of_group(None, {"group.id": "g", **settings}) == pytest.approx(seconds)
