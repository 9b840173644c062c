"""The lease: for how long this copy may show what belongs to the log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType

from hypervisor_consumers.runtime.kafka.client_types import Admin

__all__ = ["Lease", "boot_clock", "lease_of_group"]

log = logging.getLogger(__name__)

DEFAULT_LEASE_SECONDS = 5.0
"""The lease where the session timeout can't be found out: less than the least that Kafka allows, 6 s."""

_SHARE = 0.8
_CLASSIC_SESSION_MS = 45_000
_ANSWER_WITHIN = 5.0


def boot_clock() -> float:
    """Seconds that go on while the machine sleeps or the process is stopped; a monotonic clock's may not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if _HAS_BOOT_TIME else time.monotonic()


_HAS_BOOT_TIME = hasattr(time, "CLOCK_BOOTTIME")


class Lease:
    """A copy that was frozen may have lost its partitions without knowing. It must not show old numbers.

    A transaction of the group that went through proves that this copy was a member when it began. Another copy can
    have its partitions a session timeout later at the earliest, so what is shown is shown for less than that.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = boot_clock) -> None:
        self.seconds = seconds
        """The seconds that one transaction is good for; None: not known yet, and nothing may be shown."""
        self._clock = clock
        self._until = -math.inf

    def now(self) -> float:
        """The time by the lease's clock, to be noted before a transaction begins."""
        return self._clock()

    def renew(self, began: float) -> None:
        """Extend the lease: a transaction that began then was committed."""
        self._until = max(self._until, began + (self.seconds or 0))

    def end(self) -> None:
        """End the lease now: Kafka says that this copy is no member of its group any more."""
        self._until = -math.inf

    @property
    def is_valid(self) -> bool:
        """Whether this copy's numbers may be shown now."""
        return self._clock() < self._until

    @property
    def is_due(self) -> bool:
        """Whether it should be renewed: a third of it has passed."""
        return self._clock() > self._until - 2 * (self.seconds or 0) / 3


def lease_of_group(admin: Admin, consumer: Mapping[str, Any]) -> float:
    """Seconds of a lease for this group: most of its session timeout, a broker's setting with KIP-848.

    Takes up to 10 s where Kafka doesn't answer. `admin` must live on: one that goes with a question open takes the
    process with it.
    """
    if consumer.get("group.protocol") != "consumer":
        return _SHARE * float(consumer.get("session.timeout.ms", _CLASSIC_SESSION_MS)) / 1000
    try:
        timeout = _group_setting(admin, consumer["group.id"]) or _broker_setting(admin)
    except (KafkaException, TimeoutError, ValueError, KeyError, StopIteration) as error:
        log.info(
            "The group's session timeout can't be read (%s); a lease of %g s is taken.",
            error,
            DEFAULT_LEASE_SECONDS,
        )
        timeout = None
    return DEFAULT_LEASE_SECONDS if timeout is None else _SHARE * timeout / 1000


def _group_setting(admin: Admin, group: str) -> float | None:
    try:
        return _setting(admin, ConfigResource(ResourceType.GROUP, group), "consumer.session.timeout.ms")
    except KafkaException:
        return None  # a Kafka that has no settings of groups


def _broker_setting(admin: Admin) -> float | None:
    brokers = admin.list_topics(timeout=_ANSWER_WITHIN).brokers
    resource = ConfigResource(ResourceType.BROKER, str(next(iter(brokers))))
    return _setting(admin, resource, "group.consumer.session.timeout.ms")


def _setting(admin: Admin, resource: ConfigResource, name: str) -> float | None:
    [answer] = admin.describe_configs([resource], request_timeout=_ANSWER_WITHIN).values()
    entry = answer.result(_ANSWER_WITHIN + 1).get(name)
    return None if entry is None or entry.value is None else float(entry.value)
