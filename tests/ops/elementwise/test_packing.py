"""Packed masks: packed and unpacked of fastprune.packing, against numpy.packbits."""

import math

import numpy as np
import pytest
import torch

from fastprune import _C
from fastprune.packing import packed, packed_by_words, packed_shape, unpacked
from fastprune.superseded import is_binary
from support.inputs import LAYOUTS, MASK_DTYPES, SHAPE, mask, name

SHAPES = [(), (1,), (0,), (7,), (8,), (9,), (1025,), (1, 1), (5, 1), (1, 5), (3, 8), (3, 9)]
SHAPES += [(0, 5), (5, 0), (33, 31), (4, 3, 3, 3), (2, 0, 3)]


def packbits(m: torch.Tensor) -> np.ndarray:
    rows = m.shape[0] if m.dim() > 1 else 1
    flat = (m != 0).numpy().reshape(rows, m.numel() // rows if rows else 1)
    return np.packbits(flat, axis=1, bitorder="little")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*MASK_DTYPES, torch.int64], ids=name)
def test_as_numpy_packs_rows(device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    m = mask("non_binary", shape, dtype)
    actual = packed(m.to(device))
    assert actual.dtype == torch.uint8
    assert actual.device.type == device
    assert actual.shape == packed_shape(shape)
    assert np.array_equal(actual.cpu().numpy(), packbits(m))
    assert unpacked(actual, shape).dtype == torch.bool
    assert torch.equal(unpacked(actual, shape).cpu(), m != 0)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 70_001), (70_001, 3), (300_000,)], ids=str)
def test_kernel_and_operations_of_torch_agree(shape: tuple[int, ...]) -> None:
    m = mask("random", shape, torch.float32)
    assert torch.equal(packed_by_words(m), _C.pack(m)[0])


@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 9000])
@pytest.mark.parametrize("value", [-0.0, 1.0, -1.0, 2.0, 0.5, 1e-7, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", [*MASK_DTYPES, torch.int64], ids=name)
def test_masks_of_zeros_and_ones(dtype: torch.dtype, value: float, at: int) -> None:
    if not dtype.is_floating_point and not math.isfinite(value):
        pytest.skip("an integer is finite")
    m = mask("random", (9001,), dtype)
    m[at] = abs(value) if dtype == torch.uint8 else value
    expected = bool(((m == 0) | (m == 1)).all())
    assert _C.pack(m)[1] == expected
    assert is_binary(m) == expected
    assert torch.equal(unpacked(_C.pack(m)[0], m.shape), m != 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_logical_order(device: str, layout: str) -> None:
    m = LAYOUTS[layout](mask("random", SHAPE, torch.float32))
    assert np.array_equal(packed(m.to(device)).cpu().numpy(), packbits(m))


def test_bits_that_are_not_contiguous(device: str) -> None:
    m = mask("random", (5, 40), torch.bool).to(device)
    bits = packed(m).t().contiguous().t()
    assert torch.equal(unpacked(bits, m.shape), m)


def test_bits_after_a_row_are_ignored(device: str) -> None:
    bits = torch.full((3, 2), 255, dtype=torch.uint8, device=device)
    assert unpacked(bits, (3, 3, 3)).all()
    assert packed(torch.ones(3, 9, device=device)).tolist() == [[255, 1]] * 3


@pytest.mark.parametrize(
    "bits", [torch.zeros(3, 2), torch.zeros(2, 3).byte(), torch.zeros(6).byte()]
)
def test_what_is_no_packed_mask(bits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[3, 9\].*uint8.*\[3, 2\], got torch"):
        unpacked(bits, (3, 9))
