import dataclasses
import hashlib
import re

import pytest

from hypervisor_schemas.causal_trace import CausalTraceId, w3c_span_id, w3c_trace_id


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_new_trace_is_a_root_with_ids_of_12_and_8_hex():
    root = CausalTraceId()
    assert re.fullmatch("[0-9a-f]{12}", root.trace_id)
    assert re.fullmatch("[0-9a-f]{8}", root.span_id)
    assert root.parent_span_id is None
    assert root.depth == 0
    assert root.full_id == str(root) == f"{root.trace_id}/{root.span_id}"
    assert CausalTraceId().trace_id != root.trace_id


def test_a_child_is_one_deeper_in_the_same_trace_and_names_its_parent():
    root = CausalTraceId()
    child = root.child()
    grandchild = child.child()
    assert child.full_id == f"{root.trace_id}/{child.span_id}/{root.span_id}"
    assert (child.depth, grandchild.depth) == (1, 2)
    assert grandchild.parent_span_id == child.span_id
    assert len({root.span_id, child.span_id, grandchild.span_id}) == 3


def test_a_sibling_shares_parent_and_depth():
    child = CausalTraceId().child()
    sibling = child.sibling()
    assert (sibling.trace_id, sibling.parent_span_id, sibling.depth) == (
        child.trace_id,
        child.parent_span_id,
        child.depth,
    )
    assert sibling.span_id != child.span_id


def test_a_trace_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CausalTraceId().depth = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a1b2c3d4e5f6/89abcdef/01234567", ("a1b2c3d4e5f6", "89abcdef", "01234567", 1)),
        ("a1b2c3d4e5f6/01234567", ("a1b2c3d4e5f6", "01234567", None, 0)),
        ("abc123/def456", ("abc123", "def456", None, 0)),
        ("my trace/é/☃", ("my trace", "é", "☃", 1)),
    ],
)
def test_parsing_takes_two_or_three_parts_of_any_text(text, parts):
    parsed = CausalTraceId.from_string(text)
    assert (parsed.trace_id, parsed.span_id, parsed.parent_span_id, parsed.depth) == parts
    assert parsed.full_id == text


@pytest.mark.parametrize("text", ["", "invalid", "/", "a/", "/b", "a//c", "a/b/", "//", "a/b/c/d", "a/b/c/"])
def test_parsing_refuses_any_other_form_and_shows_it(text):
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        CausalTraceId.from_string(text)


def test_an_ancestor_is_less_deep_in_the_same_trace():
    root = CausalTraceId()
    child = root.child()
    grandchild = child.child()
    assert root.is_ancestor_of(child)
    assert root.is_ancestor_of(grandchild)
    assert child.is_ancestor_of(grandchild)
    assert not child.is_ancestor_of(root)
    assert not root.is_ancestor_of(root)
    assert not child.is_ancestor_of(child.sibling())
    assert not root.is_ancestor_of(CausalTraceId().child())


def test_a_direct_parent_is_recognised_however_the_two_came_through_a_string():
    parent = CausalTraceId().child().child().child()
    child = parent.child()
    for known_parent in (parent, CausalTraceId.from_string(parent.full_id)):
        for known_child in (child, CausalTraceId.from_string(child.full_id)):
            assert known_parent.is_ancestor_of(known_child)
            assert not known_child.is_ancestor_of(known_parent)


def test_a_span_is_no_ancestor_of_itself_whatever_a_string_lost_of_its_depth():
    deep = CausalTraceId().child().child()
    assert not CausalTraceId.from_string(deep.full_id).is_ancestor_of(deep)


def test_the_w3c_form_ends_in_the_short_id_behind_its_hash():
    trace = CausalTraceId.from_string("a1b2c3d4e5f6/89abcdef/01234567").to_w3c()
    assert trace.trace_id == sha256("a1b2c3d4e5f6")[:20] + "a1b2c3d4e5f6"
    assert trace.span_id == sha256("89abcdef")[:8] + "89abcdef"
    assert trace.parent_span_id == sha256("01234567")[:8] + "01234567"
    assert trace.traceparent == f"00-{trace.trace_id}-{trace.span_id}-01"


def test_a_root_has_no_parent_in_w3c_form():
    assert CausalTraceId().to_w3c().parent_span_id is None


LONG_TRACE, LONG_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_ids_of_w3c_length_stay_as_they_are():
    assert w3c_trace_id(LONG_TRACE) == LONG_TRACE
    assert w3c_span_id(LONG_SPAN) == LONG_SPAN


@pytest.mark.parametrize(
    "odd", ["abc123", "A1B2C3D4E5F6", "not hex at all", LONG_TRACE.upper(), "0" * 32, "a1b2c3d4e5f6\n", "é", ""]
)
def test_any_other_trace_id_is_hashed_whole(odd):
    assert w3c_trace_id(odd) == sha256(odd)[:32]


@pytest.mark.parametrize("odd", ["def456", "89ABCDEF", LONG_SPAN.upper(), "0" * 16, "☃", ""])
def test_any_other_span_id_is_hashed_whole(odd):
    assert w3c_span_id(odd) == sha256(odd)[:16]


def test_an_id_that_utf8_cannot_hold_has_a_w3c_form_too():
    assert re.fullmatch("[0-9a-f]{32}", w3c_trace_id("\ud800"))


def test_samplers_find_random_low_56_bits():
    # A proportional sampler with probability 1/4 keeps a trace when the low 56 bits are at or above 3/4 of 2**56.
    kept = sum(int(CausalTraceId().to_w3c().trace_id[-14:], 16) >= 3 * 2**54 for _ in range(4000))
    assert 800 < kept < 1200


def test_a_traceparent_gives_back_the_short_ids_it_was_made_from():
    trace = CausalTraceId()
    back = CausalTraceId.from_traceparent(trace.to_w3c().traceparent)
    assert (back.trace_id, back.span_id) == (trace.trace_id, trace.span_id)
    assert back.to_w3c().traceparent == trace.to_w3c().traceparent


def test_a_foreign_traceparent_gives_the_whole_ids_and_the_same_header_again():
    header = f"00-{LONG_TRACE}-{LONG_SPAN}-01"
    foreign = CausalTraceId.from_traceparent(header)
    assert (foreign.trace_id, foreign.span_id) == (LONG_TRACE, LONG_SPAN)
    assert foreign.to_w3c().traceparent == header


@pytest.mark.parametrize(
    "header",
    [
        f"00-{LONG_TRACE}-{LONG_SPAN}-00",
        f"  00-{LONG_TRACE}-{LONG_SPAN}-01\t",
        f"cc-{LONG_TRACE}-{LONG_SPAN}-01",
        f"cc-{LONG_TRACE}-{LONG_SPAN}-01-what-the-future-will-be-like",
    ],
)
def test_unsampled_padded_and_later_versions_are_read(header):
    assert CausalTraceId.from_traceparent(header).trace_id == LONG_TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"ff-{LONG_TRACE}-{LONG_SPAN}-01",
        f"00-{LONG_TRACE}-{LONG_SPAN}-01-more",
        f"00-{LONG_TRACE}-{LONG_SPAN}",
        f"00-{LONG_TRACE.upper()}-{LONG_SPAN}-01",
        f"00-{LONG_TRACE[1:]}-{LONG_SPAN}-01",
        f"00-{'0' * 32}-{LONG_SPAN}-01",
        f"00-{LONG_TRACE}-{'0' * 16}-01",
    ],
)
def test_what_w3c_calls_invalid_is_refused_and_shown(header):
    with pytest.raises(ValueError, match=re.escape(repr(header))):
        CausalTraceId.from_traceparent(header)
