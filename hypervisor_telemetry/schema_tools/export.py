"""Exports the contract as files for any language. The same version writes the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from hypervisor_schemas.agent_rings import AgentRing
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.typed_payloads import DIALECT, TYPED_PAYLOADS, json_schema
from hypervisor_schemas.wire.codec import SUBJECT, schema_text
from hypervisor_telemetry.schema_tools.asyncapi import asyncapi_document

__all__ = ["contract_files", "export_contract"]


def export_contract(folder: Path, environ: Mapping[str, str]) -> list[Path]:
    """Write every file of the contract below `folder`; what else lies there stays. Returns their paths.

    Raises:
        SettingError: The folder can't be written to, or `TELEMETRY_TOPIC_PREFIX` is wrong.
    """
    texts = contract_files(Settings.TOPIC_PREFIX.of(environ))
    try:
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")
    except OSError as error:
        raise SettingError("DIRECTORY", f"{folder} can't be written to: {error.strerror}.") from None
    return [folder / name for name in texts]


def contract_files(prefix: str) -> dict[str, str]:
    """The texts of the files by their paths below the folder, in order."""
    texts = {f"avro/{SUBJECT}.avsc": schema_text()}
    payloads: dict[type[msgspec.Struct], tuple[str, ...]] = {**TYPED_PAYLOADS, AgentRing: ()}
    for kind, types in payloads.items():
        schema = {"$schema": DIALECT, **json_schema(kind)}
        if types:
            schema["x-event-types"] = list(types)
        texts[f"json-schema/{kind.__name__}.json"] = _text(schema)
    texts["asyncapi.json"] = _text(asyncapi_document(version("hypervisor-telemetry"), prefix))
    examples = files("hypervisor_schemas") / "examples"
    for entry in sorted(examples.iterdir(), key=lambda entry: entry.name):
        texts[f"examples/{entry.name}"] = entry.read_text("utf-8")
    return texts


def _text(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
