"""Outputs of 32 MiB and more, which the CPU kernels write in pieces of fresh pages."""

import pytest
import torch

import fastprune.ops as ops
import reference
from compare import assert_same_bits
from inputs import mask

ROWS, COLUMNS = 2111, 2003  # primes: no piece ends with a row
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


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
def test_channel_mask(scores: torch.Tensor, old: torch.Tensor, dim: int, has_mask: bool) -> None:
    norms = ops.channel_norms(scores, 2, dim)
    kept = norms > norms.sort().values[norms.numel() // 2]
    expected = (kept.unsqueeze(1 - dim) * torch.ones_like(scores)) * (old if has_mask else 1)
    count = norms.numel() // 2 + 1
    made = ops.channel_mask(norms, scores, old if has_mask else None, count, dim)
    assert_same_bits(made, expected)
    made, product = ops.channel_prune(norms, scores, old if has_mask else None, count, dim)
    assert_same_bits(made, expected)
    assert_same_bits(product, expected * scores)


@pytest.mark.parametrize("has_mask", [False, True])
def test_topk_prune(scores: torch.Tensor, old: torch.Tensor, has_mask: bool) -> None:
    given = old if has_mask else None
    expected = reference.topk_masks([scores], [given], 0.5)[0]
    [made], [product] = ops.topk_prune([scores], [given], [scores], 0.5)
    assert_same_bits(made, expected)
    assert_same_bits(product, expected * scores)
