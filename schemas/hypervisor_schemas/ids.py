"""Random ids that differ between processes, forked children included."""

from __future__ import annotations

import os
import random

__all__ = ["random_hex"]

# A generator of our own: a program that calls random.seed(0) must not make its ids repeat. Drawing from it is
# one C call under the GIL, so threads need no lock; os.urandom would cost a system call per event.
_generator = random.Random()  # noqa: S311 - ids must be unlikely to meet, not hard to guess

if hasattr(os, "register_at_fork"):
    # A child starts with a copy of its parent's generator: without new entropy both would go on alike.
    os.register_at_fork(after_in_child=_generator.seed)


def random_hex(digits: int) -> str:
    """`digits` random lower-case hexadecimal digits, four random bits each."""
    if digits & 1:
        return f"{_generator.getrandbits(4 * digits):0{digits}x}"
    return _generator.getrandbits(4 * digits).to_bytes(digits >> 1).hex()  # a third of the time
