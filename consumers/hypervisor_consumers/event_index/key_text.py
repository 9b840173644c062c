"""Texts as PostgreSQL can hold them: without NUL, and short enough for an index. Pure."""

from __future__ import annotations

import hashlib
import re

__all__ = ["ESCAPED_NUL", "json_without_nul", "key_text", "without_nul"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ESCAPED_NUL = r"(?<!\\)((?:\\\\)*)\\u0000"
"""The pattern of an escaped NUL in a JSON text, after the backslashes before it. It skips an escaped backslash."""
_ESCAPED_NUL = re.compile(ESCAPED_NUL)

_KEY_BYTES = 2400
"""The longest key. A B-tree entry has 2,704 bytes at most; the topic needs 249 of them beside the type."""
_KEPT_CHARACTERS = 500


def without_nul(text: str) -> str:
    """The text with U+FFFD in place of U+0000."""
    return text.replace("\0", _REPLACEMENT) if "\0" in text else text


def json_without_nul(text: str) -> str:
    """The JSON text with U+FFFD in place of the escaped U+0000."""
    return _ESCAPED_NUL.sub(r"\1" + _REPLACEMENT, text) if "\\u0000" in text else text


def key_text(text: str) -> str:
    """The text as an index can hold it: if it exceeds 2,400 bytes, its beginning and a hash of all of it."""
    text = without_nul(text)
    if len(text) * 4 <= _KEY_BYTES or len(text.encode(errors="replace")) <= _KEY_BYTES:
        return text
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    return f"{text[:_KEPT_CHARACTERS]}…{digest[:32]}"
