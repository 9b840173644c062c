"""How often a schema registry is asked that doesn't answer."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime.patience import PatientLookup
from hypervisor_schemas.errors import RegistryUnavailable, UnknownSchema


class Registry:
    """Knows id 1, when it answers; writes down what it was asked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.answers = True
        self.asked: list[float] = []

    def schema_by_id(self, schema_id: int) -> str:
        self.asked.append(self.now)
        if not self.answers:
            raise RegistryUnavailable("The registry is away.")
        if schema_id != 1:
            raise UnknownSchema("The registry doesn't know it.")
        return "a schema"

    def clock(self) -> float:
        return self.now


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def lookup(registry: Registry) -> PatientLookup:
    return PatientLookup(registry.schema_by_id, registry.clock)


def test_answers_pass_through(lookup: PatientLookup):
    assert lookup(1) == "a schema"
    with pytest.raises(UnknownSchema):
        lookup(2)


def test_a_registry_that_is_away_is_asked_less_and_less_often_and_every_5_s_at_least(
    lookup: PatientLookup, registry: Registry
):
    registry.answers = False
    while registry.now < 20:
        with pytest.raises(RegistryUnavailable, match="is away"):
            lookup(1)
        registry.now += 0.25

    assert registry.asked == [0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5]


@pytest.mark.parametrize("schema_id", [1, 2])
def test_once_it_answers_it_is_trusted_again(lookup: PatientLookup, registry: Registry, schema_id: int):
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
