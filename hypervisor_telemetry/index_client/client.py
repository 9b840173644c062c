"""HTTP to an event index: answers as JSON, and its stream of events. Needs nothing beyond the base install."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from hypervisor_schemas.errors import IndexRefused, IndexUnavailable, SettingError

__all__ = ["IndexClient", "Message", "Parameters"]

Parameters: TypeAlias = Mapping[str, str | Sequence[str] | None]
"""Query parameters; those that are None are left out, several values are several parameters of that name."""

_NONE: Parameters = MappingProxyType({})
_TRY_LATER = frozenset({429, 502, 503, 504})
_SILENCE = 60.0
"""Seconds; a stream says at least that it is alive every 15."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream; either may be absent."""

    id: str | None
    """Where to go on after this message."""
    event: dict[str, Any] | None


class IndexClient:
    """Asks the `event-index` at `url`, `http[s]://host[:port][/path]`; threads may share it.

    `token` is the service's `TELEMETRY_API_TOKEN`, sent to that address only: redirects aren't followed. A request
    takes `timeout` seconds at most.

    Every method raises:
        IndexUnavailable: The index can't be reached or can't answer now; the same may succeed later.
        IndexRefused: It refused: without the right token, for a value out of its bounds, or for what isn't there.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 10.0) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or "@" in parts.netloc or parts.query or parts.fragment:
            raise SettingError("url", "must be http://host[:port][/path] or https://…, and nothing besides.")
        self._base = url.rstrip("/")
        self._headers = {}
        if token:
            # As bytes of UTF-8, which the header carries as Latin-1.
            self._headers["Authorization"] = f"Bearer {token}".encode().decode("latin-1")
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirects)

    def ask(self, path: str, parameters: Parameters = _NONE, *, patience: float = 0.0) -> dict[str, Any]:
        """The answer to `GET path`; `patience`: seconds that the index itself may wait besides."""
        headers = {"Accept": "application/json"}
        with self._open(path, parameters, headers, self._timeout + patience) as response:
            try:
                answer = json.load(response)
            except (ValueError, RecursionError):
                answer = None
        if not isinstance(answer, dict) or "freshness" not in answer:
            raise self._stranger()
        return answer

    def stream(self, path: str, parameters: Parameters = _NONE, *, after: str | None = None) -> Iterator[Message]:
        """The messages of one connection to `GET path`, until the index ends it; `after`: the id to go on after."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        with self._open(path, parameters, headers, _SILENCE) as response:
            if response.headers.get_content_type() != "text/event-stream":
                raise self._stranger()
            yield from _messages(response)

    @contextlib.contextmanager
    def _open(
        self, path: str, parameters: Parameters, headers: Mapping[str, str], timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        given = {name: value for name, value in parameters.items() if value is not None}
        url = f"{self._base}{path}?{urllib.parse.urlencode(given, doseq=True)}"
        request = urllib.request.Request(url, headers={**self._headers, **headers})  # noqa: S310 - checked
        try:
            with self._opener.open(request, timeout=timeout) as response:
                yield response
        except urllib.error.HTTPError as error:
            with error:
                sentence = _sentence(error)
            kind = IndexUnavailable if error.code in _TRY_LATER else IndexRefused
            raise kind(f"The event index at {self._base} answered {error.code}{sentence}") from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error) or type(error).__name__
            raise IndexUnavailable(f"The event index at {self._base} can't be reached: {cause}.") from error

    def _stranger(self) -> IndexRefused:
        return IndexRefused(f"What answers at {self._base} is no event index.")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would take the token along to wherever it is sent."""

    def redirect_request(self, *_: Any) -> None:
        """Leave the redirect as the answer."""


def _messages(lines: Iterable[bytes]) -> Iterator[Message]:
    """Server-sent events, as the HTML standard reads them."""
    last: str | None = None
    data: list[str] = []
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id" and "\0" not in value:
                last = value
            elif name == "data":
                data.append(value)
            continue
        if data or last is not None:
            yield Message(last, _event("\n".join(data)))
        last, data = None, []


def _event(data: str) -> dict[str, Any] | None:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "event_id" in event else None


def _sentence(error: urllib.error.HTTPError) -> str:
    """What the service says of the matter, to be put behind the status."""
    try:
        detail = json.load(error)["detail"]
        if isinstance(detail, list):
            detail = " ".join(f"{one['loc'][-1]}: {one['msg']}" for one in detail)
    except (OSError, http.client.HTTPException, ValueError, TypeError, LookupError):
        return "."
    return f": {detail}"
