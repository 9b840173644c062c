"""Where the service's spans go: outputs named by `--sink`."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from hypervisor_consumers.runtime.contract import Output
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import SettingError

__all__ = ["ConsoleSink", "JsonlSink", "NullSink", "sink_from"]


def sink_from(text: str) -> Output[SagaSpanRecord]:
    """The output that `--sink` names: `console` (standard output), `jsonl:PATH` or `null`.

    Raises:
        SettingError: It names none, or the file can't be opened.
    """
    kind, _, path = text.partition(":")
    if text == "console":
        return ConsoleSink(sys.stdout)
    if text == "null":
        return NullSink()
    if kind != "jsonl" or not path:
        raise SettingError("--sink", f"can't be {text!r}; give console, jsonl:PATH or null.")
    try:
        return JsonlSink(path)
    except OSError as error:
        raise SettingError(
            "--sink",
            f"can't write to {path}: {error.strerror}. Give a file in a folder that exists and may be written to.",
        ) from None


class NullSink:
    """Takes every span and keeps none."""

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> tuple[()]:  # noqa: ARG002 - whatever they are
        """Do nothing."""
        return ()

    def close(self) -> None:
        """Do nothing."""


class ConsoleSink:
    """One line per span, for people; safe as far as the stream is. The stream stays open."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = stream.encoding or "utf-8"

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> tuple[()]:
        """Write and flush."""
        text = "".join(_line(span) for span in outputs)
        # A terminal of another encoding shows what it lacks as an escape; it must not stop the service.
        self._stream.write(text.encode(self._encoding, "backslashreplace").decode(self._encoding))
        self._stream.flush()
        return ()

    def close(self) -> None:
        """Nothing is held back, and the stream belongs to whoever gave it."""


_LAST_SECOND = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def _line(span: SagaSpanRecord) -> str:
    shown = {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id or "-",
        **span.attributes,
    }
    # The last microsecond of the year 9999, as a float of seconds, is the first of a year that has no datetime.
    start = datetime.fromtimestamp(min(span.start_time, _LAST_SECOND), UTC).isoformat(timespec="milliseconds")
    fields = " ".join(f"{_plain(name)}={_plain(str(value))}" for name, value in shown.items())
    return f"{start} {span.duration_seconds:9.3f}s {span.status:<12} {_plain(span.name)} {fields}\n"


def _plain(text: str) -> str:
    """`text` without spaces or control characters, quoted as JSON where it has some."""
    return text if text and text.isprintable() and not set(' "=') & set(text) else json.dumps(text)


class JsonlSink:
    """Appends one JSON object per span and line; on disk when `deliver` returns.

    Keys: `name, trace_id, span_id, parent_span_id, start_time, end_time` (seconds since the epoch), `status,
    attributes`. The folder must exist. A line that a crash has torn is ended when the file is opened again, and
    its span comes again on a line of its own: readers skip what is no JSON and know a span by its ids.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file, made if absent.

        Raises:
            OSError: It can't be opened, or is no regular file.
        """
        self._path = Path(path)
        self._file: int | None = _open(self._path)

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> tuple[()]:
        """Append and wait for the disk.

        Raises:
            OSError: Some or all were not written; the whole batch may come again.
        """
        if not outputs:
            return ()
        rest = memoryview("".join(map(_json_line, outputs)).encode())
        if self._file is None:
            self._file = _open(self._path)
        try:
            # One write for the batch: appends of two processes to one file don't mix then.
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            # A full disk tears a line as a crash does; opening again mends it.
            self.close()
            raise
        return ()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _json_line(span: SagaSpanRecord) -> str:
    fields = {
        "name": span.name,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "start_time": span.start_time,
        "end_time": span.end_time,
        "status": span.status,
        "attributes": span.attributes,
    }
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _open(path: Path) -> int:
    """The file, open for appending, its last line ended and its name in the folder on disk."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        _mend(file, path)
    except OSError:
        os.close(file)
        raise
    return file


def _mend(file: int, path: Path) -> None:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if status.st_size == 0:
        # The file may be new: until its folder is on disk too, a crash of the machine can take it away whole.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    elif os.pread(file, 1, status.st_size - 1) != b"\n":
        os.write(file, b"\n")
