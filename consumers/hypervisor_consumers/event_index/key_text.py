"""Texts as PostgreSQL can hold them: without NUL, and short enough where an index has them. Pure."""

from __future__ import annotations

import hashlib
import re

__all__ = ["json_without_nul", "key_text", "without_nul"]

_IN_ITS_PLACE = "\N{REPLACEMENT CHARACTER}"
# Not where the backslash is itself escaped.
_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")

_KEY_BYTES = 2400
"""An entry of a B-tree has 2,704 at most; beside the type there is the topic, of 249."""
_KEPT_CHARACTERS = 500


def without_nul(text: str) -> str:
    """With U+FFFD in the place of U+0000."""
    return text.replace("\0", _IN_ITS_PLACE) if "\0" in text else text


def json_without_nul(text: str) -> str:
    """The same for a JSON text, where it is escaped."""
    return _ESCAPED_NUL.sub(r"\1" + _IN_ITS_PLACE, text) if "\\u0000" in text else text


def key_text(text: str) -> str:
    """A text that an index can have: of one with more than 2,400 bytes the beginning, and a hash of all of it."""
    text = without_nul(text)
    if len(text) * 4 <= _KEY_BYTES or len(text.encode(errors="replace")) <= _KEY_BYTES:
        return text
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    return f"{text[:_KEPT_CHARACTERS]}…{digest[:32]}"
