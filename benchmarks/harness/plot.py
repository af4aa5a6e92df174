"""The plot of a result file: times of a first `l1_unstructured` over the number of elements.

Written as SVG text here, and not by a plotting library, so that the same result file gives the same
bytes everywhere and a test can tell whether the plot is current.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.records import FASTPRUNE, FLOOR, UPSTREAM, Record, Result
from harness.tables import count, default_device

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 610, 66, 346
_TITLE = "Time to prune half of a float32 tensor with l1_unstructured"
#: The label, its colour, and how far below the last point it stands.
_SERIES = {
    UPSTREAM: ("upstream", "#b3541e", 4),
    FASTPRUNE: ("fastprune", "#1f5fbf", -2),
    FLOOR: ("floor", "#6a6a6a", 14),
}
_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))

Point = tuple[float, float]


def draw(result: Result, device: str | None = None) -> str:
    """The plot as SVG.

    Raises:
        ValueError: the result does not have these cases at two sizes or more.
    """
    device = device or default_device(result)
    records = [
        record
        for record in result.records
        if record.name == f"{device}/local/dense/float32/{record.numel}/normal/50%"
        and UPSTREAM in record.contenders
    ]
    if len(records) < 2:
        raise ValueError("a plot takes l1_unstructured of at least two sizes")
    return "\n".join(_elements(_where(result, device), records)) + "\n"


def _where(result: Result, device: str) -> str:
    machine = result.machine
    on_cpu = f"{machine['cpu']}, {machine['threads']} threads"
    return machine["gpu"] if device == "cuda" else on_cpu


def _elements(where: str, records: list[Record]) -> Iterator[str]:
    records = sorted(records, key=lambda record: record.numel)
    times = [record.contenders[name].median for record in records for name in _SERIES]
    across = _LogScale(records[0].numel, records[-1].numel, _LEFT + 12, _RIGHT - 12)
    up = _LogScale(10 ** math.floor(math.log10(min(times))), max(times), _BOTTOM, _TOP)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="13">'
    )
    yield f"<title>{_TITLE}, {where}</title>"
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    yield f'<text x="{_LEFT}" y="28" font-size="15" fill="#222">{_TITLE}</text>'
    yield _text(_LEFT, 47, where, "start")
    for time in up.decades():
        yield f'<path d="M{_LEFT} {up(time):.1f}H{_RIGHT}" stroke="#ddd"/>'
        yield _text(_LEFT - 8, up(time) + 4, _round_time(time), "end")
    for record in records:
        x = across(record.numel)
        yield f'<path d="M{x:.1f} {_BOTTOM}v5" stroke="#888"/>'
        yield _text(x, _BOTTOM + 20, count(record.numel), "middle")
    yield f'<path d="M{_LEFT} {_BOTTOM}H{_RIGHT}" stroke="#888"/>'
    middle = (_LEFT + _RIGHT) / 2
    yield _text(middle, _BOTTOM + 42, "elements (both axes are logarithmic)", "middle")
    for name, (label, color, below) in _SERIES.items():
        points = [(across(r.numel), up(r.contenders[name].median)) for r in records]
        yield from _line(points, color)
        yield _text(points[-1][0] + 10, points[-1][1] + below, label, "start", color)
    yield "</svg>"


def _line(points: list[Point], color: str) -> Iterator[str]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    yield f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'


def _text(x: float, y: float, text: str, anchor: str, color: str = "#444") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{text}</text>'


class _LogScale:
    """A logarithmic axis: `low` stands at `first`, `high` at `last`."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self._low, self._high = math.log10(low), math.log10(high)
        self._first, self._last = first, last

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)

    def decades(self) -> list[float]:
        """The powers of ten on the axis."""
        return [10.0**power for power in range(math.ceil(self._low), math.floor(self._high) + 1)]


def _round_time(time: float) -> str:
    unit, factor = next((unit, factor) for unit, factor in _UNITS if time >= factor * 0.999)
    return f"{time / factor:.0f} {unit}"
