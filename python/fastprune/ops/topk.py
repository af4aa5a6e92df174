"""Selection of single entries: topk_masks and topk_prune, each with its fake kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import as_scalars, check_devices

__all__ = ["topk_masks", "topk_prune"]

# Looked up once: a look-up by name takes as long as a small operator's checks.
_topk_masks: Any = torch.ops.fastprune.topk_masks.default
_topk_prune: Any = torch.ops.fastprune.topk_prune.default
_topk_part: Any = torch.ops.fastprune.topk_part.default
_masked_muls: Any = torch.ops.fastprune.masked_muls.default


def topk_masks(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    amount: int | float | Sequence[int | float],
    factors: Sequence[Tensor | None] = (),
    *,
    active_only: bool = True,
    largest: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Masks that prune the entries of smallest magnitude of all scores together, or of each.

    What :func:`torch.nn.utils.prune.global_unstructured` decides with
    :class:`~torch.nn.utils.prune.L1Unstructured`; of one tensor, or with an amount for each, what
    :func:`~torch.nn.utils.prune.l1_unstructured` does.

    >>> scores = [torch.tensor([1.0, 4.0]), torch.tensor([[2.0, 3.0]])]
    >>> ops.topk_masks(scores, [], 3)  # of all together
    [tensor([0., 1.]), tensor([[0., 0.]])]
    >>> ops.topk_masks(scores, [], [1, 1], dtype=torch.bool)  # of each
    [tensor([False,  True]), tensor([[False,  True]])]

    Args:
        scores: float64, float32, float16 or bfloat16, of one dtype and on one device.
        masks: old mask or None (all ones) for each of the scores; or an empty sequence. Floating
            point, bool or integer, of one dtype.
        amount: an int prunes that many entries; a float in [0, 1] prunes that fraction of the
            active entries, rounded half to even. A sequence has one for each of the scores, each
            for its own entries alone.
        factors: for each of the scores a tensor that broadcasts to it, or None (all ones); or an
            empty sequence. What is ranked is ``|score| * |factor|``, in float32, or in float64 for
            scores of float64; it is not stored.
        active_only: count and rank only entries whose old mask is 1.
        largest: prune the largest magnitudes instead.
        dtype: of the new masks where none is given; default: the scores'.

    Returns:
        New masks with the shapes and memory layouts of the scores and the dtype of the old masks.
        Exactly the amount is pruned: among equal magnitudes the lowest index goes first, in the
        order of the list and in logical order within a tensor. NaN ranks above infinity. Entries
        not pruned have the value of the old mask.

    Raises:
        ValueError: the amount exceeds the active entries, or is out of range.
        RuntimeError: shapes, dtypes, devices or the number of amounts do not fit.
    """
    if not scores:  # no tensor to dispatch on
        return []
    amounts = as_scalars("topk_masks", amount, scores)
    result: list[Tensor] = _topk_masks(scores, masks, amounts, factors, active_only, largest, dtype)
    return result


@torch.library.register_fake("fastprune::topk_masks")
def _(
    scores: list[Tensor],
    masks: list[Tensor | None],
    amount: list[int | float],
    factors: list[Tensor | None],
    active_only: bool = True,
    largest: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    check_devices(scores, masks=masks, factors=factors)
    old = next((m.dtype for m in masks if m is not None), dtype)
    return [torch.empty_like(s, dtype=old or s.dtype) for s in scores]


def topk_prune(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    ts: Sequence[Tensor],
    amount: int | float | Sequence[int | float],
    factors: Sequence[Tensor | None] = (),
    *,
    active_only: bool = True,
) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`topk_masks`, and with each mask its product with one of ``ts``.

    Both are written in one pass where a kernel does that: on the CPU of float32 and float64, and of
    float16 and bfloat16 without old masks. As :func:`torch.nn.utils.prune.l1_unstructured` prunes a
    tensor.

    >>> t = torch.tensor([1.0, -4.0, 2.0, 3.0])
    >>> (mask,), (product,) = ops.topk_prune([t], [], [t], 0.5)
    >>> mask, product
    (tensor([0., 1., 0., 1.]), tensor([ 0., -4.,  0.,  3.]))

    Args:
        scores: as in :func:`topk_masks`.
        masks: as in :func:`topk_masks`.
        ts: what each mask is multiplied with; of the shapes of the scores.
        amount: as in :func:`topk_masks`.
        factors: as in :func:`topk_masks`.
        active_only: as in :func:`topk_masks`.

    Returns:
        The masks, and ``masked_mul(t, mask)`` for each, differentiable in ``ts``.

    Raises:
        ValueError: the amount exceeds the active entries, or is out of range.
        RuntimeError: shapes, dtypes or devices do not fit.
    """
    if not scores:  # no tensor to dispatch on
        return [], []
    amounts = as_scalars("topk_prune", amount, scores)
    result: tuple[list[Tensor], list[Tensor]] = _topk_prune(
        scores, masks, ts, amounts, factors, active_only
    )
    return result


@torch.library.register_fake("fastprune::topk_prune")
def _(
    scores: list[Tensor],
    masks: list[Tensor | None],
    ts: list[Tensor],
    amount: list[int | float],
    factors: list[Tensor | None],
    active_only: bool = True,
) -> tuple[list[Tensor], list[Tensor]]:
    new = _topk_masks(scores, masks, amount, factors, active_only)
    return new, _masked_muls(ts, new)


def topk_part(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    keys: torch.dtype,
    *,
    active_only: bool = True,
    largest: bool = False,
    dtype: torch.dtype | None = None,
) -> Any:
    """A list of tensors as one of several, on other devices or of other dtypes, to select from all.

    For those who drive a selection over parts by themselves: fastprune/parts.py does what
    :func:`torch.nn.utils.prune.global_unstructured` decides. Its methods are in
    csrc/args/topk_part.h.

    >>> part = ops.topk_part([torch.randn(4, 8)], [], torch.float32)
    >>> [name for name in ("sample", "sweep", "histogram", "fixup") if hasattr(part, name)]
    ['sample', 'sweep', 'histogram', 'fixup']

    Args:
        scores: as in :func:`topk_masks`; not an empty sequence.
        masks: as in :func:`topk_masks`.
        keys: the dtype to which the scores of all parts promote.
        active_only: as in :func:`topk_masks`.
        largest: as in :func:`topk_masks`.
        dtype: as in :func:`topk_masks`.

    Returns:
        An object with methods ``sample``, ``sweep``, ``histogram``, ``tie_histogram``, ``fixup``
        and ``masks``.

    Raises:
        RuntimeError: shapes, dtypes or devices do not fit.
    """
    return _topk_part(scores, masks, keys, active_only, largest, dtype)
