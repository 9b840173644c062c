"""The inputs that GovernanceMetrics takes and refuses, with the sentence."""

from decimal import Decimal
from enum import Enum
from fractions import Fraction

import numpy as np
import pytest
from opentelemetry.metrics import Observation

from hypervisor_producers.governance.inputs import (
    MAX_TEXT_CHARACTERS,
    read_bool,
    read_count,
    read_latency,
    read_optional_text,
    read_score,
    read_scores,
    read_text,
)


class Tool(str, Enum):  # noqa: UP042 - the older way, which users have
    SHELL = "shell_exec"


class TestTexts:
    @pytest.mark.parametrize("text", ["did:mesh:a", "ü", "🦊", "\x00", "x" * MAX_TEXT_CHARACTERS])
    def test_any_text_that_utf8_can_write(self, text):
        assert read_text("agent_id", text) == text

    def test_of_an_enum_of_strings_the_value(self):
        assert type(read_text("tool_name", Tool.SHELL)) is str
        assert read_text("tool_name", Tool.SHELL) == "shell_exec"

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            (None, "agent_id must be a string, not None."),
            (7, "agent_id must be a string, not int."),
            (b"did", "agent_id must be a string, not bytes."),
            ("", "agent_id must not be empty."),
            ("x" * 513, "agent_id has 513 characters; 512 are the most."),
            ("did:\ud800", "agent_id holds half a surrogate pair, which UTF-8 can't write."),
        ],
    )
    def test_everything_else_is_refused(self, value, sentence):
        with pytest.raises(ValueError) as refused:
            read_text("agent_id", value)
        assert str(refused.value) == sentence

    def test_an_optional_one_may_be_absent_or_empty(self):
        assert read_optional_text("session_id", None) is None
        assert read_optional_text("session_id", "") is None
        assert read_optional_text("session_id", "s") == "s"
        with pytest.raises(ValueError, match="session_id must be a string, not int"):
            read_optional_text("session_id", 0)


class TestNumbers:
    @pytest.mark.parametrize("value", [0, 0.0, -0.0, 5, 0.05, Decimal("0.5"), Fraction(1, 4), np.float32(0.5)])
    def test_a_latency_is_any_number_from_0(self, value):
        read = read_latency(value)
        assert type(read) is float
        assert read == float(value)
        assert not str(read).startswith("-")

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            (-0.001, "evaluation_ms must be 0 or more, not -0.001."),
            (float("nan"), "evaluation_ms must be a finite number, not nan."),
            (float("inf"), "evaluation_ms must be a finite number, not inf."),
            (float("-inf"), "evaluation_ms must be a finite number, not -inf."),
            (True, "evaluation_ms must be a number, not bool."),
            ("0.05", "evaluation_ms must be a number, not str."),
            (None, "evaluation_ms must be a number, not None."),
            (10**400, "evaluation_ms must be a number: int too large to convert to float."),
        ],
    )
    def test_no_other_latency(self, value, sentence):
        with pytest.raises(ValueError) as refused:
            read_latency(value)
        assert str(refused.value) == sentence

    @pytest.mark.parametrize("score", [0, 1000, 999.999, 320])
    def test_a_score_lies_between_0_and_1000(self, score):
        assert read_score(score) == score

    @pytest.mark.parametrize("score", [-1, 1000.0001, float("nan"), "850", True])
    def test_no_other_score(self, score):
        with pytest.raises(ValueError, match=r"^score must "):
            read_score(score)

    def test_a_number_of_agents(self):
        assert read_count(3) == 3
        for nonsense in (-1, None, "3", float("inf")):
            with pytest.raises(ValueError, match="the number of active agents must be"):
                read_count(nonsense)

    @pytest.mark.parametrize("value", [1, 0, "deny", None, np.True_])
    def test_what_is_merely_true_is_no_decision(self, value):
        with pytest.raises(ValueError, match="allowed must be True or False"):
            read_bool("allowed", value)


class TestScoresOfACallback:
    @pytest.mark.parametrize(
        "answer",
        [
            {"a": 850.0, "b": 320.0},
            [(850.0, {"agent_id": "a"}), (320.0, {"agent_id": "b", "team": "red"})],
            iter([Observation(850.0, {"agent_id": "a"}), Observation(320.0, {"agent_id": "b"})]),
        ],
    )
    def test_mappings_pairs_and_observations(self, answer):
        assert list(read_scores(answer)) == [("a", 850.0), ("b", 320.0)]

    @pytest.mark.parametrize("answer", [None, 7, "a", b"a"])
    def test_anything_else_is_refused_as_a_whole(self, answer):
        with pytest.raises(ValueError, match=r"^it returned .*, not a mapping and not an iterable"):
            list(read_scores(answer))

    def test_a_bad_entry_hides_no_good_one(self):
        entries = [
            (850.0, {"agent_id": "a"}),
            (1001, {"agent_id": "b"}),
            (850.0, {}),
            Observation(1.0),
            None,
            (1.0, {"agent_id": ""}),
            (320.0, {"agent_id": "c"}),
        ]
        good = [entry for entry in read_scores(entries) if not isinstance(entry, ValueError)]
        assert good == [("a", 850.0), ("c", 320.0)]
        assert len(list(read_scores(entries))) == len(entries)
