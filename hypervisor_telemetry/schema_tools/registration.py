"""`schemas check` and `schemas register`: the event's schema in a registry with Confluent's API.

Only a person or a deployment registers; agents and services read. What the registry refuses stays as it is.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from hypervisor_schemas.connection import registry_url
from hypervisor_schemas.errors import RegistryUnavailable, SettingError
from hypervisor_schemas.printable import printable
from hypervisor_schemas.wire.codec import SUBJECT, schema_text
from hypervisor_schemas.wire.registry_http import RegistryAnswer, RegistryHttp
from hypervisor_telemetry.schema_tools.check_result import CheckResult

__all__ = ["LEVEL", "check_schema", "differences", "register_schema"]

LEVEL = "FULL_TRANSITIVE"
"""The level by which a registry checks newer versions: every version reads the records of every other."""

QUOTED = urllib.parse.quote(SUBJECT, safe="")
PATH = f"/subjects/{QUOTED}"
_FORM = "http[s]://[user:password@]host[:port][/path]"
_TIMEOUT_SECONDS = 5.0


def check_schema(environ: Mapping[str, str], wait: float = 0.0, text: str | None = None) -> list[CheckResult]:
    """Compare the event's schema with the registry's; changes nothing. Waits `wait` seconds at most for an answer.

    Args:
        environ: Has `SCHEMA_REGISTRY_URL`.
        wait: The seconds for which a registry that can't be reached is asked again.
        text: The schema to use in place of this version's.

    Raises:
        SettingError: `SCHEMA_REGISTRY_URL` is missing or wrong.
        RegistryUnavailable: The registry can't be reached, is in trouble, or wants other credentials.
    """
    return _Subject(_reached_registry(environ, wait), text or schema_text()).results()


def register_schema(environ: Mapping[str, str], wait: float = 0.0, text: str | None = None) -> list[CheckResult]:
    """Register the event's schema, unless it is registered, and set the subject's compatibility to `LEVEL`.

    Arguments and errors as of `check_schema`.
    """
    subject = _Subject(_reached_registry(environ, wait), text or schema_text())
    subject.set_level()
    return subject.register() or subject.results()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The changes from the old schema to the new one, field by field, without those of documentation. Pure."""
    changes = [] if _full_name(old) == _full_name(new) else [f"{_full_name(old)} becomes {_full_name(new)}"]
    before, after = ({field["name"]: field for field in schema.get("fields", ())} for schema in (old, new))
    changes += [f"without {name}" for name in before if name not in after]
    for name, field in after.items():
        if name not in before:
            changes.append(f"with {name}, {_shown(field)}")
        elif _shown(before[name]) != _shown(field):
            changes.append(f"{name}, {_shown(before[name])}, becomes {_shown(field)}")
    return changes


def _full_name(schema: Mapping[str, Any]) -> str:
    name = str(schema.get("name"))
    return name if "." in name or not schema.get("namespace") else f"{schema['namespace']}.{name}"


def _shown(field: Mapping[str, Any]) -> str:
    default = f" with default {json.dumps(field['default'])}" if "default" in field else " without a default"
    return json.dumps(field["type"]) + default


class _Subject:
    """The event's subject in this registry, and the schema that should be registered there."""

    def __init__(self, registry: RegistryHttp, text: str) -> None:
        self._registry = registry
        self._text = text
        self._schema = {"schema": text}

    def results(self) -> list[CheckResult]:
        """The results for the schema and for the level by which newer ones are checked."""
        registered = self._ask(PATH, self._schema)
        if not registered.is_unknown:
            return [
                CheckResult(SUBJECT, "ok", f"registered: {self._id_and_version(registered)}"),
                *self._level_results(),
            ]
        latest = self._ask(f"{PATH}/versions/latest")
        if latest.is_unknown:
            return [
                CheckResult(SUBJECT, "missing", "isn't registered; `hypervisor-telemetry schemas register` does it")
            ]
        return [self._change(latest), *self._level_results()]

    def set_level(self) -> None:
        """Set the level. A registry that doesn't allow it keeps its own, and `results` warns of that."""
        if self._level() != LEVEL:
            with contextlib.suppress(RegistryUnavailable):
                self._registry.ask(f"/config/{QUOTED}", {"compatibility": LEVEL}, method="PUT")

    def register(self) -> list[CheckResult]:
        """Register the schema. Returns the results; none if it was registered before."""
        if not self._ask(PATH, self._schema).is_unknown:
            return []
        answer = self._registry.ask(f"{PATH}/versions", self._schema)
        if answer.status >= 400:
            return [CheckResult(SUBJECT, "refused", f"the registry doesn't take this version: {answer.reason}")]
        registered = self._id_and_version(self._ask(PATH, self._schema))
        return [CheckResult(SUBJECT, "created", f"registered now: {registered}"), *self._level_results()]

    def _change(self, latest: RegistryAnswer) -> CheckResult:
        try:
            changes = differences(json.loads(latest.body["schema"]), json.loads(self._text))
        except (TypeError, ValueError, AttributeError, KeyError):
            raise self._registry.strange() from None
        change = f"It changes version {latest.body.get('version')}: {'; '.join(changes) or 'documentation only'}."
        answer = self._ask(f"/compatibility{PATH}/versions?verbose=true", self._schema)
        if answer.body.get("is_compatible") is True:
            sentence = "isn't registered as it is here; `hypervisor-telemetry schemas register` does it."
            return CheckResult(SUBJECT, "different", f"{sentence} {change}")
        messages = answer.body.get("messages")
        reasons = messages if isinstance(messages, list) else []
        why = [f"The registry says: {printable(str(reason), 500, as_line=True)}" for reason in reasons]
        return CheckResult(SUBJECT, "refused", " ".join(["the registry won't take this version.", change, *why]))

    def _level(self) -> str | None:
        """The level of the subject: its own, else the registry's; None if the registry tells neither."""
        for path in (f"/config/{QUOTED}", "/config"):
            answer = self._registry.ask(path)
            if answer.status < 400 and isinstance(answer.body, dict):
                return str(answer.body.get("compatibilityLevel"))
        return None

    def _level_results(self) -> list[CheckResult]:
        level = self._level()
        if level == LEVEL:
            return [CheckResult(SUBJECT, "ok", f"newer versions are checked by {LEVEL}")]
        return [CheckResult(SUBJECT, "warning", f"newer versions are checked by {level}, not by {LEVEL}")]

    def _id_and_version(self, answer: RegistryAnswer) -> str:
        try:
            return f"id {int(answer.body['id'])}, version {int(answer.body['version'])}"
        except (KeyError, TypeError, ValueError):
            raise self._registry.strange() from None

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> RegistryAnswer:
        """An answer that is a JSON object, or that says that the subject, version or schema is unknown."""
        answer = self._registry.ask(path, body)
        if answer.is_unknown:
            return answer
        if answer.status == 404:
            raise self._registry.no_registry()
        if answer.status >= 400:
            raise RegistryUnavailable(
                f"The schema registry at {self._registry.address} refuses the question: {answer.reason}."
            )
        if not isinstance(answer.body, dict):
            raise self._registry.strange()
        return answer


def _reached_registry(environ: Mapping[str, str], wait: float) -> RegistryHttp:
    """A client of the registry, once it has answered."""
    url = registry_url(environ)
    if not url:
        raise SettingError("SCHEMA_REGISTRY_URL", f"is not set; give the address of your registry, {_FORM}.")
    registry = RegistryHttp(url, _TIMEOUT_SECONDS)
    give_up_at = time.monotonic() + wait
    while True:
        try:
            registry.ask(f"{PATH}/versions")
        except RegistryUnavailable:
            if time.monotonic() >= give_up_at:
                raise
            time.sleep(0.5)  # a registry that starts takes seconds
        else:
            return registry
