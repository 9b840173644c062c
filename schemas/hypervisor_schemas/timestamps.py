"""Event times as the wire has them: whole microseconds since 1970, UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["datetime_of", "microseconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exact; a time without a zone counts as UTC.

    Raises:
        OverflowError: In UTC it is outside the years 1 to 9999, so that nobody could read it back.
    """
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    elif moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return (moment - _EPOCH) // _MICROSECOND


def datetime_of(micros: int) -> datetime:
    """The same in UTC.

    Raises:
        OverflowError: Outside the years 1 to 9999.
    """
    return _EPOCH + timedelta(microseconds=micros)
