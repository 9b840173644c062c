"""A sink that writes lines for programs to a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = ["JsonlSink"]


class JsonlSink:
    """Appends one JSON object per span and line; it is on disk when `deliver` returns.

    Keys: `name, trace_id, span_id, parent_span_id, start_time, end_time` (seconds since the epoch), `status,
    attributes`; and, unless they are empty, `causal_trace_id`, `error_type` and `events` (a list of `name, time,
    attributes`). The folder must exist. A line that a crash has torn is ended when the file is opened again, and
    its span comes again on a line of its own: readers skip lines that are no JSON, and know a span by its ids.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file, made if absent.

        Raises:
            OSError: It can't be opened, or is no regular file.
        """
        self._path = Path(path)
        self._file: int | None = _open(self._path)

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
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
            with _locked(self._file):
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
    fields: dict[str, Any] = {
        "name": span.name,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "start_time": span.start_time,
        "end_time": span.end_time,
        "status": span.status,
        "attributes": span.attributes,
    }
    if span.causal_trace_id:
        fields["causal_trace_id"] = span.causal_trace_id
    if span.error_type:
        fields["error_type"] = span.error_type
    if span.events:
        fields["events"] = [asdict(event) for event in span.events]
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _open(path: Path) -> int:
    """Open the file for appending; its last line is ended, and its name in the folder is on disk."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with _locked(file):
            _end_torn_line(file, path)
    except OSError:
        os.close(file)
        raise
    return file


@contextlib.contextmanager
def _locked(file: int) -> Iterator[None]:
    """Lock the file against all other sinks of it, in any process: lines don't mix, and none is torn."""
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _end_torn_line(file: int, path: Path) -> None:
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
