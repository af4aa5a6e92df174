"""What ``report`` returns: counts as data, which tables and plots are made of."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["Report"]


class _Sums:
    """What follows from the counts of a tensor, or of several."""

    entries: int
    pruned: int
    original_bytes: int
    mask_bytes: int
    product_bytes: int

    @property
    def sparsity(self) -> float:
        """The fraction of entries that masks prune."""
        return _share(self.pruned, self.entries)

    @property
    def bytes(self) -> int:
        """Of parameters, masks and products together."""
        return self.original_bytes + self.mask_bytes + self.product_bytes


@dataclass(frozen=True)
class TensorReport(_Sums):
    """A parameter of a model.

    Attributes:
        name: with the path of its module, as if it was not pruned.
        shared: its names in other places, where modules share it.
        shape: of the whole tensor.
        dtype: of the parameter.
        device: where it is.
        form: how it is pruned: by a ``"hook"``, ``"cached"``, ``"in place"`` or by a
            ``"parametrization"``; None if it is not.
        methods: the classes of the methods applied, oldest first; what
            :func:`global_unstructured` leaves is ``"CustomFromMask (global_unstructured)"``.
        entries: how many there are.
        pruned: zeros of the mask.
        zeros: zeros of the tensor that the model computes with.
        pruned_channels: how many channels the mask prunes whole, of dim 0 and of dim 1; empty for
            vectors and what is not pruned.
        patterns: what the mask obeys, such as ``"2:4 along dim 1"``, else ``"unstructured"``, or
            ``"nothing left"``; empty if the mask prunes nothing.
        original_bytes: of the parameter; of a DTensor, in this process.
        mask_bytes: of its masks, one for each place.
        product_bytes: of the products that modules hold.
    """

    name: str
    shared: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    form: str | None
    methods: tuple[str, ...]
    entries: int
    pruned: int
    zeros: int
    pruned_channels: tuple[int, ...]
    patterns: tuple[str, ...]
    original_bytes: int
    mask_bytes: int
    product_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Of numbers, strings, lists and None, as JSON has them."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        found = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        found.update(dtype=str(self.dtype), device=str(self.device), sparsity=self.sparsity)
        return found


@dataclass(frozen=True)
class Totals(_Sums):
    """Sums over tensors, of what :class:`TensorReport` says of each."""

    tensors: int
    entries: int
    pruned: int
    zeros: int
    original_bytes: int
    mask_bytes: int
    product_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Of numbers, as JSON has them."""
        return {**dataclasses.asdict(self), "sparsity": self.sparsity}


@dataclass(frozen=True)
class Report:
    """What :func:`report` found, as for :func:`torch.nn.utils.prune.is_pruned` in numbers.

    ``print`` shows a table, ``to_dict`` gives what JSON can hold, ``report["fc.weight"]`` one
    tensor. Numbers are those of the moment it was made. Pickles and ``to_dict`` hold nothing of the
    model.

    >>> layer = prune.nm_structured(nn.Linear(8, 4), "weight", 2, 4)
    >>> found = prune.report(layer)
    >>> found.total_of_pruned.zeros, sorted(found.by_method)
    (16, ['NMStructured'])

    Args:
        tensors: one for each parameter, in the order of modules, of each the pruned ones first.
        model: where plots look for entries; a weak reference, or None.

    Raises:
        KeyError: by indexing, there is no tensor of that name.
        ImportError: by ``table`` and ``plot``, rich or matplotlib is not installed.
    """

    tensors: tuple[TensorReport, ...]
    model: weakref.ref[nn.Module] | None = field(default=None, repr=False, compare=False)

    @property
    def total(self) -> Totals:
        """Of all parameters."""
        return _total(self.tensors)

    @property
    def pruned(self) -> tuple[TensorReport, ...]:
        """The tensors that are pruned, in any form."""
        return tuple(t for t in self.tensors if t.form is not None)

    @property
    def total_of_pruned(self) -> Totals:
        """Of the tensors that are pruned."""
        return _total(self.pruned)

    @property
    def by_method(self) -> dict[str, Totals]:
        """Of the tensors that a method has pruned; one with several methods counts for each.

        Keys are those of ``methods``.
        """
        return _grouped(self.pruned, lambda t: t.methods)

    @property
    def by_pattern(self) -> dict[str, Totals]:
        """Of the tensors that obey a pattern; one that obeys several counts for each."""
        return _grouped(self.pruned, lambda t: t.patterns)

    def __getitem__(self, name: str) -> TensorReport:
        for tensor in self.tensors:
            if name == tensor.name or name in tensor.shared:
                return tensor
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Everything, of numbers, strings, lists, dicts and None, as JSON has them."""
        return {
            "tensors": [t.to_dict() for t in self.tensors],
            "total": self.total.to_dict(),
            "total_of_pruned": self.total_of_pruned.to_dict(),
            "by_method": {name: total.to_dict() for name, total in self.by_method.items()},
            "by_pattern": {name: total.to_dict() for name, total in self.by_pattern.items()},
        }

    def table(self) -> Table:
        """A rich.table.Table: pruned tensors, patterns, totals.

        ``pruned`` counts zeros of masks, and ``sparsity`` is its share of ``entries``; ``zeros``
        counts those of the tensor that the model computes with, whatever made them. ``memory`` is
        that of parameter, mask and product.

        Raises:
            ImportError: rich is not installed.
        """
        from .report_tables import rich_table

        return rich_table(self)

    def plot(
        self,
        kind: Literal["sparsity", "histogram", "mask"] = "sparsity",
        name: str | None = None,
        *,
        path: Any = None,
    ) -> Figure:
        """A matplotlib.figure.Figure.

        ``"sparsity"`` has a bar for each pruned tensor. ``"histogram"`` shows the magnitudes of a
        tensor, kept and pruned, with the smallest that is kept as a line: the threshold, where
        magnitudes were ranked. ``"mask"`` is the mask of a tensor as an image, one row for each
        index of dim 0; of large ones a pixel is a mean. The latter two read the model as it is now.

        Args:
            kind: one of the three.
            name: of the tensor, as in the report; by default the largest that is pruned.
            path: where to save the figure as well.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: there is no such kind, or nothing is pruned.
            KeyError: there is no tensor of that name.
            RuntimeError: the model is gone, or the report was loaded from a pickle.
            NotImplementedError: a histogram or a mask of a DTensor.
        """
        from .report_plots import figure

        return figure(self, kind, name, path)

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        from .report_tables import text

        return text(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"tensors": self.tensors}  # no weak reference can be pickled


def _share(part: int, of: int) -> float:
    return part / of if of else 0.0


def _total(tensors: Iterable[TensorReport]) -> Totals:
    found = list(tensors)
    names = [f.name for f in dataclasses.fields(Totals)][1:]
    return Totals(len(found), *(sum(getattr(t, name) for t in found) for name in names))


def _grouped(
    tensors: Iterable[TensorReport], names_of: Callable[[TensorReport], Iterable[str]]
) -> dict[str, Totals]:
    groups: dict[str, list[TensorReport]] = {}
    for tensor in tensors:
        for name in dict.fromkeys(names_of(tensor)):
            groups.setdefault(name, []).append(tensor)
    return {name: _total(group) for name, group in groups.items()}
