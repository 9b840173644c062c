"""Every alert is tested by promtool in all cases, on series of its own metrics. `make test-all` runs promtool."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.observability.promql import names_in
from tests.observability.rules import ALERTS, FOLDER, RECORDS, Rule

NAME = re.compile(r"^\w+")


@dataclass(frozen=True)
class Case:
    """A test of promtool: its alert, and the number of firing alerts that it expects at each time."""

    title: str
    series: frozenset[str]
    expected: tuple[tuple[float, int], ...]


def seconds(text: str) -> float:
    return sum(int(count) * {"h": 3600, "m": 60, "s": 1}[unit] for count, unit in re.findall(r"(\d+)([hms])", text))


def promtool_tests() -> list[dict[str, Any]]:
    files = sorted((FOLDER / "tests").glob("*.yml"))
    return [test for file in files for test in yaml.safe_load(file.read_text("utf-8"))["tests"]]


def case_of(test: dict[str, Any]) -> Case:
    names = [NAME.match(one["series"]) for one in test["input_series"]]
    asked = test["alert_rule_test"]
    assert {one["alertname"] for one in asked} == {test["name"].partition(":")[0]}
    return Case(
        test["name"],
        frozenset(name.group() for name in names if name is not None),
        tuple((seconds(one["eval_time"]), len(one["exp_alerts"])) for one in asked),
    )


CASES = {test["name"]: case_of(test) for test in promtool_tests() if "alert_rule_test" in test}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
class TestAnAlert:
    def test_fires(self, alert: Rule) -> None:
        case = CASES[f"{alert.name}: fires"]
        *before, (_, count) = case.expected
        assert count == 1
        assert [count for _, count in before] == [0], "it says also when it doesn't fire yet"

    def test_does_not_fire(self, alert: Rule) -> None:
        case = CASES[f"{alert.name}: does not fire"]
        assert {count for _, count in case.expected} == {0}
        assert case.series & names_in(alert.expression)
        # Long enough that it would have fired by then.
        assert max(at for at, _ in case.expected) > seconds(alert.lasting)

    def test_resolves(self, alert: Rule) -> None:
        (fired_at, fired), (ended_at, ended) = CASES[f"{alert.name}: resolves"].expected
        assert (fired, ended) == (1, 0)
        assert fired_at < ended_at

    def test_of_a_counter_is_silent_while_a_series_moves(self, alert: Rule) -> None:
        is_of_counter = re.search(r"\b(rate|increase)\(", alert.expression) is not None
        case = CASES.get(f"{alert.name}: is silent while a series moves")
        assert (case is not None) == is_of_counter
        if case is not None:
            assert {count for _, count in case.expected} == {0}
            assert case.series & names_in(alert.expression)


def test_no_case_is_of_an_alert_that_is_gone() -> None:
    assert {title.partition(":")[0] for title in CASES} == {alert.name for alert in ALERTS}


def test_every_recording_rule_has_a_value_that_was_reckoned() -> None:
    asked = [
        names_in(one["expr"])
        for test in promtool_tests()
        for one in test.get("promql_expr_test", ())
        if one["exp_samples"]
    ]
    assert set().union(*asked) == {rule.name for rule in RECORDS}
