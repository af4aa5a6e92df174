"""Selection within each row: row_masks and row_prune, each with its fake kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import as_scalar, fake_masks

__all__ = ["row_masks", "row_prune"]

_row_masks: Any = torch.ops.fastprune.row_masks.default
_row_prune: Any = torch.ops.fastprune.row_prune.default
_masked_muls: Any = torch.ops.fastprune.masked_muls.default


def row_masks(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    amount: int | float,
    dim: int,
    factors: Sequence[Tensor | None] = (),
    *,
    absolute: bool = False,
    is_signed: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Masks that prune ``amount`` of each row, the entries of one index of ``dim``.

    As Wanda prunes (Sun et al., arXiv:2306.11695). The entries of smallest magnitude go, lowest
    index first among equals. Each tensor, and each row, is decided by itself.

    >>> ops.row_masks([torch.tensor([[1.0, 2.0], [4.0, 3.0]])], [], 0.5, dim=0)
    [tensor([[0., 1.],
            [1., 0.]])]

    Args:
        scores: float64, float32, float16 or bfloat16.
        masks: old mask or None (all ones) for each of the scores; or an empty sequence. Only
            entries whose mask is 1 are counted and ranked.
        amount: an int is a count, a float in [0, 1] a fraction of the row's active entries,
            rounded half to even.
        dim: counts rows; 0 is the outputs of a Linear layer. A negative one counts from the last.
        factors: for each of the scores a tensor that broadcasts to it, or None; or an empty
            sequence. What is ranked is ``|score| * |factor|``, in float32, or in float64 for
            scores of float64.
        absolute: ``amount``, a float, is a fraction of all entries of a row: those whose mask is
            zero are a part of it.
        is_signed: rank by value, -1 before 0, rather than by magnitude.
        dtype: of a new mask where there is no old one; default: the score's.

    Returns:
        New masks with the shapes and memory layouts of the scores and the dtypes of the old masks.
        NaN ranks above infinity. Entries not pruned have the value of the old mask: none comes
        back.

    Raises:
        ValueError: ``amount`` is out of range or exceeds the active entries of some row, or there
            are factors of signed scores.
        TypeError: ``amount`` is no number, or a count is absolute.
        IndexError: ``dim`` is out of range.
        RuntimeError: shapes, dtypes, devices or numbers of tensors do not fit.
    """
    if not scores:  # no tensor to dispatch on
        return []
    result: list[Tensor] = _row_masks(
        scores, masks, as_scalar(amount), dim, factors, absolute, is_signed, dtype
    )
    return result


@torch.library.register_fake("fastprune::row_masks")
def _(
    scores: list[Tensor],
    masks: list[Tensor | None],
    amount: int | float,
    dim: int,
    factors: list[Tensor | None],
    absolute: bool = False,
    is_signed: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    return fake_masks(scores, masks, factors, dtype)


def row_prune(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    ts: Sequence[Tensor],
    amount: int | float,
    dim: int,
    factors: Sequence[Tensor | None] = (),
    *,
    absolute: bool = False,
    is_signed: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`row_masks`, and with each mask its product with one of ``ts``.

    Written in one pass where dtypes and layouts allow. Budgets by row as Sun et al. have them.

    >>> t = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    >>> (mask,), (product,) = ops.row_prune([t], [], [t], 1, dim=0)
    >>> product
    tensor([[0., 2.],
            [4., 0.]])

    Args:
        scores: as in :func:`row_masks`.
        masks: as in :func:`row_masks`.
        ts: what each mask is multiplied with; of the shapes of the scores.
        amount: as in :func:`row_masks`.
        dim: as in :func:`row_masks`.
        factors: as in :func:`row_masks`.
        absolute: as in :func:`row_masks`.
        is_signed: as in :func:`row_masks`.

    Returns:
        The masks, and ``masked_mul(t, mask)`` for each, differentiable in ``ts``.

    Raises:
        ValueError, TypeError, IndexError, RuntimeError: as :func:`row_masks`.
    """
    if not scores:  # no tensor to dispatch on
        return [], []
    result: tuple[list[Tensor], list[Tensor]] = _row_prune(
        scores, masks, ts, as_scalar(amount), dim, factors, absolute, is_signed
    )
    return result


@torch.library.register_fake("fastprune::row_prune")
def _(
    scores: list[Tensor],
    masks: list[Tensor | None],
    ts: list[Tensor],
    amount: int | float,
    dim: int,
    factors: list[Tensor | None],
    absolute: bool = False,
    is_signed: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    new = _row_masks(scores, masks, amount, dim, factors, absolute, is_signed)
    return new, _masked_muls(ts, new)
