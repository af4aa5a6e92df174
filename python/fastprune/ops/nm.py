"""N:M selection along a dim: nm_masks and nm_prune, each with its fake kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import fake_masks

__all__ = ["nm_masks", "nm_prune"]

_nm_masks: Any = torch.ops.fastprune.nm_masks.default
_nm_prune: Any = torch.ops.fastprune.nm_prune.default
_masked_muls: Any = torch.ops.fastprune.masked_muls.default


def nm_masks(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    n: int,
    m: int,
    dim: int,
    factors: Sequence[Tensor | None] = (),
    *,
    is_signed: bool = False,
    dtype: torch.dtype | None = None,
    both: bool = False,
) -> list[Tensor]:
    """Masks that keep, of each run of ``m`` entries along ``dim``, the ``n`` of largest magnitude.

    N:M sparsity (Zhou et al., arXiv:2102.04010). The last run may be shorter: of r entries
    min(r, n) stay. Each tensor is decided by itself.

    >>> ops.nm_masks([torch.tensor([[4.0, 1.0, -3.0, 2.0, 1.0, 1.0, 1.0, 1.0]])], [], 2, 4, dim=1)
    [tensor([[1., 0., 1., 0., 0., 0., 1., 1.]])]

    Args:
        scores: float64, float32, float16 or bfloat16.
        masks: old mask or None (all ones) for each of the scores; or an empty sequence. Entries
            whose mask is zero count as pruned; those whose mask is not 1 are not ranked.
        n: how many entries of a run stay, 0 to m.
        m: entries of a run, 1 to 64.
        dim: along which runs lie; a negative one counts from the last.
        factors: for each of the scores a tensor that broadcasts to it, or None; or an empty
            sequence. What is ranked is ``|score| * |factor|``, in float32, or in float64 for
            scores of float64.
        is_signed: rank by value, -1 before 0, rather than by magnitude.
        dtype: of a new mask where there is no old one; default: the score's.
        both: 2:4 in rows and columns at once. The matrix of the first two dims is cut into squares
            of 4 x 4, each index of the other dims by itself, and of each square stay the two
            entries of every row and column whose scores have the largest sum: in float64, of the
            two of each row, then of the rows in order. Among equals the square that is the smallest
            binary number, read row by row, stays: 0011 0011 1100 1100. An infinity counts as
            2^1000, NaN as more. ``dim`` is 0 or 1, which is the same.

    Returns:
        New masks with the shapes and memory layouts of the scores and the dtypes of the old masks.
        Among equal scores the lowest index is pruned first. NaN ranks above infinity. Entries not
        pruned have the value of the old mask: none comes back.

    Raises:
        ValueError: ``n`` or ``m`` is out of range, or there are factors of signed scores; with
            ``both``, n:m is not 2:4, there is an old mask, or one of the first two dims is not
            divisible by 4.
        IndexError: ``dim`` is out of range.
        RuntimeError: shapes, dtypes, devices or numbers of tensors do not fit.
    """
    if not scores:  # no tensor to dispatch on
        return []
    result: list[Tensor] = _nm_masks(scores, masks, n, m, dim, factors, is_signed, dtype, both)
    return result


@torch.library.register_fake("fastprune::nm_masks")
def _(
    scores: list[Tensor],
    masks: list[Tensor | None],
    n: int,
    m: int,
    dim: int,
    factors: list[Tensor | None],
    is_signed: bool = False,
    dtype: torch.dtype | None = None,
    both: bool = False,
) -> list[Tensor]:
    return fake_masks(scores, masks, factors, dtype)


def nm_prune(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    ts: Sequence[Tensor],
    n: int,
    m: int,
    dim: int,
    factors: Sequence[Tensor | None] = (),
    *,
    is_signed: bool = False,
    both: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`nm_masks`, and with each mask its product with one of ``ts``.

    Written in one pass where dtypes and layouts allow. N:M sparsity as Zhou et al. define it.

    >>> t = torch.tensor([[4.0, 1.0, -3.0, 2.0]])
    >>> (mask,), (product,) = ops.nm_prune([t], [], [t], 2, 4, dim=1)
    >>> product
    tensor([[ 4.,  0., -3.,  0.]])

    Args:
        scores: as in :func:`nm_masks`.
        masks: as in :func:`nm_masks`.
        ts: what each mask is multiplied with; of the shapes of the scores.
        n: as in :func:`nm_masks`.
        m: as in :func:`nm_masks`.
        dim: as in :func:`nm_masks`.
        factors: as in :func:`nm_masks`.
        is_signed: as in :func:`nm_masks`.
        both: as in :func:`nm_masks`.

    Returns:
        The masks, and ``masked_mul(t, mask)`` for each, differentiable in ``ts``.

    Raises:
        ValueError, IndexError, RuntimeError: as :func:`nm_masks`.
    """
    if not scores:  # no tensor to dispatch on
        return [], []
    result: tuple[list[Tensor], list[Tensor]] = _nm_prune(
        scores, masks, ts, n, m, dim, factors, is_signed, both
    )
    return result


@torch.library.register_fake("fastprune::nm_prune")
def _(
    scores: list[Tensor],
    masks: list[Tensor | None],
    ts: list[Tensor],
    n: int,
    m: int,
    dim: int,
    factors: list[Tensor | None],
    is_signed: bool = False,
    both: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    new = _nm_masks(scores, masks, n, m, dim, factors, is_signed, both=both)
    return new, _masked_muls(ts, new)
