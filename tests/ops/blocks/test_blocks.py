"""block_norms, block_masks and block_prune against the reference: every block, edge and layout."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from fastprune import ops
from support import reference
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import FLOATS, KINDS, LAYOUTS, SHAPE, mask, name, values
from support.targets import Target

BLOCKS = [(1, 1), (1, 4), (4, 1), (4, 4), (3, 5), (16, 16), (2, 40), (100, 100)]
NORMS = [2.0, 1.0, 0.0, math.inf, -math.inf]


def there(target: Target, tensors: list[Tensor]) -> list[Tensor]:
    return [t.to(target.device) for t in tensors]


def check_norms(target: Target, t: Tensor, block: tuple[int, int], p: float) -> None:
    (actual,) = target.ops.block_norms(there(target, [t]), block, p)
    assert_same_bits(actual.cpu(), reference.block_norms([t], block, p)[0])


def check_masks(target: Target, t: Tensor, old: Tensor | None, block: tuple[int, int]) -> None:
    """Every bit of masks and products."""
    (norms,) = reference.block_norms([t], block)
    units = [torch.rand(norms.shape) < 0.6]
    masks = [] if old is None else [old]
    (expected,) = reference.block_masks(units, masks, [t], block)
    units, masks, ts = (there(target, each) for each in (units, masks, [t]))
    (actual,) = target.ops.block_masks(units, masks, ts, block)
    assert_same_bits(actual.cpu(), expected)
    assert_layout_of(actual, ts[0])
    (again,), (product,) = target.ops.block_prune(units, masks, ts, block)
    assert_same_bits(again, actual)
    expected = target.ops.masked_mul(ts[0], actual)
    torch.testing.assert_close(product, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(120))
def test_random(target: Target, seed: int) -> None:
    draw = random.Random(seed)
    shape = [draw.choice([1, 2, 3, 5, 8, 16, 33, 70]) for _ in range(draw.choice([1, 2, 2, 2, 3]))]
    kind = draw.choice(sorted(set(KINDS) - {"any_bits", "nan", "all_nan"}))
    t = values(kind, tuple(shape), draw.choice(FLOATS))
    block = draw.choice(BLOCKS)
    check_norms(target, t, block, draw.choice(NORMS))
    kind = draw.choice(["none", "random", "non_binary"])
    old = None
    if kind != "none":
        old = mask(kind, t.shape, draw.choice([t.dtype, torch.bool, torch.uint8, torch.float64]))
    check_masks(target, t, old, block)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks(target: Target, dtype: torch.dtype, block: tuple[int, int]) -> None:
    t = values("scaled", (33, 70), dtype)
    check_norms(target, t, block, 2.0)
    check_masks(target, t, None, block)
    check_masks(target, t, mask("random", t.shape, dtype), block)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(target: Target, layout: str) -> None:
    t = LAYOUTS[layout](values("normal", SHAPE, torch.float32))
    check_norms(target, t, (2, 3), 2.0)
    check_masks(target, t, None, (2, 3))


def test_lists(target: Target) -> None:
    """Of several dtypes and shapes, and longer than a launch of CUDA takes."""
    shapes = [(9, 7), (1, 1), (40, 5), (0, 4), (4, 65)] * 8
    ts = [values("normal", shape, FLOATS[i // 20]) for i, shape in enumerate(shapes)]
    actual = target.ops.block_norms(there(target, ts), (4, 4), 2.0)
    for norms, expected in zip(actual, reference.block_norms(ts, (4, 4)), strict=True):
        assert_same_bits(norms.cpu(), expected)
    assert ops.block_norms([], (4, 4), 2.0) == []
    assert ops.block_masks([], [], [], (4, 4)) == []
    assert ops.block_prune([], [], [], (4, 4)) == ([], [])


def test_other_norms_and_nan(target: Target) -> None:
    t = values("nan", (33, 70), torch.float32).to(target.device)
    for p in (3.0, 0.5, 2.0, math.inf):
        (norms,) = target.ops.block_norms([t], (4, 4), p)
        assert_same_bits(norms.cpu(), ops.block_norms([t.cpu()], (4, 4), p)[0])
        (expected,) = reference.block_norms([t.cpu()], (4, 4), p)
        torch.testing.assert_close(norms.cpu(), expected, rtol=1e-14, atol=0, equal_nan=True)


@pytest.mark.parametrize("empty", [(0,), (0, 4), (3, 0), (2, 0, 5)])
def test_empty(target: Target, empty: tuple[int, ...]) -> None:
    check_norms(target, torch.empty(empty), (2, 2), 2.0)
    check_masks(target, torch.empty(empty), None, (2, 2))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads(threads: int, set_threads: Any) -> None:
    set_threads(threads)
    t = values("normal", (300, 257), torch.float32)
    assert_same_bits(ops.block_norms([t], (7, 9))[0], reference.block_norms([t], (7, 9))[0])


def test_arguments(target: Target) -> None:
    t = torch.ones(6, 8, device=target.device)
    units = torch.ones(3, 2, dtype=torch.bool, device=target.device)
    for block in ((0, 4), (2, -1)):
        with pytest.raises(ValueError, match="block to be two positive numbers"):
            target.ops.block_norms([t], block, 2.0)
        with pytest.raises(ValueError, match="block to be two positive numbers"):
            target.ops.block_masks([units], [], [t], block)
    with pytest.raises(NotImplementedError, match=r"ts\[0\] to be float64"):
        target.ops.block_norms([t.int()], (2, 4), 2.0)
    for wrong in (units.float(), units[:1]):
        with pytest.raises(RuntimeError, match=r"units\[0\] to be bool, of shape \[3, 2\]"):
            target.ops.block_masks([wrong], [], [t], (2, 4))
    with pytest.raises(RuntimeError, match="one of units for each of 1 likes, got 2"):
        target.ops.block_masks([units, units], [], [t], (2, 4))
    with pytest.raises(RuntimeError, match=r"masks\[0\] to have the shape of ts\[0\]"):
        target.ops.block_prune([units], [t[:1]], [t], (2, 4))
