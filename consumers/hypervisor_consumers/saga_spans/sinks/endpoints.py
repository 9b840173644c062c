"""Addresses of receivers, and how they are shown: without the secrets that may stand in them."""

from __future__ import annotations

import base64
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from hypervisor_schemas.errors import SettingError

__all__ = ["Endpoint", "parse_endpoint", "redacted_url"]


class Endpoint(NamedTuple):
    """A receiver's address of HTTP."""

    url: str
    """The address without user and password."""
    redacted_url: str
    """The same for people, without the query: keys may stand there."""
    authorization: str | None
    """The header's value for the user and password of the address."""

    def __repr__(self) -> str:
        return f"Endpoint({self.redacted_url})"


def parse_endpoint(setting: str, text: str) -> Endpoint:
    """The endpoint that is written as `http[s]://[user:password@]host[:port][/path][?query]`.

    Raises:
        SettingError: It isn't written so; the text is not shown.
    """
    parts = _split(text)
    if parts is None:
        raise SettingError(setting, "must be http://host[:port][/path] or https://….")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Endpoint(_without_user(parts), redacted_url(text), authorization)


def redacted_url(text: str) -> str:
    """An address without user, password and query; the first word of a text that is no address."""
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
