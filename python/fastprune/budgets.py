"""Budgets: an amount of what remains, or the sparsity in the end."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch.nn.utils.prune as upstream
from torch import Tensor

if TYPE_CHECKING:
    from .patterns import Pattern


def check_budget(name: str, amount: int | float | None, sparsity: float | None) -> None:
    """Raise unless exactly one of them is given, and in range."""
    if amount is None and sparsity is None:
        raise TypeError(f"{name}() missing 1 required argument: 'amount', or 'sparsity'")
    if sparsity is None:
        upstream._validate_pruning_amount_init(amount)
        return
    if amount is not None:
        raise ValueError(f"{name}() takes amount or sparsity, got {amount=} and {sparsity=}")
    if isinstance(sparsity, Integral) or not isinstance(sparsity, Real):
        raise TypeError(f"expected sparsity to be a float, got {sparsity!r}")
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"expected sparsity to be in the range [0, 1], got {sparsity}")


def count_left(sparsity: float, units: int, left: int) -> int:
    """How many more of some units to prune, of which some are left."""
    return max(0, round(float(sparsity) * units) - (units - left))


def amount_left(
    sparsity: float,
    pattern: Pattern,
    method: Any,
    ts: Sequence[Tensor],
    masks: Sequence[Tensor | None],
) -> int | float:
    """What a sparsity of all units of some tensors is as an amount of those that are left.

    With an old mask a number, which is read back to the host; without one the fraction itself.
    """
    old = [mask for mask in masks if mask is not None]
    if not old:
        return float(sparsity)
    units = sum(pattern.units(method, t) for t in ts)
    pruned = sum(pattern.pruned(method, mask).to(old[0].device) for mask in old)
    return count_left(sparsity, units, units - int(pruned))
