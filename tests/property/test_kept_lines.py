"""Lines that are written over say what lines written anew would."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.ring_metrics.exposition.line_cache import NO_NUMBER, LineCache, RowTracker

numbers = st.sampled_from([NO_NUMBER, 0, 9, 10, 99, 100, 10**17, 10**18, 2**63 - 1]) | st.integers(0, 2000)
steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "drop", "put", "put", "put"]),
        st.lists(st.tuples(st.integers(0, 20), numbers), max_size=12),
    ),
    max_size=12,
)


@given(steps)
def test_they_are_those_of_the_numbers(steps: list[Any]) -> None:
    names: list[str] = []
    model: list[int] = []
    came = 0
    lines = LineCache(lambda place: f"line{names[place]}")
    for what, some in steps:
        chosen = {place: number for place, number in some if place < len(model)}
        places = sorted(chosen)
        if what == "add":
            names += [str(came + number) for number in range(len(some))]
            came += len(some)
            model += [NO_NUMBER] * len(some)
            lines.extend(len(some))
        elif what == "drop":
            lines.delete(places)
            names = [name for place, name in enumerate(names) if place not in chosen]
            model = [number for place, number in enumerate(model) if place not in chosen]
        else:
            for place in places:
                model[place] = chosen[place]
            lines.put(np.array(places, np.int64), np.array([chosen[place] for place in places], np.int64))
        text = "".join(
            f"line{name} {number}.0\n" for name, number in zip(names, model, strict=True) if number != NO_NUMBER
        )
        assert lines.text.decode() == text
        assert (len(lines), lines.size) == (text.count("\n"), len(model))


keys = st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"))


@given(st.lists(st.lists(st.tuples(keys, st.booleans()), max_size=6), max_size=8))
def test_known_rows_tell_what_went_and_what_is_another_one(looks: list[Any]) -> None:
    known: RowTracker[object] = RowTracker()
    table: dict[tuple[str, str], object] = {}
    for changes in looks:
        keys, rows = known.keys, known.rows
        for key, is_there in changes:
            if is_there:
                table[key] = object()
            else:
                table.pop(key, None)
        gone, changed = known.update(table.copy())
        kept = [(key, row) for place, (key, row) in enumerate(zip(keys, rows, strict=True)) if place not in gone]
        now = list(table.items())
        assert list(zip(known.keys, known.rows, strict=True)) == now
        assert [key for key, _ in kept] == [key for key, _ in now[: len(kept)]]
        assert changed == [
            place for place, (_, row) in enumerate(now) if place >= len(kept) or row is not kept[place][1]
        ]
        assert known.update(table.copy()) == ([], [])
