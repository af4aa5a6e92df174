"""Blocks of the first two dims: norms, and masks of blocks expanded to the entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import check_device, fake_masks

__all__ = ["block_masks", "block_norms", "block_prune"]

_block_norms: Any = torch.ops.fastprune.block_norms.default
_block_masks: Any = torch.ops.fastprune.block_masks.default
_block_prune: Any = torch.ops.fastprune.block_prune.default
_masked_muls: Any = torch.ops.fastprune.masked_muls.default


def block_norms(ts: Sequence[Tensor], block: Sequence[int], p: float = 2.0) -> list[Tensor]:
    """The ``p``-norm of each block of each tensor, as :func:`torch.linalg.vector_norm` has it, but
    of the mean over the block rather than the sum.

    On CUDA one launch for up to 16 tensors of one dtype.

    >>> ops.block_norms([torch.ones(4, 8)], [2, 4])
    [tensor([[1., 1.],
            [1., 1.]], dtype=torch.float64)]

    Args:
        ts: float64, float32, float16 or bfloat16.
        block: how many indices of the first dim and of the second a block has; all other dims are
            within a block. Blocks at the edges may be smaller.
        p: order of the norm, any number or infinity.

    Returns:
        float64 tensors of shape ``[ceil(size(0) / block[0]), ceil(size(1) / block[1])]``. Sums are
        in float64 and in one order, the same on every device.

    Raises:
        ValueError: ``block`` is not two positive numbers.
        NotImplementedError: other dtypes.
    """
    if not ts:  # no tensor to dispatch on
        return []
    result: list[Tensor] = _block_norms(ts, block, float(p))
    return result


def _grid(t: Tensor, block: Sequence[int]) -> list[int]:
    sizes = [*t.shape[:2], 1, 1][:2]
    return [-(-size // b) for size, b in zip(sizes, block, strict=True)]


@torch.library.register_fake("fastprune::block_norms")
def _(ts: list[Tensor], block: list[int], p: float) -> list[Tensor]:
    return [t.new_empty(_grid(t, block), dtype=torch.float64) for t in ts]


def block_masks(
    units: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    likes: Sequence[Tensor],
    block: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Masks of entries from masks of blocks, as block sparsity has them (Gray et al., "GPU Kernels
    for Block-Sparse Weights").

    >>> kept = torch.tensor([[True, False]])
    >>> ops.block_masks([kept], [], [torch.randn(2, 4)], [2, 2])
    [tensor([[1., 1., 0., 0.],
            [1., 1., 0., 0.]])]

    Args:
        units: bool, for each of the tensors a mask of the shape of its :func:`block_norms`.
        masks: old mask or None (all ones) for each of the tensors; or an empty sequence.
        likes: give the masks their shapes, layouts and, where there is no old one, dtypes.
        block: as in :func:`block_norms`.
        dtype: of a new mask where there is no old one.

    Returns:
        For each the old mask where its block is kept, 0 elsewhere.

    Raises:
        ValueError: ``block`` is not two positive numbers.
        RuntimeError: shapes, dtypes, devices or numbers of tensors do not fit.
    """
    if not likes:  # no tensor to dispatch on
        return []
    result: list[Tensor] = _block_masks(units, masks, likes, block, dtype)
    return result


@torch.library.register_fake("fastprune::block_masks")
def _(
    units: list[Tensor],
    masks: list[Tensor | None],
    likes: list[Tensor],
    block: list[int],
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    for i, (unit, like) in enumerate(zip(units, likes, strict=True)):
        check_device(f"units[{i}]", unit, like)
    return fake_masks(likes, masks, [], dtype)


def block_prune(
    units: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    ts: Sequence[Tensor],
    block: Sequence[int],
) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`block_masks` shaped as ``ts``, and with each mask its product with one of them.

    Written in one pass where dtypes and layouts allow. Blocks as Gray et al. have them.

    >>> kept = torch.tensor([[True, False]])
    >>> (mask,), (product,) = ops.block_prune([kept], [], [torch.ones(2, 4)], [2, 2])
    >>> product
    tensor([[1., 1., 0., 0.],
            [1., 1., 0., 0.]])

    Args:
        units: as in :func:`block_masks`.
        masks: as in :func:`block_masks`.
        ts: what each mask is multiplied with.
        block: as in :func:`block_norms`.

    Returns:
        The masks, and ``masked_mul(t, mask)`` for each, differentiable in ``ts``.

    Raises:
        ValueError, RuntimeError: as :func:`block_masks`.
    """
    if not ts:  # no tensor to dispatch on
        return [], []
    result: tuple[list[Tensor], list[Tensor]] = _block_prune(units, masks, ts, block)
    return result


@torch.library.register_fake("fastprune::block_prune")
def _(
    units: list[Tensor], masks: list[Tensor | None], ts: list[Tensor], block: list[int]
) -> tuple[list[Tensor], list[Tensor]]:
    new = _block_masks(units, masks, ts, block)
    return new, _masked_muls(ts, new)
