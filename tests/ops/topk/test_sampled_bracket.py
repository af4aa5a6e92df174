"""The CPU's sampled bracket: when it misses the threshold, the exact one gives the same bits."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import fastprune
from fastprune import ops
from support import reference

SIZE = 200_003  # several tiles, the last one partial


@pytest.fixture
def forced() -> Iterator[None]:
    fastprune._C._force_fallback(True)
    yield
    fastprune._C._force_fallback(False)


def scores(kind: str, dtype: torch.dtype) -> Tensor:
    normal = torch.randn(SIZE, dtype=torch.float64)
    values = {
        "normal": normal,
        "few": (normal * 2).round(),
        "equal": torch.full_like(normal, 0.25),
        "zeros99": normal * (torch.rand(SIZE) > 0.99),
        "sorted": normal.sort().values,
        "nan": normal.where(torch.rand(SIZE) > 0.5, torch.nan),
    }
    return values[kind].to(dtype)


@pytest.mark.parametrize("amount", [0, 1, SIZE // 3, SIZE // 4, 0.0, 1e-6, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["normal", "few", "equal", "zeros99", "sorted", "nan"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_same_bits(dtype: torch.dtype, kind: str, masked: bool, amount: float) -> None:
    t = scores(kind, dtype)
    masks = [torch.rand(SIZE) > 0.3] if masked else []
    expected = reference.topk_masks([t], masks, amount)
    for ours, theirs in zip(ops.topk_masks([t], masks, amount), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["normal", "few", "equal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_same_bits_when_the_sample_misleads(
    dtype: torch.dtype, kind: str, masked: bool, forced: None
) -> None:
    t = scores(kind, dtype)
    masks = [torch.rand(SIZE) > 0.3] if masked else []
    before = fastprune._C._fallbacks()
    ours = ops.topk_masks([t], masks, 0.5)
    assert fastprune._C._fallbacks() == before + 1
    assert torch.equal(ours[0], reference.topk_masks([t], masks, 0.5)[0])


def test_normal_data_does_not_fall_back() -> None:
    before = fastprune._C._fallbacks()
    for _ in range(20):
        ops.topk_masks([scores("normal", torch.float32)], [], 0.5)
    assert fastprune._C._fallbacks() == before


def test_more_candidates_than_there_is_room_for() -> None:
    # The threshold is at the end of many equal keys, between two such groups, or in the third of
    # four: it is found at the bracket's ends, between them, or by the histograms.
    run = 1 << 18
    t = torch.cat([torch.full((run,), key) for key in (1.0, 1.5, 2.0, 3.0)])
    near = t + torch.rand(4 * run) * 1e-4 * (torch.rand(4 * run) > 0.5)
    few = torch.tensor([1.0, 1.001, 1.002, 1.003, 1.004])[torch.randint(5, (4 * run,))]
    for scores in (t, near, few):
        scores = scores[torch.randperm(4 * run)]
        for runs in (1, 2, 3):
            for amount in (run * runs - 1, run * runs, run * runs + 1):
                ours = ops.topk_masks([scores], [], amount)
                assert torch.equal(ours[0], reference.topk_masks([scores], [], amount)[0])


def test_half_zeros_pruned_by_half_does_not_fall_back() -> None:
    t = torch.randn(1 << 21)
    t[torch.randperm(t.numel())[: t.numel() // 2]] = 0
    before = fastprune._C._fallbacks()
    (mask,) = ops.topk_masks([t], [], 0.5)
    assert torch.equal(mask != 0, t != 0)
    assert fastprune._C._fallbacks() == before


def test_count_beyond_the_active_entries() -> None:
    mask = torch.zeros(SIZE)
    mask[:1000] = 1
    with pytest.raises(ValueError, match=r"amount=1001 should be smaller than .*=1000"):
        ops.topk_masks([scores("normal", torch.float32)], [mask], 1001)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_thread_counts(threads: int, set_threads: object) -> None:
    t = scores("few", torch.float32)
    expected = reference.topk_masks([t], [], 0.4)[0]
    set_threads(threads)  # type: ignore[operator]
    assert torch.equal(ops.topk_masks([t], [], 0.4)[0], expected)


def test_a_count_among_few_active_entries_does_not_fall_back() -> None:
    size = 1 << 20
    mask = torch.rand(size) < 0.1
    count = int(mask.sum()) * 95 // 100
    before = fastprune._C._fallbacks()
    for _ in range(10):
        ops.topk_masks([torch.randn(size)], [mask], count)
    assert fastprune._C._fallbacks() == before


@pytest.mark.parametrize("size", [10_000, 300_000, 1_000_000, 2_600_000, 5_200_000])
def test_there_is_room_for_what_a_sample_leaves(size: int) -> None:
    before = fastprune._C._fallbacks()
    for seed in range(4):
        torch.manual_seed(seed)
        ops.topk_masks([torch.randn(size)], [], 0.5)
    assert fastprune._C._fallbacks() == before
