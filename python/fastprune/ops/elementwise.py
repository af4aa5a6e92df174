"""Multiplication by masks: combine_masks, with its fake kernel, and masked_mul in four forms.

masked_mul needs no fake kernel: whatever traces it sees its decomposition, which
csrc/dispatch/fallback.cpp registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import _C
from ..packing import packed_shape, unpacked
from .arguments import check_device

__all__ = ["combine_masks", "masked_mul", "masked_mul_", "masked_muls", "masked_muls_"]

# Looked up once: a look-up by name takes as long as a small operator's checks.
_combine_masks: Any = torch.ops.fastprune.combine_masks.default
_masked_mul: Any = torch.ops.fastprune.masked_mul.default
_masked_mul_: Any = torch.ops.fastprune.masked_mul_.default
_masked_muls: Any = torch.ops.fastprune.masked_muls.default
_masked_muls_: Any = torch.ops.fastprune.masked_muls_.default


def combine_masks(old_mask: Tensor, new_mask: Tensor) -> Tensor:
    """``old_mask * new_mask.to(old_mask.dtype)``.

    As :class:`torch.nn.utils.prune.CustomFromMask` combines masks.

    >>> ops.combine_masks(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([True, False, True]))
    tensor([1., 0., 0.])

    Args:
        old_mask: floating point, bool or integer, of any shape.
        new_mask: of the shape of ``old_mask``, of any of these dtypes.

    Returns:
        A mask of the shape and dtype of ``old_mask``.

    Raises:
        RuntimeError: shapes, dtypes or devices do not fit.
    """
    result: Tensor = _combine_masks(old_mask, new_mask)
    return result


@torch.library.register_fake("fastprune::combine_masks")
def _(old_mask: Tensor, new_mask: Tensor) -> Tensor:
    check_device("new_mask", new_mask, old_mask)
    return torch.empty_like(old_mask)


def masked_mul(t: Tensor, mask: Tensor) -> Tensor:
    """``mask.to(t.dtype) * t``, bit for bit.

    As :meth:`torch.nn.utils.prune.BasePruningMethod.apply_mask` multiplies. Differentiable in
    ``t``, and in ``mask`` if that requires a gradient. Compilers and exporters see an ordinary
    multiplication.

    >>> ops.masked_mul(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, True]))
    tensor([1., 0., 3.])

    Args:
        t: of any dtype; float64, float32, float16 and bfloat16 have kernels of ours.
        mask: of the shape of ``t`` or one that broadcasts; of any dtype.

    Returns:
        A tensor of the shape and dtype of ``t``.

    Raises:
        RuntimeError: shapes or devices do not fit.
    """
    if is_compiling():
        return mask.to(t.dtype) * t
    product = _C.product_if_plain(t, mask)
    return _masked_mul(t, mask) if product is None else product


def masked_mul_(t: Tensor, mask: Tensor) -> Tensor:
    """:func:`masked_mul` in place, as :meth:`torch.Tensor.mul_`.

    >>> t = torch.tensor([1.0, 2.0, 3.0])
    >>> ops.masked_mul_(t, torch.tensor([True, False, True])) is t
    True
    >>> t
    tensor([1., 0., 3.])

    Args:
        t: changed; see :func:`masked_mul`.
        mask: of the shape of ``t`` or one that broadcasts to it; of any dtype.

    Returns:
        ``t``.

    Raises:
        RuntimeError: shapes or devices do not fit; ``t`` is a leaf that requires a gradient.
    """
    if is_compiling():
        return t.mul_(mask.to(t.dtype))
    _masked_mul_(t, mask)
    return t


def masked_muls(ts: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """:func:`masked_mul` over a list, in one launch on CUDA; as :func:`torch._foreach_mul`.

    >>> ops.masked_muls([torch.ones(2), torch.ones(1, 2)], [torch.eye(2)[0], torch.eye(2)[1:]])
    [tensor([1., 0.]), tensor([[0., 1.]])]

    Args:
        ts: see :func:`masked_mul`.
        masks: one for each of ``ts``.

    Returns:
        The products; each has a graph of its own.

    Raises:
        RuntimeError: lengths, shapes or devices do not fit.
    """
    if not ts:  # no tensor to dispatch on
        return []
    if is_compiling():
        return [masked_mul(t, mask) for t, mask in zip(ts, masks, strict=True)]
    result: list[Tensor] = _masked_muls(ts, masks)
    return result


def masked_muls_(ts: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Applies masks to a list of tensors in place, in one launch for each kind of pair on CUDA.

    For gradients, parameters and optimizer state of a model whose pruned entries stay zero while it
    trains. A mask is one of

    - bool, of the shape of ``t``;
    - packed: uint8, of shape ``[rows, ceil(cols / 8)]`` for ``t.flatten(1)`` of shape ``[rows,
      cols]`` (a vector or a scalar is one row), as :func:`fastprune.packed` makes it. Bits
      after the last entry of a row are ignored;
    - any other dtype, of the shape of ``t``: then this is :func:`masked_mul_`. A uint8 mask of a
      ``t`` of one column is read as packed: values other than 0 and 1 count by their lowest bit.

    By a bool or packed mask pruned entries are set to +0, whatever they are, and the others are not
    touched. A product would keep the NaN or Inf of a gradient that overflowed at a pruned entry;
    and only pruned entries need a write. Otherwise as :func:`torch._foreach_mul_`.

    >>> t = torch.tensor([1.0, torch.nan, 3.0])
    >>> ops.masked_muls_([t], [torch.tensor([True, False, True])])
    [tensor([1., 0., 3.])]
    >>> ops.masked_muls_([t], [prune.packed(torch.tensor([0, 1, 1]))])
    [tensor([0., 0., 3.])]

    Args:
        ts: changed; of any dtypes, devices and layouts; float64, float32, float16 and bfloat16 have
            kernels of ours. One that is listed twice is changed twice, in this order.
        masks: one for each of ``ts``, on its device.

    Returns:
        ``ts``, as a list.

    Raises:
        RuntimeError: lengths, shapes or devices do not fit; one of ``ts`` is a leaf that requires a
            gradient. Nothing has changed then.
    """
    if not ts and not masks:  # no tensor to dispatch on
        return []
    if is_compiling():
        for t, mask in zip(ts, masks, strict=True):
            _apply_mask_(t, mask)
    else:
        _masked_muls_(ts, masks)
    return list(ts)


def _apply_mask_(t: Tensor, mask: Tensor) -> None:
    """One pair of :func:`masked_muls_`, for compilers."""
    packed = mask.dtype == torch.uint8 and mask.shape == packed_shape(t.shape)
    if not packed and mask.shape != t.shape:
        raise RuntimeError(f"expected a mask of shape {list(t.shape)}, got {list(mask.shape)}")
    if packed or mask.dtype == torch.bool:
        kept = unpacked(mask, t.shape) if packed else mask
        t.masked_fill_(~kept, 0)
    else:
        t.mul_(mask.to(t.dtype))
