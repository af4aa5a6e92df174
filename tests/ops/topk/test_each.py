"""topk_masks and topk_prune with an amount for each tensor: every tensor as if by itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import fastprune
from fastprune import ops
from support import reference
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import DENSE, FLOATS, LAYOUTS, mask, name, values
from support.targets import Target

# On both sides of what one worker (CPU) or one block (CUDA) takes, of a tile and of a sample.
SIZES = (257, 0, 1, 599, 33, 600, 601, 1025, 2049)
LARGE = (140_000, 10_000, 131_071, 131_072, 131_073, 3)


def check(
    target: Target,
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    amount: Sequence[float],
    **options: object,
) -> None:
    """Every bit against the reference, of masks and of products."""
    scores = [s.to(target.device) for s in scores]
    masks = [None if m is None else m.to(target.device) for m in masks]
    new = target.ops.topk_masks(scores, masks, amount, **options)
    expected = reference.topk_masks(scores, masks, amount, **options)
    for actual, wanted, score in zip(new, expected, scores, strict=True):
        assert_same_bits(actual, wanted)
        assert_layout_of(actual, score)
    if "largest" in options or "dtype" in options:
        return
    again, products = target.ops.topk_prune(scores, masks, scores, amount, **options)
    for actual, product, wanted, score in zip(again, products, expected, scores, strict=True):
        assert_same_bits(actual, wanted)
        assert_same_bits(product.cpu(), reference.masked_mul(score.cpu(), wanted))


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("sizes", [SIZES, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["normal", "all_equal", "mostly_zeros", "nan"])
def test_lists(target: Target, kind: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    target.needs(max(sizes))
    scores = [values(kind, size, dtype) for size in sizes]
    shares = [(0.5, 0.0, 1.0, 0.97, 0.123)[i % 5] for i in range(len(sizes))]
    counts = [(size // 3, 0, size, min(1, size))[i % 4] for i, size in enumerate(sizes)]
    pairs = zip(shares, counts, strict=True)
    mixed = [share if i % 2 else count for i, (share, count) in enumerate(pairs)]
    old: list[Tensor | None] = [mask("random", size, dtype) for size in sizes]
    for amount in (shares, counts, mixed):
        check(target, scores, [], amount)
    check(target, scores, [], shares, largest=True)
    check(target, scores, [], shares, dtype=torch.bool)
    check(target, scores, old, shares)
    check(target, scores, old, counts, active_only=False)
    check(target, scores, [m if i % 2 else None for i, m in enumerate(old)], shares)
    few = [int((m == 1).sum()) // 2 for m in old if m is not None]
    check(target, scores, old, few)


@pytest.mark.parametrize("layout", DENSE)
def test_layouts(target: Target, layout: str) -> None:
    scores = [LAYOUTS[layout](values("normal", (4, 3, 5, 7), torch.float32)) for _ in range(3)]
    check(target, scores, [], [0.5, 7, 0.1])


def test_one_tensor_and_empty_ones(target: Target) -> None:
    scores = values("normal", 1025, torch.float32)
    check(target, [scores], [], [0.5])
    empty = torch.empty(0, device=target.device)
    new = target.ops.topk_masks([empty, empty], [], [0.5, 0])
    assert [m.shape for m in new] == [empty.shape] * 2


@pytest.mark.parametrize("size", [100, 700])
def test_a_count_that_does_not_fit_its_tensor(target: Target, size: int) -> None:
    scores = [values("normal", n, torch.float32).to(target.device) for n in (500, size)]
    with pytest.raises(ValueError, match=rf"amount={size + 1} .*={size}"):
        target.ops.topk_masks(scores, [], [3, size + 1])
    old = [torch.ones_like(scores[0]), torch.ones_like(scores[1])]
    old[1][:7] = 0
    with pytest.raises(ValueError, match=rf"amount={size} .*={size - 7}"):
        target.ops.topk_masks(scores, old, [500, size])
    with pytest.raises(ValueError, match=rf"amount={size + 1} .*={size}"):
        target.ops.topk_masks(scores, [old[0], None], [500, size + 1])
    with pytest.raises(ValueError, match=rf"amount={size + 1} .*={size}"):
        target.ops.topk_masks(scores, old, [500, size + 1], active_only=False)
    with pytest.raises(ValueError, match=r"amount=1 .*=0"):
        target.ops.topk_masks([scores[0], scores[1][:0]], [], [3, 1])


def test_numbers_of_amounts() -> None:
    t = torch.ones(4)
    assert ops.topk_masks([], [], [0.5]) == []
    for wrong in ([], [1, 1, 1]):
        with pytest.raises(RuntimeError, match=rf"one for each of 2 scores, got {len(wrong)}"):
            ops.topk_masks([t, t], [], wrong)
    with pytest.raises(ValueError, match="amount=-1"):
        ops.topk_masks([t, t], [], [1, -1])
    with pytest.raises(TypeError, match="True"):
        ops.topk_masks([t, t], [], [1, True])


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads(threads: int) -> None:
    scores = [values("normal", size, torch.float32) for size in (*LARGE, *SIZES)]
    amount = [0.5, 0.1, 0.9, 0.3, 0.6] * 3
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        new = ops.topk_masks(scores, [], amount)
    finally:
        torch.set_num_threads(before)
    for actual, wanted in zip(new, reference.topk_masks(scores, [], amount), strict=True):
        assert_same_bits(actual, wanted)


def test_rare_paths() -> None:
    """Each tensor falls back by itself."""
    scores = [values("normal", size, torch.float32) for size in LARGE]
    fastprune._C._force_fallback(True)
    try:
        before = fastprune._C._fallbacks()
        new = ops.topk_masks(scores, [], [0.5] * len(LARGE))
        assert fastprune._C._fallbacks() == before + len(LARGE)
    finally:
        fastprune._C._force_fallback(False)
    for actual, wanted in zip(new, reference.topk_masks(scores, [], [0.5] * 6), strict=True):
        assert_same_bits(actual, wanted)


def test_gradients_of_products() -> None:
    ts = [torch.randn(5, 4, requires_grad=True), torch.randn(7, requires_grad=True)]
    new, products = ops.topk_prune(ts, [], ts, [0.5, 3])
    grads = torch.autograd.grad([(p * (i + 2.0)).sum() for i, p in enumerate(products)], ts)
    for i, (grad, m) in enumerate(zip(grads, new, strict=True)):
        assert torch.equal(grad, m * (i + 2.0))
