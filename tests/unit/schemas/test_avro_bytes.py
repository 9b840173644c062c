"""Fields as Avro has them; that the bytes are fastavro's, test_codec_roundtrip.py shows for any of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from hypervisor_schemas.timestamps import microseconds
from hypervisor_schemas.wire.avro_bytes import (
    LENGTHS,
    BytesCache,
    long_bytes,
    optional_text_bytes,
    text_bytes,
    time_bytes,
)

NOW = datetime(2025, 1, 15, 10, 30, 0, 123456, UTC)


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (0, b"\x00"),
        (-1, b"\x01"),
        (1, b"\x02"),
        (-64, b"\x7f"),
        (64, b"\x80\x01"),
        (-(2**63), b"\xff" * 9 + b"\x01"),
    ],
)
def test_numbers_are_zigzag_varints(number, written):
    assert long_bytes(number) == written


def test_a_length_is_looked_up_like_any_number():
    assert [LENGTHS[8191], long_bytes(8191), long_bytes(8192)] == [b"\xfe\x7f", b"\xfe\x7f", b"\x80\x80\x01"]


def test_a_text_has_its_length_in_bytes_and_an_optional_one_its_branch_of_the_union():
    assert text_bytes("ü") == b"\x04\xc3\xbc"
    assert [optional_text_bytes(None), optional_text_bytes(""), optional_text_bytes("a")] == [
        b"\x00",
        b"\x02\x00",
        b"\x02\x02a",
    ]


def test_a_time_in_another_zone_and_one_without_are_written_in_utc():
    here = NOW.astimezone(timezone(timedelta(hours=-5)))
    assert (
        time_bytes(here) == time_bytes(NOW) == time_bytes(NOW.replace(tzinfo=None)) == long_bytes(microseconds(NOW))
    )


def test_a_datetime_of_a_strangers_class_is_written_by_what_it_answers():
    class Shifted(datetime):
        def __sub__(self, other):
            return super().__sub__(other) + timedelta(hours=1)

    time_bytes(NOW)
    shifted = Shifted(2025, 1, 15, 10, 30, 0, 123456, UTC)
    assert time_bytes(shifted) == long_bytes(microseconds(NOW + timedelta(hours=1)))


class TestBytesCache:
    def test_each_is_made_once(self):
        made: list[str] = []

        def write(text: str) -> bytes:
            made.append(text)
            return text.encode()

        cache = BytesCache(write)
        assert [cache[text] for text in ("a", "b", "a")] == [b"a", b"b", b"a"]
        assert made == ["a", "b"]

    def test_it_never_holds_more_than_it_may(self):
        cache = BytesCache(str.encode, max_entries=10)
        for number in range(1000):
            assert cache[f"{number}"] == f"{number}".encode()
            assert len(cache) <= 10

    def test_what_is_long_is_not_kept(self):
        cache = BytesCache(str.encode, max_entry_bytes=10)
        assert [cache["x" * 11], cache["x" * 10]] == [b"x" * 11, b"x" * 10]
        assert list(cache) == ["x" * 10]

    def test_what_cannot_be_written_is_said_each_time(self):
        cache = BytesCache(str.encode)
        for _ in range(2):
            with pytest.raises(UnicodeEncodeError):
                cache["\ud800"]
