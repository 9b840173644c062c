"""The chart's values, schema and README say the same. What helm makes of them: tests/deploy."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from hypervisor_schemas.settings import SETTINGS
from tests.deploy.chart import CHART, ci_values, merged
from tests.deploy.chart_readme import described_values, undescribed

VALUES_TEXT = (CHART / "values.yaml").read_text("utf-8")
VALUES: dict[str, Any] = yaml.safe_load(VALUES_TEXT)
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))

OF_AGENTS_AND_TESTS = {
    "TELEMETRY_MAX_EVENT_BYTES",
    "TELEMETRY_FLUSH_TIMEOUT",
    "TELEMETRY_TRACEPARENT",
    "TELEMETRY_INDEX_URL",
    "TELEMETRY_KAFKA",
    "TELEMETRY_TEST_BOOTSTRAP_SERVERS",
}
OF_OTHER_VALUES = {"TELEMETRY_TOPIC_PREFIX", "TELEMETRY_REPLICATION_FACTOR", "TELEMETRY_MIN_INSYNC_REPLICAS"}


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return SCHEMA["definitions"][reference.removeprefix("#/definitions/")] if reference else schema


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema of an object in the file, with its path."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, value in schema.items():
            yield from objects(value, f"{path}/{key}")


def paths(values: Mapping[str, Any], schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every key of the values, down to where the schema names none, and whether the schema names it."""
    named = resolved(schema).get("properties")
    for key, value in values.items():
        here = f"{path}.{key}".lstrip(".")
        yield here, named is None or key in named
        if isinstance(value, dict) and named and key in named and "properties" in resolved(named[key]):
            yield from paths(value, named[key], here)


def schema_paths(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, each in resolved(schema).get("properties", {}).items():
        here = f"{path}.{key}".lstrip(".")
        yield here
        if isinstance(each, dict):
            yield from schema_paths(each, here)


def test_the_schema_is_one_and_values_fit_it():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)


@pytest.mark.parametrize("name", ci_values())
def test_values_that_are_tested_fit_the_schema(name: str):
    values = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text("utf-8"))

    jsonschema.Draft7Validator(SCHEMA).validate(merged(VALUES, values))


def test_no_object_of_the_schema_takes_keys_that_it_does_not_name_but_those_of_others():
    # What Kubernetes or librdkafka defines, or who installs names: labels, selectors, its own objects in lists.
    open_ones = {path for path, each in objects(SCHEMA) if each.get("additionalProperties") is not False}

    assert open_ones == {
        "/definitions/affinity",
        "/definitions/env/items",
        "/definitions/labels",
        "/definitions/quantities",
        "/definitions/tolerations/items",
        "/definitions/volumeMounts/items",
        "/definitions/volumes/items",
        "/properties/global",
        "/properties/kafka/properties/settings",
        "/properties/networkPolicy/properties/egress/properties/rules/items",
        "/properties/networkPolicy/properties/ingressFrom/items",
        "/properties/podSecurityContext",
        "/properties/securityContext",
    }


def test_every_value_is_in_the_schema_and_every_key_of_the_schema_in_the_values():
    assert [path for path, is_named in paths(VALUES, SCHEMA) if not is_named] == []

    there = {path for path, _ in paths(VALUES, SCHEMA)}
    of_defaults = {path.removeprefix("defaults.") for path in there if path.startswith("defaults.")}
    missing = {
        path
        for path in schema_paths(SCHEMA)
        if path not in there
        # A service may have all that `defaults` has.
        and re.sub(r"^services\.\w+\.", "", path) not in of_defaults
        and not re.search(r"\.settings\.|[pP]robe\.initialDelaySeconds$", path)
    }
    assert missing == {"global"}


def test_the_settings_that_a_service_can_be_given_are_those_of_the_code():
    named = set(SCHEMA["definitions"]["settings"]["properties"])
    of_sagas = SCHEMA["properties"]["services"]["properties"]["sagaSpans"]["properties"]["settings"]["properties"]
    secret = {setting.name for setting in SETTINGS if setting.secret}

    assert named == {setting.name for setting in SETTINGS} - secret - OF_AGENTS_AND_TESTS - OF_OTHER_VALUES
    assert {name for name, each in of_sagas.items() if each} == named


def test_something_is_said_of_every_value():
    assert undescribed(VALUES_TEXT) == []
    assert all(value.meaning.endswith((".", "…)")) for value in described_values(VALUES_TEXT))


def test_a_value_without_a_comment_would_be_found():
    assert undescribed("# All.\nall:\n  # One.\n  one: 1\n  two: 2\nthree: 3\n") == ["all.two", "three"]


def test_the_chart_has_the_version_of_the_package():
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))

    assert chart["appVersion"] == project["version"]
    assert isinstance(chart["appVersion"], str)


def test_the_users_of_the_strimzi_example_are_those_that_its_values_name():
    path = Path("examples") / "strimzi.yaml"
    documents = list(yaml.safe_load_all((CHART / path).read_text("utf-8")))
    values = yaml.safe_load((CHART / "ci" / "strimzi-values.yaml").read_text("utf-8"))
    [kafka] = [each for each in documents if each["kind"] == "Kafka"]
    users = {each["metadata"]["name"]: each for each in documents if each["kind"] == "KafkaUser"}
    name = kafka["metadata"]["name"]
    [listener] = kafka["spec"]["kafka"]["listeners"]

    assert values["kafka"]["bootstrapServers"] == f"{name}-kafka-bootstrap:{listener['port']}"
    assert values["kafka"]["tls"]["existingCa"]["name"] == f"{name}-cluster-ca-cert"
    user = users[values["kafka"]["sasl"]["username"]]
    assert values["kafka"]["sasl"]["existingSecret"]["name"] == user["metadata"]["name"]
    prefixes = {each["resource"]["name"] for each in user["spec"]["authorization"]["acls"]}
    assert prefixes == {VALUES["kafka"]["topicPrefix"]}
