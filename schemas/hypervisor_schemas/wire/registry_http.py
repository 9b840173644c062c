"""Requests to a schema registry with Confluent's API, and its answers."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypervisor_schemas.errors import RegistryUnavailable, SettingError
from hypervisor_schemas.http_client import HttpClient, NoAnswer
from hypervisor_schemas.printable import printable

__all__ = ["RegistryAnswer", "RegistryHttp"]


_REFUSALS = frozenset({400, 404, 405, 409, 422})
"""Statuses that answer the question itself; any other error means that it can't be asked now, or not by us."""

_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_MAX_REASON_CHARACTERS = 500
_MAX_REDIRECTS = 3
_NOT_JSON = object()


@dataclass(frozen=True, slots=True)
class RegistryAnswer:
    """An answer to the question: a success, or a refusal of the question itself."""

    status: int
    body: Any
    """The JSON of its body. None for a refusal whose body is no JSON."""

    @property
    def is_unknown(self) -> bool:
        """Whether a registry says that it doesn't know the thing. A 404 of another program doesn't say that."""
        code = self.body.get("error_code") if isinstance(self.body, dict) else None
        return self.status == 404 and isinstance(code, int) and 40400 <= code <= 40499

    @property
    def reason(self) -> str:
        """The registry's reason for refusing, as one line."""
        message = self.body.get("message") if isinstance(self.body, dict) else None
        text = printable(str(message or ""), _MAX_REASON_CHARACTERS, as_line=True)
        return text.rstrip(".") or f"it answered {self.status}"


class RegistryHttp:
    """The registry at `url`, `http[s]://[user:password@]host[:port][/path]`; the password is never shown.

    A call takes `timeout_seconds`, twice as long at most. User and password go to the registry's own origin only.

    Raises:
        SettingError: The URL can't be used.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise SettingError("SCHEMA_REGISTRY_URL", "must be http://host[:port][/path] or https://….")
        host = parts.netloc.rpartition("@")[2]
        self.address = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        """The registry's URL without user and password."""
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        if parts.username is not None:
            user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._http = HttpClient(timeout_seconds=timeout_seconds, headers=headers)

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, method: str | None = None) -> RegistryAnswer:
        """GET `path`, or POST `body` to it, or another `method`.

        Raises:
            RegistryUnavailable: It can't be reached, is in trouble (5xx, 429), wants other credentials, or its
                answer is no JSON.
        """
        try:
            answer = self._http.request(
                method or ("GET" if body is None else "POST"),
                self.address + path,
                body=None if body is None else json.dumps(body).encode(),
                max_bytes=_MAX_ANSWER_BYTES,
                redirects=_MAX_REDIRECTS,
            )
        except NoAnswer as error:
            raise RegistryUnavailable(f"The schema registry at {self.address} can't be reached: {error}.") from None
        content = _json(answer.body)
        if answer.status in _REFUSALS:
            return RegistryAnswer(answer.status, None if content is _NOT_JSON else content)
        if not 200 <= answer.status < 300:
            advice = "; set SCHEMA_REGISTRY_URL to where it is now" if 300 <= answer.status < 400 else ""
            raise RegistryUnavailable(f"The schema registry at {self.address} answered {answer.status}{advice}.")
        if content is _NOT_JSON:
            raise self.strange()
        return RegistryAnswer(answer.status, content)

    def strange(self) -> RegistryUnavailable:
        """The error for an answer of another form than Confluent's API has."""
        return RegistryUnavailable(f"The schema registry at {self.address} gave an answer of another form.")

    def no_registry(self) -> RegistryUnavailable:
        """The error for a 404 that isn't a registry's."""
        return RegistryUnavailable(
            f"At {self.address} no schema registry answers (404); check SCHEMA_REGISTRY_URL: its path has "
            "to lead to an API as Confluent's (Apicurio's is /apis/ccompat/v7)."
        )


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _NOT_JSON
