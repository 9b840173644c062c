"""Read tokens: offsets as a text for a URL, and back."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_producers.publisher import FlushResult
from hypervisor_schemas.read_token import MAX_TOKEN_CHARACTERS, read_token, write_token

topics = st.text("abcXYZ019._-", min_size=1, max_size=249)
offsets = st.dictionaries(st.tuples(topics, st.integers(0, 2**31 - 1)), st.integers(0, 2**63 - 1), max_size=20)


@given(offsets)
def test_what_is_written_is_read(given_offsets: dict[tuple[str, int], int]) -> None:
    token = write_token(given_offsets)
    assert read_token(token) == given_offsets
    assert quote(token, safe=":~") == token


def test_a_flush_gives_its_offsets_as_a_token() -> None:
    result = FlushResult(0, {("t.events.saga", 3): 4, ("t.events.ring", 10): 15, ("t.events.ring", 2): 1})
    assert result.token == "t.events.ring:2.1:10.15~t.events.saga:3.4"  # noqa: S105 - nothing secret
    assert not FlushResult(0, {}).token
    assert read_token("") == {}


def test_of_a_partition_named_twice_the_greater_offset_counts() -> None:
    assert read_token("t:1.5:1.3~t:1.4") == {("t", 1): 5}


@pytest.mark.parametrize(
    "text",
    [
        "t",
        "t:",
        "t:1",
        "t:1.",
        "t:.1",
        ":1.1",
        "t:1.1~",
        "~",
        "t:-1.1",
        "t:1.1.1",
        "t:1.1 ",
        "t:1.1\n",
        "ä:1.1",
        f"t:{2**31}.1",
        f"t:1.{2**63}",
        "t:\u0661.1",
        f"{'t' * 250}:1.1",
    ],
)
def test_what_is_no_token_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="This is not a read token"):
        read_token(text)


def test_a_token_of_every_partition_of_a_large_fleet_fits() -> None:
    token = write_token({(f"production.events.{n % 10}", n // 10): 10**9 for n in range(1000)})
    assert len(token) < MAX_TOKEN_CHARACTERS
