"""A report as figures of matplotlib, without pyplot and its global state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .dtensors import is_dtensor
from .inventory import Held, held_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .report_data import Report

_BINS = 100
#: Pixels of a mask's image, in each direction.
_PIXELS = 512
#: Of the bars, in inches.
_BAR, _HIGHEST = 0.25, 40.0
_KEPT, _PRUNED = "#3b6ea8", "#c9c9c9"


def figure(report: Report, kind: str, name: str | None, path: Any) -> Figure:
    """What ``Report.plot`` returns."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib is not installed: pip install matplotlib") from error
    kinds = ("sparsity", "histogram", "mask")
    if kind not in kinds:
        raise ValueError(f"expected kind to be one of {', '.join(kinds)}, got {kind!r}")
    if not report.pruned and (kind == "sparsity" or name is None):
        raise ValueError("expected a model with a pruned tensor, got one without")
    if kind == "sparsity":
        height = min(_HIGHEST, 1.2 + _BAR * len(report.pruned))
        result = Figure(figsize=(8, height), layout="constrained")
        _sparsity(result.subplots(), report)
    else:
        if name is None:
            name = max(report.pruned, key=lambda t: t.entries).name
        held = _find(report, name)
        result = Figure(figsize=(7, 4 if kind == "histogram" else 6), layout="constrained")
        with torch.no_grad():
            (_histogram if kind == "histogram" else _mask)(result.subplots(), held)
    if path is not None:
        result.savefig(path, dpi=150)
    return result


def _find(report: Report, name: str) -> Held:
    """The tensor as the model has it now."""
    first = report[name].name
    model = None if report.model is None else report.model()
    if model is None:
        raise RuntimeError("expected the model that was reported to be alive, got none")
    for group in held_in(model):
        for held in group:
            if held.name == first:
                if any(is_dtensor(t) for t in (*held.originals, held.mask)):
                    raise NotImplementedError(f"expected {name} to be no DTensor, got one")
                return group[0]
    raise KeyError(name)


def _sparsity(axes: Axes, report: Report) -> None:
    tensors, total = report.pruned, report.total_of_pruned.sparsity
    places = range(len(tensors))
    axes.barh(places, [t.sparsity for t in tensors], color=_KEPT, height=0.75)
    for place, tensor in zip(places, tensors, strict=True):
        inside = tensor.sparsity > 0.85
        axes.annotate(
            f"{tensor.sparsity:.1%}",
            (tensor.sparsity, place),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=8,
            color="white" if inside else "black",
            bbox=None if inside else {"facecolor": "white", "linewidth": 0, "pad": 1},
        )
    axes.axvline(total, color="black", linestyle="--", linewidth=1, zorder=0)
    axes.set_yticks(places, [t.name for t in tensors], fontsize=8)
    axes.set_ylim(len(tensors) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("sparsity")
    axes.set_title(f"pruned tensors together: {total:.1%} (dashed)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _histogram(axes: Axes, held: Held) -> None:
    values = held.values
    if values is None:
        raise ValueError(f"expected {held.name} to be a parameter, got other parametrizations")
    magnitudes = values.detach().abs()
    if magnitudes.dtype != torch.float64:
        magnitudes = magnitudes.float()
    kept = torch.ones_like(magnitudes, dtype=torch.bool) if held.mask is None else held.kept()
    finite = magnitudes.isfinite()
    largest = float(torch.where(finite, magnitudes, 0).max()) if magnitudes.numel() else 0.0
    edges = torch.linspace(0, largest or 1.0, _BINS + 1, device="cpu").tolist()

    def counts(which: Tensor) -> list[float]:
        return torch.histc(magnitudes[which & finite], _BINS, 0, edges[-1]).tolist()

    left = counts(kept)
    axes.stairs(left, edges, fill=True, color=_KEPT, label="kept")
    lost = held.form == "in place"  # its pruned entries are zeros, one high bar
    if held.mask is not None and not lost:
        both = [a + b for a, b in zip(left, counts(~kept), strict=True)]
        axes.stairs(both, edges, baseline=left, fill=True, color=_PRUNED, label="pruned")
    if held.mask is not None and bool((kept & finite).any()):
        threshold = float(magnitudes[kept & finite].min())
        axes.axvline(threshold, color="black", linewidth=1, label=f"smallest kept: {threshold:.3g}")
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("magnitude" + (" (those of pruned entries are lost)" if lost else ""))
    axes.set_ylabel("entries")
    axes.set_title(held.name, fontsize=10, loc="left")
    axes.legend(
        loc="lower right",  # of it, at the upper right corner: above the bars
        bbox_to_anchor=(1, 1),
        ncols=3,
        frameon=False,
        fontsize=8,
        borderaxespad=0.2,
    )
    axes.spines[["top", "right"]].set_visible(False)


def _mask(axes: Axes, held: Held) -> None:
    if held.mask is None:
        raise ValueError(f"expected {held.name} to be pruned, got a tensor without a mask")
    kept = held.kept()
    matrix = kept.flatten(1) if kept.dim() > 1 else kept.reshape(1, -1)
    rows, columns = matrix.shape
    size = min(rows, _PIXELS), min(columns, _PIXELS)
    shown = matrix.float()
    if size != (rows, columns):
        shown = torch.nn.functional.adaptive_avg_pool2d(shown[None], size)[0]
    image = axes.imshow(
        shown.cpu().tolist(),
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        aspect="equal" if 1 / 4 <= rows / max(columns, 1) <= 4 else "auto",
        extent=(0, columns, rows, 0),
    )
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.6)
    bar.set_label("share kept")
    axes.set_xlabel("dim 1" if kept.dim() == 2 else "dims 1 and on" if kept.dim() > 2 else "dim 0")
    axes.set_ylabel("dim 0" if kept.dim() > 1 else "")
    share = 1 - float(shown.mean()) if shown.numel() else 0.0
    axes.set_title(f"{held.name}, {rows} x {columns}, {share:.1%} pruned", fontsize=10)
