"""A cached lookup asks a registry rarely that doesn't answer, or doesn't know."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime.decode.schema_lookup import CachedSchemaLookup
from hypervisor_schemas.errors import RegistryUnavailable, UnknownSchema


class Registry:
    """Knows id 1, when it answers; writes down when it was asked, and for what."""

    def __init__(self) -> None:
        self.now = 0.0
        self.answers = True
        self.known = {1}
        self.asked: list[float] = []
        self.ids: list[int] = []

    def schema_by_id(self, schema_id: int) -> str:
        self.asked.append(self.now)
        self.ids.append(schema_id)
        if not self.answers:
            raise RegistryUnavailable("The registry is away.")
        if schema_id not in self.known:
            raise UnknownSchema(f"The registry doesn't know {schema_id}.")
        return "a schema"

    def clock(self) -> float:
        return self.now


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def lookup(registry: Registry) -> CachedSchemaLookup:
    return CachedSchemaLookup(registry.schema_by_id, registry.clock)


def test_answers_pass_through(lookup: CachedSchemaLookup):
    assert lookup(1) == "a schema"
    with pytest.raises(UnknownSchema):
        lookup(2)


def test_a_registry_that_is_away_is_asked_less_and_less_often_and_every_5_s_at_least(
    lookup: CachedSchemaLookup, registry: Registry
):
    registry.answers = False
    while registry.now < 20:
        with pytest.raises(RegistryUnavailable, match="is away"):
            lookup(1)
        registry.now += 0.25

    assert registry.asked == [0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5]


@pytest.mark.parametrize("schema_id", [1, 2])
def test_once_it_answers_it_is_trusted_again(lookup: CachedSchemaLookup, registry: Registry, schema_id: int):
    registry.answers = False
    for registry.now in (0.0, 0.5, 1.5):
        with pytest.raises(RegistryUnavailable):
            lookup(1)
    registry.answers, registry.now = True, 3.5
    if schema_id == 1:
        assert lookup(schema_id) == "a schema"
    else:
        with pytest.raises(UnknownSchema):
            lookup(schema_id)
    assert lookup(1) == "a schema"

    registry.answers, registry.asked = False, []
    for registry.now in (4.0, 4.25, 4.5):
        with pytest.raises(RegistryUnavailable):
            lookup(1)
    assert registry.asked == [4.0, 4.5]


def assert_unknown(lookup: CachedSchemaLookup, schema_id: int) -> None:
    with pytest.raises(UnknownSchema, match=f"^The registry doesn't know {schema_id}.$"):
        lookup(schema_id)


def test_an_id_that_the_registry_doesnt_know_is_asked_for_every_30_s(
    lookup: CachedSchemaLookup, registry: Registry
):
    while registry.now < 70:
        assert_unknown(lookup, 2)
        registry.now += 0.5

    assert registry.asked == [0, 30, 60]


def test_each_unknown_id_has_a_time_of_its_own_and_known_ones_are_found_meanwhile(
    lookup: CachedSchemaLookup, registry: Registry
):
    assert_unknown(lookup, 2)
    registry.now = 10.0
    assert_unknown(lookup, 3)
    assert lookup(1) == "a schema"
    registry.ids = []
    registry.now = 30.0
    for schema_id in (2, 3):
        assert_unknown(lookup, schema_id)
    assert registry.ids == [2]


def test_a_schema_that_is_registered_later_is_found_after_30_s_and_from_then_on(
    lookup: CachedSchemaLookup, registry: Registry
):
    assert_unknown(lookup, 2)
    registry.known.add(2)
    registry.now = 29.9
    assert_unknown(lookup, 2)
    for registry.now in (30.0, 30.1):
        assert lookup(2) == "a schema"


def test_an_unknown_id_stays_so_while_the_registry_is_away_and_is_then_asked_for_again(
    lookup: CachedSchemaLookup, registry: Registry
):
    assert_unknown(lookup, 2)
    registry.answers, registry.now = False, 20.0
    with pytest.raises(RegistryUnavailable):
        lookup(1)
    assert_unknown(lookup, 2)
    registry.now = 30.0
    with pytest.raises(RegistryUnavailable):
        lookup(2)
    registry.answers, registry.known, registry.now = True, {1, 2}, 40.0
    assert lookup(2) == "a schema"


def test_of_unknown_ids_the_last_1000_answers_are_kept(lookup: CachedSchemaLookup, registry: Registry):
    for schema_id in range(2, 1002):
        assert_unknown(lookup, schema_id)
    registry.now = 30.0
    assert_unknown(lookup, 3)  # asked for again: it goes after all others
    for schema_id in (5000, 5001):  # take the places of 2 and 4
        assert_unknown(lookup, schema_id)
    registry.now, registry.ids = 29.0, []
    for schema_id in (3, 5, 1001, 5000, 5001, 2):
        assert_unknown(lookup, schema_id)
    assert registry.ids == [2]
