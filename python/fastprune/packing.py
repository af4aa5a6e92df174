"""Masks of one bit an entry, as ``ops.masked_muls_`` takes them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _C

__all__ = ["packed", "packed_shape", "unpacked"]


# For int64 words of which each byte is an entry: the factor that copies the lowest byte to all, the
# one that moves bit 0 of byte i to bit 56 + i, and bit i of byte i, for each i. The last two change
# places with the order of bytes.
_COPIES = sum(1 << 8 * i for i in range(8))
_GATHER, _SCATTER = (
    sum(1 << 56 - 7 * i for i in range(8)),
    sum(1 << 9 * i for i in range(8)) - (1 << 64),
)[:: 1 if sys.byteorder == "little" else -1]


def packed_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The shape of the packed mask of a tensor: rows, and bytes of a row.

    Rows are those of ``t.flatten(1)``; a vector or a scalar is one row.
    """
    rows, cols = _rows_and_cols(shape)
    return rows, (cols + 7) // 8


def packed(mask: Tensor) -> Tensor:
    """A mask with one bit an entry, 1 where ``mask`` is not zero.

    For checkpoints and for ``ops.masked_muls_``. Row by row as :func:`numpy.packbits` with
    ``bitorder="little"``: entry ``c`` of a row is bit ``c % 8`` of byte ``c // 8``, and bits after
    the last entry are 0. For a mask of :func:`torch.nn.utils.prune.l1_unstructured` that is a
    thirty-second of its bytes.

    >>> prune.packed(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    tensor([[9]], dtype=torch.uint8)

    Args:
        mask: of any dtype and shape, on any device.

    Returns:
        uint8, on the device of ``mask``. A row is one of ``mask.flatten(1)``, of as many bytes as
        its bits fill; a vector or a scalar is one row.

    Raises:
        AttributeError: ``mask`` is no tensor.
    """
    if mask.is_cpu and not is_compiling() and _C.is_plain(mask):
        return _C.pack(mask)[0]
    return packed_by_words(mask)


def packed_by_words(mask: Tensor) -> Tensor:
    """``packed`` by operations of torch, eight entries at a time."""
    rows, cols = _rows_and_cols(mask.shape)
    _, bytes_of_row = packed_shape(mask.shape)
    bits = mask.bool().reshape(rows, cols)
    if cols % 8:
        bits = torch.nn.functional.pad(bits, (0, 8 * bytes_of_row - cols))
    words = bits.contiguous().view(-1).view(torch.int64)
    return (words * _GATHER >> 56).to(torch.uint8).view(rows, bytes_of_row)


def unpacked(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask that :func:`packed` packed, by :func:`numpy.unpackbits`'s rule.

    >>> prune.unpacked(torch.tensor([[9]], dtype=torch.uint8), [1, 4])
    tensor([[ True, False, False,  True]])

    Args:
        bits: uint8, as ``packed`` returns it.
        shape: of the mask.

    Returns:
        A bool mask of this shape, on the device of ``bits``.

    Raises:
        ValueError: ``bits`` is not a packed mask of that shape.
        TypeError: the shape is no sequence.
    """
    if not isinstance(shape, Sequence):
        raise TypeError(f"expected shape to be a sequence of ints, got {shape!r}")
    if bits.dtype != torch.uint8 or bits.shape != packed_shape(shape):
        raise ValueError(
            f"expected a packed mask of shape {list(shape)} to be uint8 of shape "
            f"{list(packed_shape(shape))}, got {bits.dtype} of shape {list(bits.shape)}"
        )
    rows, cols = _rows_and_cols(shape)
    words = bits.to(torch.int64).reshape(-1) * _COPIES & _SCATTER
    entries = words.view(torch.uint8).bool()
    return entries.view(rows, 8 * bits.shape[1])[:, :cols].reshape(tuple(shape))


def _rows_and_cols(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])
