"""The text of `/metrics`: prometheus-client's formats, many times as fast where there are many series.

prometheus-client makes an object and a `dict` for each series and escapes all labels at each scrape, which takes
a second for 100,000 of them. A `RowFamily` has plain rows, whose labels' text is kept from scrape to scrape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

__all__ = ["Exposition", "Row", "RowFamily", "TextFamily", "escaped"]

Row: TypeAlias = tuple[tuple[str, ...], float]
"""Label values, and the number."""


class RowFamily(Metric):
    """A family of series that are told apart by their labels alone: a counter or a gauge.

    Args:
        name: As its series have it; a counter's ends in `_total`.
        text: Its help.
        kind: `counter` or `gauge`.
        labels: Their names.
        rows: No two with the same label values. The last labels of a row may be missing.
    """

    def __init__(self, name: str, text: str, kind: str, labels: Sequence[str], rows: Sequence[Row]) -> None:
        super().__init__(name.removesuffix("_total") if kind == "counter" else name, text, kind)
        self.series = name
        self.labels = tuple(labels)
        self.rows = rows

    @property
    def samples(self) -> list[Sample]:
        """The same rows as prometheus-client's samples."""
        return [
            Sample(self.series, dict(zip(self.labels, values, strict=False)), number)
            for values, number in self.rows
        ]

    @samples.setter
    def samples(self, _: list[Sample]) -> None:
        """The base class begins with none."""


class TextFamily(Metric):
    """A family whose series are text already. `count` is how many they are."""

    def __init__(self, name: str, text: str, kind: str) -> None:
        super().__init__(name.removesuffix("_total") if kind == "counter" else name, text, kind)
        self.series = name
        self.texts: list[bytes | bytearray] = []
        self.count = 0

    def add(self, text: bytes | bytearray, count: int) -> None:
        """So many series, each a line with its end, in UTF-8. Looked at when the family is written."""
        self.texts.append(text)
        self.count += count


class Exposition:
    """Writes families as text, and remembers the text of labels. For one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[str, _Starts] = {}

    def write(self, families: Iterable[Metric], accept: str) -> tuple[bytes, str]:
        """The text, in UTF-8, and its content type.

        Args:
            families: In the order to write them.
            accept: The request's `Accept`: OpenMetrics if that is asked for, else the format of Prometheus.
        """
        encode, content_type = choose_encoder(accept)
        is_open = content_type.startswith("application/openmetrics-text")
        parts: list[bytes | bytearray] = []
        for family in families:
            if isinstance(family, TextFamily):
                parts += [_head(family, is_open=is_open).encode(), *family.texts]
            elif isinstance(family, RowFamily):
                parts.append("".join(self._lines(family, is_open=is_open)).encode())
            else:
                parts.append(encode(_Only(family)).removesuffix(_END))
        if is_open:
            parts.append(_END)
        return b"".join(parts), content_type

    def _lines(self, family: RowFamily, *, is_open: bool) -> Iterator[str]:
        yield _head(family, is_open=is_open)
        known = self._known.setdefault(family.series, _Starts(family.series))
        if len(known) > 2 * len(family.rows) + 1000:
            known.clear()  # most of them are gone
        known.labels = family.labels
        # As prometheus-client writes it, whole numbers with a point, too.
        yield from [
            f"{known[values]}{number}.0\n" if type(number) is int else f"{known[values]}{number}\n"
            for values, number in family.rows
        ]


def _head(family: RowFamily | TextFamily, *, is_open: bool) -> str:
    # Prometheus' own format names a counter's family as its series, OpenMetrics without the ending.
    name = family.name if is_open else family.series
    about = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
    text = about.replace('"', r"\"") if is_open else about
    return f"# HELP {name} {text}\n# TYPE {name} {family.type}\n"


class _Starts(dict[tuple[str, ...], str]):
    """The beginnings of a family's lines, by label values."""

    def __init__(self, series: str) -> None:
        super().__init__()
        self._series = series
        self.labels: Sequence[str] = ()

    def __missing__(self, values: tuple[str, ...]) -> str:
        # By name, as prometheus-client has them.
        pairs = sorted(f'{name}="{escaped(value)}"' for name, value in zip(self.labels, values, strict=False))
        labels = f"{{{','.join(pairs)}}}" if pairs else ""
        start = self[values] = f"{self._series}{labels} "
        return start


_END = b"# EOF\n"


class _Only:
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def escaped(text: str) -> str:
    """A label's value as it stands between the quotes."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
