"""Budgets by row: of each output of a layer the same share of entries is pruned."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

from . import ops
from .budgets import check_budget
from .groups import Factored, RankedGroups, lowest
from .keywords import passed
from .scores import Score

__all__ = ["RowUnstructured", "row_unstructured"]

_Module = TypeVar("_Module", bound=nn.Module)


class Rows(RankedGroups):
    """The entries of each index of ``method.dim``."""

    operators = ops.row_masks, ops.row_prune

    def rule(self, method: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        amount, absolute = _budget(method)
        return (amount, method.dim), {"absolute": absolute}

    def by_sorting(self, method: Any, values: Tensor, old: Tensor) -> Tensor:
        amount, absolute = _budget(method)
        rows = old.movedim(method.dim, 0).reshape(old.shape[method.dim], -1)
        active = rows == 1
        left = active.sum(1, keepdim=True)
        if absolute:
            due = round(amount * rows.shape[1]) - (rows == 0).sum(1, keepdim=True)
        elif isinstance(amount, float):
            due = (amount * left.double()).round()
        else:
            least = int(left.min()) if len(left) else amount
            upstream._validate_pruning_amount(amount, least)
            due = torch.full_like(left, amount)
        pruned = lowest(values.movedim(method.dim, 0).reshape(rows.shape), active, due)
        there = pruned.view(old.movedim(method.dim, 0).shape).movedim(0, method.dim)
        return old.masked_fill(there, 0)


def _budget(method: Any) -> tuple[int | float, bool]:
    """What the operators take: an amount, and whether it is absolute."""
    return (method.amount, False) if method.sparsity is None else (method.sparsity, True)


class RowUnstructured(Factored):
    """Prunes, in each row of a tensor, the entries of smallest magnitude.

    A row is all entries of one index of ``dim``, each with a budget of its own, as Wanda prunes
    (Sun et al., "A Simple and Effective Pruning Approach for Large Language Models",
    arXiv:2306.11695), whose factor is the norm of each input. Ties go by the lowest index. Wanda
    rounds a budget down, this to the nearest, half to even.

    A ``score``, or the ``scores`` of a subclass, ranks as in :class:`Unstructured`.

    >>> layer = nn.Linear(8, 4)
    >>> method = prune.RowUnstructured.apply(layer, "weight", amount=0.5)
    >>> layer.weight_mask.sum(1)
    tensor([4., 4., 4., 4.])

    Args:
        amount: of what remains: a float in [0, 1] is a fraction of a row's active entries, an int
            their number.
        dim: counts rows; 0 is the outputs of a Linear or convolution layer.
        sparsity: in place of ``amount``, the fraction of a row's entries that is pruned in the
            end, those pruned before included.
        factor: broadcasts to the tensor; what is ranked is ``|t| * |factor|``.
        score: called in place of ``scores``.

    Raises:
        ValueError: the amount is out of range, or exceeds the active entries of some row; amount
            and sparsity are given.
        TypeError: neither is given; the sparsity is no float; there are a factor and a score.
        IndexError: ``dim`` is out of range.
        RuntimeError: the factor does not broadcast to the tensor.
    """

    PRUNING_TYPE = "global"
    pattern = Rows()

    def __init__(
        self,
        amount: int | float | None = None,
        dim: int = 0,
        *,
        sparsity: float | None = None,
        factor: Tensor | None = None,
        score: Score | None = None,
    ) -> None:
        check_budget(type(self).__name__, amount, sparsity)
        self.amount: Any = amount
        self.sparsity, self.dim = sparsity, dim
        super().__init__(factor, score)


def row_unstructured(
    module: _Module,
    name: str,
    amount: int | float | None = None,
    dim: int = 0,
    *,
    sparsity: float | None = None,
    factor: Tensor | None = None,
    score: Score | None = None,
    importance_scores: Tensor | None = None,
    replace: bool = False,
) -> _Module:
    """Prune, in each row of ``module.<name>``, the entries of smallest magnitude.

    Budgets by row as in Wanda (Sun et al., arXiv:2306.11695), see :class:`RowUnstructured`.

    >>> m = prune.row_unstructured(nn.Linear(8, 4), "weight", amount=0.5)
    >>> m.weight_mask.sum(1)
    tensor([4., 4., 4., 4.])

    Args:
        module: holds the tensor to prune.
        name: of the parameter; float64, float32, float16 and bfloat16 natively.
        amount: of what remains: a float in [0, 1] is a fraction of a row's active entries, an int
            their number.
        dim: counts rows.
        sparsity: in place of ``amount``, the fraction of a row that is pruned in the end.
        factor: broadcasts to the parameter, and multiplies what is ranked.
        score: called in place of ranking magnitudes, as in :class:`Unstructured`.
        importance_scores: rank these instead of the parameter; of its shape.
        replace: in place of the newest method, as in :func:`l1_unstructured`.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter; there is
            neither amount nor sparsity; there are a factor and a score.
        ValueError: the amount is out of range, or exceeds the active entries of some row.
        IndexError: ``dim`` is out of range.
        AssertionError: the scores have another shape than the parameter.
        RuntimeError: the scores are on another device, or the factor does not broadcast.
        NotImplementedError: to replace, as :func:`l1_unstructured`; ValueError also as there.
    """
    RowUnstructured.apply(
        module,
        name,
        amount,
        dim,
        sparsity=sparsity,
        factor=factor,
        score=score,
        importance_scores=importance_scores,
        **passed(replace=replace),
    )
    return module
