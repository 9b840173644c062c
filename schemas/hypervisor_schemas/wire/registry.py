"""Schema ids from a schema registry with Confluent's API. Reads only: agents and services never register."""

from __future__ import annotations

import urllib.parse
from typing import Any

from hypervisor_schemas.errors import RegistryUnavailable, UnknownSchema
from hypervisor_schemas.wire.registry_http import RegistryHttp

__all__ = ["SchemaRegistry"]


class SchemaRegistry:
    """The registry at `url`, `http[s]://[user:password@]host[:port][/path]`.

    A call takes `timeout` seconds, twice as long at most.

    Raises:
        SettingError: The URL can't be used.
    """

    def __init__(self, url: str, timeout: float = 5.0) -> None:
        self._http = RegistryHttp(url, timeout)

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
            raise self._http.strange()
        return int(answer["id"])

    def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
        answer = self._http.ask(path, body)
        if answer.is_unknown:
            return None
        if answer.status == 404:
            # Of a wrong path, too: taken for "unknown", it would make a dead letter of every record.
            raise self._http.no_registry()
        if answer.status >= 400:
            raise RegistryUnavailable(f"The schema registry at {self._http.address} answered {answer.status}.")
        if not isinstance(answer.body, dict):
            raise self._http.strange()
        return answer.body
