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
from hypervisor_schemas.wire.codec import SUBJECT, schema_text
from hypervisor_schemas.wire.registry_http import RegistryAnswer, RegistryHttp
from hypervisor_telemetry.schema_tools.check_result import Finding

__all__ = ["LEVEL", "check_schema", "differences", "register_schema"]

LEVEL = "FULL_TRANSITIVE"
"""Every version reads what every other one writes; a registry holds newer ones against it."""

QUOTED = urllib.parse.quote(SUBJECT, safe="")
PATH = f"/subjects/{QUOTED}"
_FORM = "http[s]://[user:password@]host[:port][/path]"
_TIMEOUT = 5.0


def check_schema(environ: Mapping[str, str], wait: float = 0.0, text: str | None = None) -> list[Finding]:
    """What the registry has of the event's schema; changes nothing. Waits `wait` seconds at most for an answer.

    Args:
        environ: Has `SCHEMA_REGISTRY_URL`.
        wait: Seconds for which a registry that can't be reached is asked again.
        text: The schema in place of this version's.

    Raises:
        SettingError: `SCHEMA_REGISTRY_URL` is missing or wrong.
        RegistryUnavailable: The registry can't be reached, is in trouble, or wants other credentials.
    """
    return _Subject(_reached(environ, wait), text or schema_text()).findings()


def register_schema(environ: Mapping[str, str], wait: float = 0.0, text: str | None = None) -> list[Finding]:
    """Register the event's schema, unless it is registered, and set the subject's compatibility to `LEVEL`.

    Arguments and errors as of `check_schema`.
    """
    subject = _Subject(_reached(environ, wait), text or schema_text())
    subject.set_level()
    return subject.register() or subject.findings()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What the new schema changes in the old one, field by field; documentation counts for nothing. Pure."""
    found = [] if _full_name(old) == _full_name(new) else [f"{_full_name(old)} becomes {_full_name(new)}"]
    before, after = ({field["name"]: field for field in schema.get("fields", ())} for schema in (old, new))
    found += [f"without {name}" for name in before if name not in after]
    for name, field in after.items():
        if name not in before:
            found.append(f"with {name}, {_shown(field)}")
        elif _shown(before[name]) != _shown(field):
            found.append(f"{name}, {_shown(before[name])}, becomes {_shown(field)}")
    return found


def _full_name(schema: Mapping[str, Any]) -> str:
    name = str(schema.get("name"))
    return name if "." in name or not schema.get("namespace") else f"{schema['namespace']}.{name}"


def _shown(field: Mapping[str, Any]) -> str:
    default = f" with default {json.dumps(field['default'])}" if "default" in field else " without a default"
    return json.dumps(field["type"]) + default


class _Subject:
    """The one subject, as this registry has it, and the schema that should be in it."""

    def __init__(self, registry: RegistryHttp, text: str) -> None:
        self._registry = registry
        self._text = text
        self._schema = {"schema": text}

    def findings(self) -> list[Finding]:
        """Whether it is registered, and by which level newer ones are checked."""
        found = self._asked(PATH, self._schema)
        if not found.is_unknown:
            return [Finding(SUBJECT, "ok", f"registered: {self._place(found)}"), *self._level_findings()]
        latest = self._asked(f"{PATH}/versions/latest")
        if latest.is_unknown:
            return [
                Finding(SUBJECT, "missing", "isn't registered; `hypervisor-telemetry schemas register` does it")
            ]
        return [self._change(latest), *self._level_findings()]

    def set_level(self) -> None:
        """A registry that doesn't let it be set keeps its own; `findings` warns of that."""
        if self._level() != LEVEL:
            with contextlib.suppress(RegistryUnavailable):
                self._registry.ask(f"/config/{QUOTED}", {"compatibility": LEVEL}, method="PUT")

    def register(self) -> list[Finding]:
        """What came of it; nothing if it was registered before."""
        if not self._asked(PATH, self._schema).is_unknown:
            return []
        answer = self._registry.ask(f"{PATH}/versions", self._schema)
        if answer.status >= 400:
            return [Finding(SUBJECT, "refused", f"the registry doesn't take this version: {answer.reason}")]
        place = self._place(self._asked(PATH, self._schema))
        return [Finding(SUBJECT, "created", f"registered now: {place}"), *self._level_findings()]

    def _change(self, latest: RegistryAnswer) -> Finding:
        try:
            changes = differences(json.loads(latest.body["schema"]), json.loads(self._text))
        except (TypeError, ValueError, AttributeError, KeyError):
            raise self._registry.strange() from None
        change = f"It changes version {latest.body.get('version')}: {'; '.join(changes) or 'documentation only'}."
        answer = self._asked(f"/compatibility{PATH}/versions?verbose=true", self._schema)
        if answer.body.get("is_compatible") is True:
            sentence = "isn't registered as it is here; `hypervisor-telemetry schemas register` does it."
            return Finding(SUBJECT, "different", f"{sentence} {change}")
        messages = answer.body.get("messages")
        why = [f"The registry says: {_one_line(message)}" for message in messages] if _is_list(messages) else []
        return Finding(SUBJECT, "refused", " ".join(["the registry won't take this version.", change, *why]))

    def _level(self) -> str | None:
        """The level that holds for the subject: its own, else the registry's; None if neither is told."""
        for path in (f"/config/{QUOTED}", "/config"):
            answer = self._registry.ask(path)
            if answer.status < 400 and isinstance(answer.body, dict):
                return str(answer.body.get("compatibilityLevel"))
        return None

    def _level_findings(self) -> list[Finding]:
        level = self._level()
        if level == LEVEL:
            return [Finding(SUBJECT, "ok", f"newer versions are checked by {LEVEL}")]
        return [Finding(SUBJECT, "warning", f"newer versions are checked by {level}, not by {LEVEL}")]

    def _place(self, found: RegistryAnswer) -> str:
        try:
            return f"id {int(found.body['id'])}, version {int(found.body['version'])}"
        except (KeyError, TypeError, ValueError):
            raise self._registry.strange() from None

    def _asked(self, path: str, body: Mapping[str, Any] | None = None) -> RegistryAnswer:
        """An answer that is an object, or that it doesn't know the subject, version or schema."""
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


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _one_line(value: object) -> str:
    return "".join(character for character in " ".join(str(value).split()) if character.isprintable())[:500]


def _reached(environ: Mapping[str, str], wait: float) -> RegistryHttp:
    """A registry that has answered."""
    url = registry_url(environ)
    if not url:
        raise SettingError("SCHEMA_REGISTRY_URL", f"is not set; give the address of your registry, {_FORM}.")
    registry = RegistryHttp(url, _TIMEOUT)
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
