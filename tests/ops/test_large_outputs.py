"""Outputs of 32 MiB and more, which the CPU kernels write in pieces of fresh pages."""

import math

import pytest
import torch

import fastprune.ops as ops
from support import reference
from support.compare import assert_same_bits
from support.inputs import mask

ROWS, COLUMNS = 2111, 2003  # primes
SHAPE = (ROWS, COLUMNS)


@pytest.fixture(scope="module")
def scores() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(SHAPE, dtype=torch.float64, generator=generator)
    assert made.nbytes > 32 << 20
    return made


@pytest.fixture(scope="module")
def old() -> torch.Tensor:
    return mask("random", ROWS * COLUMNS, torch.float64).view(SHAPE)


def test_masked_mul(scores: torch.Tensor, old: torch.Tensor) -> None:
    assert_same_bits(ops.masked_mul(scores, old), old * scores)
    assert_same_bits(ops.masked_muls([scores, scores[:5]], [old, old[:5]])[0], old * scores)
    product = scores.clone()
    ops.masked_mul_(product, old)
    assert_same_bits(product, old * scores)


def test_combine_masks(scores: torch.Tensor, old: torch.Tensor) -> None:
    assert_same_bits(ops.combine_masks(old, scores > 0), old * (scores > 0))
    assert_same_bits(ops.combine_masks(old.long(), scores > 0), (old * (scores > 0)).long())


#: Long runs, rows of all channels, long rows of short runs, runs longer than a piece.
CHANNELS = [(SHAPE, 0), (SHAPE, 1), ((1_000_003, 5), 0), ((3, 90_001, 17), 1), ((2, 2_200_001), 0)]


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize(("shape", "dim"), CHANNELS, ids=str)
def test_channels(shape: tuple[int, ...], dim: int, has_mask: bool) -> None:
    t = torch.randn(shape, dtype=torch.float64)
    assert t.nbytes > 32 << 20
    old = mask("random", t.numel(), torch.float64).view(shape) if has_mask else None
    norms = torch.randn(shape[dim])
    count = (shape[dim] + 1) // 2
    expected = reference.channel_mask(norms, t, old, count, dim)
    assert_same_bits(ops.channel_mask(norms, t, old, count, dim), expected)
    made, product = ops.channel_prune(norms, t, old, count, dim)
    assert_same_bits(made, expected)
    assert_same_bits(product, expected * t)


@pytest.mark.parametrize("has_mask", [False, True])
def test_topk_prune(scores: torch.Tensor, old: torch.Tensor, has_mask: bool) -> None:
    given = old if has_mask else None
    expected = reference.topk_masks([scores], [given], 0.5)[0]
    [made], [product] = ops.topk_prune([scores], [given], [scores], 0.5)
    assert_same_bits(made, expected)
    assert_same_bits(product, expected * scores)


def test_block_norms() -> None:
    t = torch.randn(3 * ROWS, COLUMNS)
    (norms,) = ops.block_norms([t], (3, 1), math.inf)
    assert norms.nbytes > 32 << 20
    assert_same_bits(norms, t.double().abs().unflatten(0, (ROWS, 3)).amax(1))


@pytest.mark.parametrize("dim", [0, 1])
def test_row_prune(scores: torch.Tensor, dim: int) -> None:
    [made], [product] = ops.row_prune([scores], [None], [scores], 0.5, dim)
    lowest = scores.abs().argsort(dim=1 - dim, stable=True)
    lowest = lowest.narrow(1 - dim, 0, round(0.5 * scores.shape[1 - dim]))
    expected = torch.ones_like(scores).scatter(1 - dim, lowest, 0)
    assert_same_bits(made, expected)
    assert_same_bits(product, expected * scores)
