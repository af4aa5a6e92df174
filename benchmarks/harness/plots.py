"""Plots of a result: speed-up and fraction of the floor over size, one file a family."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, StrMethodFormatter

from harness.records import Record, Result
from harness.tables import devices, families

Line = tuple[str, list[Record]]


def draw(result: Result, folder: Path) -> list[Path]:
    """Write the plots and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for device in devices(result):
        for family in families(result, device):
            records = [r for r in result.records if (r.device, r.family) == (device, family)]
            path = folder / f"{device}-{family}.png"
            _figure(f"{family} on {_where(result, device)}", records).savefig(path, dpi=120)
            paths.append(path)
    return paths


def _where(result: Result, device: str) -> str:
    name: str = result.machine["gpu" if device == "cuda" else "cpu"]
    return name


def _figure(title: str, records: list[Record]) -> Figure:
    figure = Figure(figsize=(12, 5), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for label, line in _lines(records):
        marker = "o-" if len(line) > 1 else "x"
        sizes = [record.numel for record in line]
        with_upstream = [(r.numel, r.speedup) for r in line if r.speedup is not None]
        left.plot(*zip(*with_upstream, strict=True), marker, label=label) if with_upstream else None
        right.plot(sizes, [1 / record.ratio_to_floor for record in line], marker, label=label)
    left.set_yscale("log")
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))  # of a short axis
    left.set_title("Speed-up over torch.nn.utils.prune")
    left.set_ylabel("times as fast (log scale)")
    right.set_ylim(bottom=0)
    right.set_title("Fraction of the floor's speed")
    right.set_ylabel("time of the floor / time of fastprune")
    for axes in (left, right):
        axes.axhline(1, color="gray", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("elements")
        axes.grid(alpha=0.3)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _lines(records: list[Record]) -> list[Line]:
    """Records that differ only in size, by ascending size."""
    lines: dict[str, list[Record]] = {}
    for record in records:
        label = f"{record.variant}, {record.dtype}, {record.data}, {record.amount * 100:g}%"
        lines.setdefault(label, []).append(record)
    return [(label, sorted(line, key=lambda r: r.numel)) for label, line in lines.items()]
