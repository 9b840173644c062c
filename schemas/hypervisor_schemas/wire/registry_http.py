"""Questions to a schema registry over HTTP, as Confluent's API asks them, and what came back."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypervisor_schemas.errors import RegistryUnavailable, SettingError

__all__ = ["RegistryAnswer", "RegistryHttp"]


@dataclass(frozen=True, slots=True)
class RegistryAnswer:
    """What the registry said, with a status below 500 that is no error of access."""

    status: int
    body: Any
    """The JSON of its body; of a status of 400 or more None, where there is none."""

    @property
    def is_unknown(self) -> bool:
        """Whether it doesn't know what it was asked for. A 404 of anything else than a registry says nothing."""
        code = self.body.get("error_code") if isinstance(self.body, dict) else None
        return self.status == 404 and isinstance(code, int) and 40400 <= code <= 40499

    @property
    def reason(self) -> str:
        """Why it refused, in its own words, as one line."""
        message = self.body.get("message") if isinstance(self.body, dict) else None
        words = " ".join(str(message or "").split())
        printable = "".join(character for character in words if character.isprintable())
        return printable[:_LONGEST_REASON].rstrip(".") or f"it answered {self.status}"


class RegistryHttp:
    """The registry at `url`, `http[s]://[user:password@]host[:port][/path]`; the password is never shown.

    A call blocks for at most `timeout` seconds.

    Raises:
        SettingError: The URL can't be used.
    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise SettingError("SCHEMA_REGISTRY_URL", "must be http://host[:port][/path] or https://….")
        host = parts.netloc.rpartition("@")[2]
        self.address = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        """Where it is, without user and password."""
        self._headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        if parts.username is not None:
            user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
            self._headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._timeout = timeout

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, method: str | None = None) -> RegistryAnswer:
        """GET `path`, or POST `body` to it, or another `method`.

        Raises:
            RegistryUnavailable: It can't be reached, is in trouble (5xx, 429), wants other credentials, or its
                answer is no JSON.
        """
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self.address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers=self._headers,
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                return RegistryAnswer(response.status, json.load(response))
        except urllib.error.HTTPError as error:
            with error:
                if error.code not in _REFUSALS:
                    raise RegistryUnavailable(
                        f"The schema registry at {self.address} answered {error.code}."
                    ) from None
                return RegistryAnswer(error.code, _json_or_none(error))
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            raise RegistryUnavailable(f"The schema registry at {self.address} can't be reached: {error}.") from None

    def strange(self) -> RegistryUnavailable:
        """The error for an answer of another form than Confluent's API has."""
        return RegistryUnavailable(f"The schema registry at {self.address} gave an answer of another form.")

    def no_registry(self) -> RegistryUnavailable:
        """The error for a 404 that isn't a registry's."""
        return RegistryUnavailable(
            f"At {self.address} no schema registry answers (404); check SCHEMA_REGISTRY_URL: its path has "
            "to lead to an API as Confluent's (Apicurio's is /apis/ccompat/v7)."
        )


_REFUSALS = frozenset({400, 404, 405, 409, 422})
"""Answers to the question itself; any other error says that it can't be asked now, or not by us."""

_LONGEST_REASON = 500


def _json_or_none(error: urllib.error.HTTPError) -> Any:
    try:
        return json.load(error)
    except (OSError, ValueError, RecursionError, http.client.HTTPException):
        return None
