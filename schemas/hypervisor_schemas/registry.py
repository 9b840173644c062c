"""Schema ids from a schema registry with Confluent's API. Reads only: agents and services never register."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from hypervisor_schemas.errors import RegistryUnavailable, SettingError, UnknownSchema

__all__ = ["SchemaRegistry"]


class SchemaRegistry:
    """The registry at `url`, `http[s]://[user:password@]host[:port][/path]`.

    A call blocks for at most `timeout` seconds.
    """

    def __init__(self, url: str, timeout: float = 5.0) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise SettingError("SCHEMA_REGISTRY_URL", "must be http://host[:port][/path] or https://….")
        host = parts.netloc.rpartition("@")[2]
        self._base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        self._headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        if parts.username is not None:
            user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
            self._headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._timeout = timeout
        self._strange = f"The schema registry at {self._base} gave an answer of another form."

    def schema_by_id(self, schema_id: int) -> str:
        """The schema's text.

        Raises:
            UnknownSchema: The registry doesn't know the id, or it isn't Avro.
            RegistryUnavailable: It can't be reached or is in trouble.
        """
        answer = self._ask(f"/schemas/ids/{schema_id}", None)
        if answer is None:
            raise UnknownSchema(f"The schema registry doesn't know id {schema_id}.")
        if answer.get("schemaType", "AVRO") != "AVRO" or not isinstance(answer.get("schema"), str):
            raise UnknownSchema(f"Schema id {schema_id} is not an Avro schema.")
        return str(answer["schema"])

    def id_of(self, subject: str, schema: str) -> int | None:
        """The id under which this very schema is registered for `subject`; None if it isn't.

        Raises:
            RegistryUnavailable: The registry can't be reached or is in trouble.
        """
        answer = self._ask(f"/subjects/{urllib.parse.quote(subject, safe='')}", {"schema": schema})
        if answer is None:
            return None
        if type(answer.get("id")) is not int:
            raise RegistryUnavailable(self._strange)
        return int(answer["id"])

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any] | None:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self._base + path,
            data=None if body is None else json.dumps(body).encode(),
            headers=self._headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise RegistryUnavailable(f"The schema registry at {self._base} answered {error.code}.") from None
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            raise RegistryUnavailable(f"The schema registry at {self._base} can't be reached: {error}.") from None
        if not isinstance(answer, dict):
            raise RegistryUnavailable(self._strange)
        return answer
