"""Addresses of receivers, and how to show them: without the secrets that may stand in them."""

from __future__ import annotations

import base64
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from hypervisor_schemas.errors import SettingError

__all__ = ["Address", "read_address", "shown"]


class Address(NamedTuple):
    """An address of HTTP."""

    url: str
    """Without user and password."""
    shown: str
    """For people: without query either, where keys stand."""
    authorization: str | None
    """The header that user and password make."""

    def __repr__(self) -> str:
        return f"Address({self.shown})"


def read_address(setting: str, text: str) -> Address:
    """`http[s]://[user:password@]host[:port][/path][?query]`.

    Raises:
        SettingError: It is none; the text is not shown.
    """
    parts = _split(text)
    if parts is None:
        raise SettingError(setting, "must be http://host[:port][/path] or https://….")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Address(_without_user(parts), shown(text), authorization)


def shown(text: str) -> str:
    """An address without user, password and query; of a text that is none, the first word."""
    parts = _split(text)
    if parts is None:
        return text if text.isalnum() else text.partition(":")[0] + ":…"
    return _without_user(parts._replace(query="", fragment=""))


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            return None
    except ValueError:
        return None
    return None if any(character.isspace() for character in text) else parts


def _without_user(parts: SplitResult) -> str:
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
