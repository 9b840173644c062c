"""Strangers' text: nothing that a terminal acts on, and no more characters than allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_schemas.printable import printable


@pytest.mark.parametrize(
    ("text", "escaped", "line"),
    [
        ("plain text", "plain text", "plain text"),
        ("a\nb\x1b[31m\ud800", r"a\nb\x1b[31m\ud800", "a b [31m"),
        (" a \t b ", r" a \t b ", "a b"),
        (b"caf\xc3\xa9 \xff", "café �", "café �"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped_or_left_out(text: str | bytes, escaped: str, line: str) -> None:
    assert printable(text) == escaped
    assert printable(text, as_line=True) == line


@given(st.text() | st.binary(), st.integers(1, 30), st.booleans())
def test_it_prints_and_is_never_longer_than_the_limit(text: str | bytes, limit: int, as_line: bool) -> None:
    result = printable(text, limit, as_line=as_line)
    assert result.isprintable()
    assert len(result) <= limit
    whole = printable(text, as_line=as_line)
    assert result == whole or result[-1] == "…" or isinstance(text, bytes)
