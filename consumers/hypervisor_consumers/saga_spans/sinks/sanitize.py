"""Strangers' text, made fit for a log, a terminal and `/readyz`."""

from __future__ import annotations

__all__ = ["in_one_line"]


def in_one_line(text: str | bytes, characters: int = 300) -> str:
    """The beginning of a text, in one line without control characters."""
    if isinstance(text, bytes):
        text = text[: 4 * characters].decode("utf-8", "replace")
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= characters else line[:characters] + "…"
