"""A client of the event index's HTTP API: answers as JSON, and the stream of events. Runs in the base install."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from hypervisor_schemas.errors import IndexRefused, IndexUnavailable, SettingError
from hypervisor_schemas.http_client import HttpAnswer, HttpClient, NoAnswer
from hypervisor_schemas.printable import printable

__all__ = ["IndexClient", "Message", "Parameters"]

Parameters: TypeAlias = Mapping[str, str | Sequence[str] | None]
"""Query parameters; those that are None are left out, several values are several parameters of that name."""

_NONE: Parameters = MappingProxyType({})
_TRY_LATER = frozenset({429, 502, 503, 504})
_SILENCE_SECONDS = 60.0
"""A stream sends something at least every 15 seconds."""

_MAX_ERROR_BYTES = 64 * 1024
_MAX_REASON_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream; either part may be absent."""

    id: str | None
    """The position to go on after, to be given as `after`."""
    event: dict[str, Any] | None


class IndexClient:
    """Asks the `event-index` at `url`, `http[s]://host[:port][/path]`; threads may share it.

    `token` is the service's `TELEMETRY_API_TOKEN`, sent to that address only: redirects aren't followed. A request
    takes `timeout` seconds, twice as long at most.

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
        headers = {}
        if token:
            # As bytes of UTF-8, which the header carries as Latin-1.
            headers["Authorization"] = f"Bearer {token}".encode().decode("latin-1")
        self._timeout_seconds = timeout
        self._http = HttpClient(timeout_seconds=timeout, headers=headers)

    def ask(self, path: str, parameters: Parameters = _NONE, *, wait_seconds: float = 0.0) -> dict[str, Any]:
        """The answer to `GET path`; `wait_seconds`: how long the index itself may wait besides."""
        try:
            answer = self._http.request(
                "GET",
                self._url(path, parameters),
                headers={"Accept": "application/json"},
                timeout_seconds=self._timeout_seconds + wait_seconds,
            )
        except NoAnswer as error:
            raise self._unreachable(error) from error
        self._check_status(answer)
        try:
            content = json.loads(answer.body)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or "freshness" not in content:
            raise self._stranger()
        return content

    def stream(self, path: str, parameters: Parameters = _NONE, *, after: str | None = None) -> Iterator[Message]:
        """The messages of one connection to `GET path`, until the index ends it; `after`: the id to go on after."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        try:
            with self._http.stream(self._url(path, parameters), headers, _SILENCE_SECONDS) as response:
                if not 200 <= response.status < 300:
                    body = response.read(_MAX_ERROR_BYTES)
                    self._check_status(HttpAnswer(response.status, response.headers, body))
                if _content_type(response.headers) != "text/event-stream":
                    raise self._stranger()
                yield from _messages(response.lines())
        except NoAnswer as error:
            raise self._unreachable(error) from error

    def _url(self, path: str, parameters: Parameters) -> str:
        query = {name: value for name, value in parameters.items() if value is not None}
        return f"{self._base}{path}?{urllib.parse.urlencode(query, doseq=True)}"

    def _check_status(self, answer: HttpAnswer) -> None:
        if not 200 <= answer.status < 300:
            kind = IndexUnavailable if answer.status in _TRY_LATER else IndexRefused
            raise kind(f"The event index at {self._base} answered {answer.status}{_detail(answer.body)}")

    def _unreachable(self, error: NoAnswer) -> IndexUnavailable:
        return IndexUnavailable(f"The event index at {self._base} can't be reached: {error}.")

    def _stranger(self) -> IndexRefused:
        return IndexRefused(f"What answers at {self._base} is no event index.")


def _content_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _messages(lines: Iterable[bytes]) -> Iterator[Message]:
    """Parse server-sent events, as the HTML standard does."""
    last: str | None = None
    data: list[str] = []
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r")
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


def _detail(body: bytes) -> str:
    """The service's own sentence about an error, to be put behind the status."""
    try:
        detail = json.loads(body)["detail"]
        if isinstance(detail, list):
            detail = " ".join(f"{one['loc'][-1]}: {one['msg']}" for one in detail)
    except (ValueError, RecursionError, TypeError, LookupError):
        return "."
    return f": {printable(str(detail), _MAX_REASON_CHARACTERS, as_line=True)}"
