import os
import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from hypervisor_schemas.ids import random_hex


@pytest.mark.parametrize("digits", [1, 8, 12, 16])
def test_an_id_has_exactly_that_many_lower_case_hex_digits(digits):
    assert all(re.fullmatch(f"[0-9a-f]{{{digits}}}", random_hex(digits)) for _ in range(1000))


def test_all_64_bits_of_an_event_id_are_random():
    drawn = [int(random_hex(16), 16) for _ in range(1000)]
    ever_one, always_one = 0, 2**64 - 1
    for number in drawn:
        ever_one |= number
        always_one &= number
    assert ever_one == 2**64 - 1
    assert always_one == 0


def test_a_program_that_seeds_random_gets_other_ids_each_time():
    def seeded():
        random.seed(0)
        return random_hex(16)

    assert seeded() != seeded()


def test_drawing_ids_leaves_the_programs_own_random_numbers_as_they_were():
    random.seed(42)
    expected = random.random()
    random.seed(42)
    random_hex(16)
    assert random.random() == expected


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_children_draw_other_ids_than_their_parent_and_each_other():
    drawn: list[str] = []
    children: list[tuple[int, int]] = []
    for _ in range(4):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, " ".join(random_hex(16) for _ in range(5)).encode())
            finally:
                os._exit(0)
        os.close(writer)
        children.append((child, reader))
    for child, reader in children:
        with os.fdopen(reader) as answer:
            drawn += answer.read().split()
        os.waitpid(child, 0)
    drawn += [random_hex(16) for _ in range(5)]
    assert len(drawn) == 25
    assert len(set(drawn)) == 25


def test_threads_never_draw_the_same_id():
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda _: random_hex(16), range(20_000), chunksize=100))
    assert len(set(drawn)) == len(drawn)
