"""The ids of saga spans: golden vectors, the formula as it is documented, and what ids must never be."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.saga_spans.fold.span_identity import (
    fan_out_span_id,
    saga_span_id,
    saga_trace_id,
    step_span_id,
)
from hypervisor_schemas.causal_trace import CausalTraceId

VECTORS: list[dict[str, Any]] = json.loads(
    (files("hypervisor_schemas") / "examples" / "span_identity.json").read_text("utf-8")
)["vectors"]

texts = st.text(st.characters(), max_size=20)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["case"])
def test_the_golden_vectors_hold(vector: dict[str, Any]) -> None:
    session_id = vector["session_id"] or ""
    trace_id = saga_trace_id(vector["causal_trace_id"], session_id, vector["saga_id"])
    assert trace_id == vector["trace_id"]
    assert saga_span_id(trace_id, session_id, vector["saga_id"]) == vector["saga_span_id"]
    assert step_span_id(vector["event_id"]) == vector["step_span_id"]
    fan_out = fan_out_span_id(trace_id, session_id, vector["saga_id"], vector["fan_out_id"])
    assert fan_out == vector["fan_out_span_id"]


@given(session_id=st.text(max_size=20), saga_id=st.text(max_size=20))
def test_without_a_causal_trace_anyone_can_repeat_the_documented_formula(session_id: str, saga_id: str) -> None:
    def fields(*parts: str) -> bytes:
        return b"".join(b"%d:%s" % (len(part.encode()), part.encode()) for part in parts)

    trace_id = hashlib.sha256(fields("saga-trace", session_id, saga_id)).hexdigest()[:32]
    assert saga_trace_id(None, session_id, saga_id) == trace_id
    span_id = hashlib.sha256(fields("saga-span", trace_id, session_id, saga_id)).hexdigest()[:16]
    assert saga_span_id(trace_id, session_id, saga_id) == span_id


def test_every_span_of_a_causal_trace_gives_the_trace_id_that_its_w3c_form_has() -> None:
    root = CausalTraceId()
    for causal in (root, root.child(), root.child().child()):
        assert saga_trace_id(causal.full_id, "s1", "deploy") == root.to_w3c().trace_id


def test_an_event_id_of_ours_is_the_span_id_so_a_span_leads_to_its_event() -> None:
    assert step_span_id("00c0ffee00c0ffee") == "00c0ffee00c0ffee"


@given(st.lists(st.tuples(texts, texts), unique=True, min_size=2, max_size=8))
def test_session_and_saga_id_are_told_apart_wherever_the_border_lies(pairs: list[tuple[str, str]]) -> None:
    trace_ids = {saga_trace_id(None, session_id, saga_id) for session_id, saga_id in pairs}
    assert len(trace_ids) == len(pairs)
    span_ids = {saga_span_id("0" * 31 + "1", session_id, saga_id) for session_id, saga_id in pairs}
    assert len(span_ids) == len(pairs)


def test_a_border_that_moves_between_session_and_saga_id_is_another_saga() -> None:
    assert saga_trace_id(None, "a:b", "c") != saga_trace_id(None, "a", "b:c")
    assert saga_trace_id(None, "1:a", "") != saga_trace_id(None, "", "1:a")
    assert saga_span_id("t", "a", "b") != saga_span_id("t", "ab", "")


odd_ids = st.one_of(
    texts,
    st.integers(0, 40).map("0".__mul__),
    st.text("0123456789abcdefABCDEF/", max_size=50),
    st.tuples(texts, texts).map("/".join),
)


@given(causal_trace_id=st.none() | odd_ids, session_id=odd_ids, saga_id=odd_ids, event_id=odd_ids)
def test_any_text_gives_ids_that_tracing_backends_take(
    causal_trace_id: str | None, session_id: str, saga_id: str, event_id: str
) -> None:
    trace_id = saga_trace_id(causal_trace_id, session_id, saga_id)
    assert re.fullmatch("[0-9a-f]{32}", trace_id)
    assert trace_id.strip("0")
    for span_id in (saga_span_id(trace_id, session_id, saga_id), step_span_id(event_id)):
        assert re.fullmatch("[0-9a-f]{16}", span_id)
        assert span_id.strip("0")
