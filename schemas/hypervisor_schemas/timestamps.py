"""Event times in the form of the wire: whole microseconds since 1970, UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["datetime_of", "microseconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """The exact number of microseconds since 1970. A time without a zone counts as UTC.

    Raises:
        OverflowError: In UTC the time is outside the years 1 to 9999, so that it could not be read back.
    """
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    elif moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return (moment - _EPOCH) // _MICROSECOND


def datetime_of(time_us: int) -> datetime:
    """The time, in UTC, that is so many microseconds after 1970.

    Raises:
        OverflowError: The time is outside the years 1 to 9999.
    """
    return _EPOCH + timedelta(microseconds=time_us)
