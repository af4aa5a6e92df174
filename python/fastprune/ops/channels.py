"""Selection of channels: channel_norms, channel_mask, channel_prune, each with its fake kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .arguments import as_scalar, check_device

__all__ = ["channel_mask", "channel_norms", "channel_prune"]

# Looked up once: a look-up by name takes as long as a small operator's checks.
_channel_norms: Any = torch.ops.fastprune.channel_norms.default
_channel_mask: Any = torch.ops.fastprune.channel_mask.default
_channel_prune: Any = torch.ops.fastprune.channel_prune.default


def channel_norms(t: Tensor, p: float, dim: int) -> Tensor:
    """The p-norm of each channel of ``t`` along ``dim``: float64, shape ``[t.shape[dim]]``.

    As :func:`torch.linalg.vector_norm`, which :class:`torch.nn.utils.prune.LnStructured` ranks
    channels by. Sums are accumulated in float64 in one fixed order, so that the result does not
    depend on threads, nor on the device.

    >>> ops.channel_norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 2, 0)
    tensor([5., 1.], dtype=torch.float64)

    Args:
        t: float64, float32, float16 or bfloat16, of any shape with at least two dims.
        p: order of the norm: any number or infinity.
        dim: the dim that counts channels.

    Returns:
        One norm for each channel: float64, shape ``[t.shape[dim]]``.

    Raises:
        IndexError: ``dim`` is out of range.
        ValueError: ``t`` has fewer than two dims.
        RuntimeError: the dtype has no kernel.
    """
    result: Tensor = _channel_norms(t, float(p), dim)
    return result


@torch.library.register_fake("fastprune::channel_norms")
def _(t: Tensor, p: float, dim: int) -> Tensor:
    return t.new_empty([t.shape[dim]], dtype=torch.float64)


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

    What :class:`torch.nn.utils.prune.LnStructured` decides by :func:`torch.topk` of the norms.

    >>> ops.channel_mask(torch.tensor([5.0, 1.0]), torch.empty(2, 3), None, 1, 0)
    tensor([[1., 1., 1.],
            [0., 0., 0.]])

    Args:
        scores: one for each channel, shape ``[like.shape[dim]]``, ranked by magnitude; ties go by
            the lowest channel.
        like: gives shape, layout, device, and without an old mask the dtype of the result.
        mask: old mask, or None for ones.
        amount: number (int) or fraction (float) of channels to prune.
        dim: the dim that counts channels.
        active_only: count and rank only channels with a non-zero entry in the old mask.

    Returns:
        A mask of the shape of ``like``, of the dtype of ``mask`` if there is one.

    Raises:
        ValueError: the amount exceeds the active channels or is out of range; under two dims.
        IndexError: ``dim`` is out of range.
        RuntimeError: shapes, dtypes or devices do not fit.
    """
    result: Tensor = _channel_mask(scores, like, mask, as_scalar(amount), dim, active_only)
    return result


@torch.library.register_fake("fastprune::channel_mask")
def _(
    scores: Tensor,
    like: Tensor,
    mask: Tensor | None,
    amount: int | float,
    dim: int,
    active_only: bool = True,
) -> Tensor:
    check_device("scores", scores, like)
    if mask is not None:
        check_device("mask", mask, like)
    return torch.empty_like(like, dtype=like.dtype if mask is None else mask.dtype)


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

    Written together where ``t`` is contiguous and of the mask's dtype. As
    :class:`torch.nn.utils.prune.LnStructured` prunes a tensor.

    >>> t = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    >>> mask, product = ops.channel_prune(ops.channel_norms(t, 2, 0), t, None, 1, 0)
    >>> product
    tensor([[3., 4.],
            [0., 0.]])

    Args:
        scores: one for each channel, shape ``[t.shape[dim]]``; see :func:`channel_mask`.
        t: the tensor to prune: float64, float32, float16 or bfloat16, of two dims at least.
        mask: old mask, of the shape of ``t``, or None for ones.
        amount: number (int) or fraction (float) of channels to prune.
        dim: the dim that counts channels.
        active_only: count and rank only channels with a non-zero entry in the old mask.

    Returns:
        The mask, and ``masked_mul(t, mask)``, differentiable in ``t``; both of the shape of ``t``.

    Raises:
        ValueError, IndexError, RuntimeError: as :func:`channel_mask`.
    """
    result: tuple[Tensor, Tensor] = _channel_prune(
        scores, t, mask, as_scalar(amount), dim, active_only
    )
    return result


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
