"""The payloads that services rely on, typed and checked. Every other payload is free-form.

Unknown fields are not checked: a payload may hold more than a service reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from hypervisor_schemas.errors import InvalidPayload

__all__ = ["Ring", "RingPayload", "SagaPayload", "read_payload"]

Ring = Annotated[int, msgspec.Meta(ge=0, le=3)]
"""A privilege ring, 0 (root) to 3 (sandbox)."""


class RingPayload(msgspec.Struct, frozen=True):
    """Payload of `ring.*`: the ring an agent moved to, as `to_ring` or `ring`; both may be absent."""

    to_ring: Ring | None = None
    ring: Ring | None = None

    @property
    def new_ring(self) -> int | None:
        """The ring after the event; ring 0 is a ring, not an absent one."""
        return self.ring if self.to_ring is None else self.to_ring


class SagaPayload(msgspec.Struct, frozen=True):
    """Payload of `saga.*`. `action` is accepted for `step_action`, as in the package.

    The fields from `error` on are read where they are of use, and passed over where they hold something else.
    """

    # size: the fields of all saga events in one place

    saga_id: str | int | None = None
    step_id: str | int | None = None
    action: str | None = None
    step_action: str | None = None
    error: Any = msgspec.UNSET
    reason: Any = msgspec.UNSET
    result: Any = msgspec.UNSET
    error_type: Any = None
    """The kind of an error, in one word."""
    duration_seconds: Any = None
    """The duration of a compensation, whose event comes when it is over."""
    fan_out_id: Any = None
    """The fan-out that the event is about, or that its step is a branch of."""
    group_id: Any = None
    """The same as `fan_out_id`, under the name in the package's fan-outs."""
    branches: Any = None
    """The ids of the steps that are branches of a fan-out; a step may also name its fan-out."""
    policy: Any = None
    """The condition under which a fan-out counts as done, such as `all_must_succeed`."""
    policy_satisfied: Any = None
    """Whether a resolved fan-out succeeded."""
    checkpoint_id: Any = None
    goal: Any = None
    goal_description: Any = None
    """The same as `goal`, under the name in the package's checkpoints."""
    goal_hash: Any = None


T = TypeVar("T")


def read_payload(payload: Mapping[str, Any], kind: type[T], *, numbers_in_strings: bool = False) -> T:
    """`payload` as an instance of `kind`; with `numbers_in_strings`, "1" counts as 1.

    Raises:
        InvalidPayload: A field has another type or a value out of range; the sentence names it.
    """
    try:
        return msgspec.convert(payload, kind, strict=not numbers_in_strings)
    except msgspec.ValidationError as error:
        raise InvalidPayload(f"The payload doesn't fit: {error}") from None
