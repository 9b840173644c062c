"""Text from strangers, made fit for a terminal, a log and `/readyz`. Pure."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str | bytes, limit: int | None = None, *, as_line: bool = False) -> str:
    r"""`text` without characters that a terminal would act on: line ends, control characters, surrogates.

    Each of them is shown as Python's escape, such as `\x1b`. With `as_line`, each becomes a space instead, and
    spaces in a row become one.

    Args:
        text: Bytes are read as UTF-8.
        limit: The most characters of the result; the last one is `…` where some are missing. None: no limit.
        as_line: Make one line for people, without escapes.
    """
    if isinstance(text, bytes):
        # No character takes more than four bytes.
        text = text[: None if limit is None else 4 * limit].decode("utf-8", "replace")
    if as_line:
        text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    elif not text.isprintable():
        text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
