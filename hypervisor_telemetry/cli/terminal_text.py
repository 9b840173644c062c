"""Text from anybody, made fit for a terminal. Pure."""

from __future__ import annotations

__all__ = ["printable", "shortened"]


def printable(text: str) -> str:
    """The same with every character that doesn't print (line ends, escapes, surrogates) escaped."""
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)


def shortened(text: str, width: int) -> str:
    """At most `width` characters of it, the last one `…` where something is missing."""
    return text if len(text) <= width else text[: width - 1] + "…"
