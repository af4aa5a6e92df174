"""The operators of torch.ops.fastprune, typed, and their fake kernels.

Each runs on CPU and CUDA tensors of any strides, under torch.compile too. csrc/ops.cpp is their
table of contents; docs/design.md says what they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _C

# Looked up once: a look-up by name takes as long as a small operator's checks.
_topk_masks: Any = torch.ops.fastprune.topk_masks.default
_topk_prune: Any = torch.ops.fastprune.topk_prune.default
_channel_norms: Any = torch.ops.fastprune.channel_norms.default
_channel_mask: Any = torch.ops.fastprune.channel_mask.default
_channel_prune: Any = torch.ops.fastprune.channel_prune.default
_combine_masks: Any = torch.ops.fastprune.combine_masks.default
_masked_mul: Any = torch.ops.fastprune.masked_mul.default
_masked_mul_: Any = torch.ops.fastprune.masked_mul_.default
_masked_muls: Any = torch.ops.fastprune.masked_muls.default


def _scalar(amount: int | float) -> int | float:
    """An amount as the native side takes it: an int counts, a float is a fraction."""
    if type(amount) is float:
        return amount
    if amount is True:
        raise TypeError("expected amount to be an int or a float, got True")
    return int(amount) if isinstance(amount, Integral) else float(amount)


def topk_masks(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    amount: int | float,
    *,
    active_only: bool = True,
    largest: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Masks that prune the entries of smallest magnitude of all scores together.

    Args:
        scores: float64, float32, float16 or bfloat16, of one dtype and on one device.
        masks: old mask or None (all ones) for each of the scores; or an empty sequence. Floating
            point, bool or integer, of one dtype.
        amount: an int prunes that many entries; a float in [0, 1] prunes that fraction of the
            active entries, rounded half to even.
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
        RuntimeError: shapes, dtypes or devices do not fit.
    """
    if not scores:  # no tensor to dispatch on
        return []
    result: list[Tensor] = _topk_masks(scores, masks, _scalar(amount), active_only, largest, dtype)
    return result


def topk_prune(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    ts: Sequence[Tensor],
    amount: int | float,
    *,
    active_only: bool = True,
) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`topk_masks`, and with each mask its product with one of ``ts``.

    On the CPU from one sweep, where all are float32 or all float64.

    Returns:
        The masks, and ``masked_mul(t, mask)`` for each, differentiable in ``ts``.
    """
    if not scores:  # no tensor to dispatch on
        return [], []
    result: tuple[list[Tensor], list[Tensor]] = _topk_prune(
        scores, masks, ts, _scalar(amount), active_only
    )
    return result


def channel_norms(t: Tensor, p: float, dim: int) -> Tensor:
    """The p-norm of each channel of ``t`` along ``dim``: float64, shape ``[t.shape[dim]]``.

    ``p`` is any number or infinity, as in :func:`torch.linalg.vector_norm`. Sums are accumulated in
    float64 in one fixed order, so that the result does not depend on threads.
    """
    result: Tensor = _channel_norms(t, float(p), dim)
    return result


def channel_mask(
    scores: Tensor,
    like: Tensor,
    mask: Tensor | None,
    amount: int | float,
    dim: int,
    *,
    active_only: bool = True,
) -> Tensor:
    """A mask of the shape of ``like`` without the channels of lowest score, times the old mask.

    Args:
        scores: one for each channel, shape ``[like.shape[dim]]``, ranked by magnitude; ties go by
            the lowest channel.
        like: gives shape, layout, device, and without an old mask the dtype of the result.
        mask: old mask, or None for ones.
        amount: number (int) or fraction (float) of channels to prune.
        dim: the dim that counts channels.
        active_only: count and rank only channels with a non-zero entry in the old mask.

    Raises:
        ValueError: the amount exceeds the active channels or is out of range; under two dims.
        IndexError: ``dim`` is out of range.
        RuntimeError: shapes, dtypes or devices do not fit.
    """
    result: Tensor = _channel_mask(scores, like, mask, _scalar(amount), dim, active_only)
    return result


def channel_prune(
    scores: Tensor,
    t: Tensor,
    mask: Tensor | None,
    amount: int | float,
    dim: int,
    *,
    active_only: bool = True,
) -> tuple[Tensor, Tensor]:
    """:func:`channel_mask` like ``t``, and its product with ``t``.

    Written together where ``t`` is contiguous and of the mask's dtype.

    Returns:
        The mask, and ``masked_mul(t, mask)``, differentiable in ``t``.
    """
    result: tuple[Tensor, Tensor] = _channel_prune(
        scores, t, mask, _scalar(amount), dim, active_only
    )
    return result


def combine_masks(old_mask: Tensor, new_mask: Tensor) -> Tensor:
    """``old_mask * new_mask.to(old_mask.dtype)``."""
    result: Tensor = _combine_masks(old_mask, new_mask)
    return result


def masked_mul(t: Tensor, mask: Tensor) -> Tensor:
    """``mask.to(t.dtype) * t``, bit for bit.

    Differentiable in ``t``, and in ``mask`` if that requires a gradient. Compilers and exporters
    see an ordinary multiplication.

    Args:
        t: of any dtype; float64, float32, float16 and bfloat16 have kernels of ours.
        mask: of the shape of ``t`` or one that broadcasts; of any dtype.

    Raises:
        RuntimeError: shapes or devices do not fit.
    """
    if is_compiling():
        return mask.to(t.dtype) * t
    product = _C.product_if_plain(t, mask)
    return _masked_mul(t, mask) if product is None else product


def masked_mul_(t: Tensor, mask: Tensor) -> Tensor:
    """:func:`masked_mul` in place; returns ``t``."""
    if is_compiling():
        return t.mul_(mask.to(t.dtype))
    _masked_mul_(t, mask)
    return t


def masked_muls(ts: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """:func:`masked_mul` over a list."""
    if not ts:  # no tensor to dispatch on
        return []
    if is_compiling():
        return [masked_mul(t, mask) for t, mask in zip(ts, masks, strict=True)]
    result: list[Tensor] = _masked_muls(ts, masks)
    return result


def _check_device(name: str, mask: Tensor, of: Tensor) -> None:
    """A meta tensor brings the call here whatever the other's device."""
    if mask.device != of.device:
        raise RuntimeError(f"expected {name} to be on {of.device}, got {mask.device}")


@torch.library.register_fake("fastprune::topk_masks")
def _(
    scores: list[Tensor],
    masks: list[Tensor | None],
    amount: int | float,
    active_only: bool = True,
    largest: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    for i, mask in enumerate(masks):
        if mask is not None:
            _check_device(f"masks[{i}]", mask, scores[i])
    old = next((m.dtype for m in masks if m is not None), dtype)
    return [torch.empty_like(s, dtype=old or s.dtype) for s in scores]


@torch.library.register_fake("fastprune::topk_prune")
def _(
    scores: list[Tensor],
    masks: list[Tensor | None],
    ts: list[Tensor],
    amount: int | float,
    active_only: bool = True,
) -> tuple[list[Tensor], list[Tensor]]:
    new = _topk_masks(scores, masks, amount, active_only)
    return new, _masked_muls(ts, new)


@torch.library.register_fake("fastprune::channel_norms")
def _(t: Tensor, p: float, dim: int) -> Tensor:
    return t.new_empty([t.shape[dim]], dtype=torch.float64)


@torch.library.register_fake("fastprune::channel_mask")
def _(
    scores: Tensor,
    like: Tensor,
    mask: Tensor | None,
    amount: int | float,
    dim: int,
    active_only: bool = True,
) -> Tensor:
    _check_device("scores", scores, like)
    if mask is not None:
        _check_device("mask", mask, like)
    return torch.empty_like(like, dtype=like.dtype if mask is None else mask.dtype)


@torch.library.register_fake("fastprune::channel_prune")
def _(
    scores: Tensor,
    t: Tensor,
    mask: Tensor | None,
    amount: int | float,
    dim: int,
    active_only: bool = True,
) -> tuple[Tensor, Tensor]:
    new = _channel_mask(scores, t, mask, amount, dim, active_only)
    return new, torch.empty_like(t)


@torch.library.register_fake("fastprune::combine_masks")
def _(old_mask: Tensor, new_mask: Tensor) -> Tensor:
    _check_device("new_mask", new_mask, old_mask)
    return torch.empty_like(old_mask)


# masked_mul and its forms need none: whatever traces them sees their decomposition, for which
# csrc/autograd/masked_mul.cpp registers it.
