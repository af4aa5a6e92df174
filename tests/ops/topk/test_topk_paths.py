"""The ways a selection can take: one launch, a sampled bracket that holds, misses or overflows,
thresholds among many equal keys, tensors that are not aligned for vectors. Every bit is checked.
"""

import pytest
import torch
from torch import Tensor

from support import reference
from support.compare import assert_same_bits
from support.inputs import FLOATS, mask, name
from support.targets import Hooks, Target

#: Sizes that a target takes in one launch, in few and in many. The CPU has two paths alone;
#: tests/cuda_on_host has smaller limits, and no time for the third path with those as shipped.
SIZES = {
    "cpu": (20_000, 40_003),
    "cuda": (30_000, 600_011, 2_500_003),
    "cuda_on_host": (500, 2_800, 20_011),
    "cuda_on_host_shipped": (20_011, 50_003),
}

# Data by the distribution of its keys. Only the number of equal keys matters, so all but the sorted
# data are shuffled.
KINDS = {
    "normal": lambda n: torch.randn(n),
    "halves": lambda n: torch.tensor([0.25, -3.0])[torch.arange(n) % 2][torch.randperm(n)],
    "few": lambda n: (torch.randn(n) * 2).round(),
    "equal": lambda n: torch.full((n,), -0.5),
    "zeros99": lambda n: torch.randn(n) * (torch.arange(n) % 100 == 0)[torch.randperm(n)],
    "zeros50": lambda n: torch.randn(n) * (torch.arange(n) % 2)[torch.randperm(n)],
    "sorted": lambda n: torch.linspace(0, 3, n),
    "blocks": lambda n: torch.linspace(0, 40, n).floor(),  # ties in neighbouring tiles
    "near": lambda n: 1 + (torch.arange(n) % 3 * 1e-3)[torch.randperm(n)],
}


def sizes(target: Target) -> tuple[int, ...]:
    return SIZES[target.name]


def values(kind: str, size: int, dtype: torch.dtype) -> Tensor:
    return KINDS[kind](size).to(dtype)


def check(
    target: Target, scores: list[Tensor], masks: list[Tensor | None], amount: float, **kwargs: bool
) -> None:
    scores = [s.to(target.device) for s in scores]
    masks = [None if m is None else m.to(target.device) for m in masks]
    new = target.ops.topk_masks(scores, masks, amount, **kwargs)
    for ours, wanted in zip(
        new, reference.topk_masks(scores, masks, amount, **kwargs), strict=True
    ):
        assert_same_bits(ours, wanted)


def check_product(
    target: Target, scores: Tensor, old: list[Tensor], t: Tensor, amount: float
) -> None:
    ours = target.ops.topk_prune([scores], old, [t], amount)
    (wanted,) = reference.topk_masks([scores], old, amount)
    assert_same_bits(ours[0][0], wanted)
    assert_same_bits(ours[1][0].cpu(), wanted.to(t.dtype) * t.cpu())


def boundaries(scores: Tensor) -> list[int]:
    """Counts at which the threshold passes from one key to the next, and their neighbours."""
    _, counts = reference.rank_keys(scores).unique(return_counts=True)
    if len(counts) > 20:
        counts = counts[-5:]
    ends = counts.cumsum(0).tolist()
    near = {end + by for end in ends for by in (-1, 0, 1)}
    return sorted(count for count in near if 0 <= count <= scores.numel())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_thresholds_among_equals(target: Target, dtype: torch.dtype, kind: str) -> None:
    for size in sizes(target):
        scores = values(kind, size, dtype)
        amounts = [0.0, 0.02, 0.3, 0.5, 0.51, 0.9, 1.0, *boundaries(scores)[:12]]
        for amount in amounts if size < 100_000 else amounts[2:9:2]:
            check(target, [scores], [], amount)


@pytest.mark.parametrize("mask_kind", ["random", "sparse", "zeros", "non_binary"])
@pytest.mark.parametrize("kind", ["normal", "few", "zeros50", "blocks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=name)
def test_masks(target: Target, dtype: torch.dtype, kind: str, mask_kind: str) -> None:
    for size in sizes(target):
        scores = values(kind, size, dtype)
        for mask_dtype in (dtype, torch.uint8):
            old = mask(mask_kind, size, mask_dtype)
            active = int((old == 1).sum())
            for amount in (0.4, 1.0, active, active // 3, max(0, active - 1)):
                check(target, [scores], [old], amount)
            check(target, [scores], [old], size // 2, active_only=False)
            check(target, [scores], [old], 0.3, largest=True)


@pytest.mark.parametrize("largest", [False, True], ids=["smallest", "largest"])
@pytest.mark.parametrize("kind", ["normal", "few", "equal"])
def test_lists_of_every_size(target: Target, kind: str, largest: bool) -> None:
    rows = [1, 0, 700, 33, 4, 255, 256, 257, 0, 1023] + [i % 61 for i in range(130)]
    rows += [300_001, 5, 99_999] if target.max_numel > 400_000 else []
    scores = [values(kind, n, torch.float32) if n else torch.empty(0) for n in rows]
    masks = [mask("random", n, torch.float32) if i % 3 else None for i, n in enumerate(rows)]
    for amount in (0.1, 0.5, 100):
        check(target, scores, [], amount, largest=largest)
        check(target, scores, masks, amount, largest=largest)
    # More tiles than one round of tie_boundary handles, with ties in each of them.
    many = [values("equal", 1 + i % 3, torch.float32) for i in range(1200)]
    check(target, many, [], 0.7, largest=largest)
    # A list that fits one launch, and a list shorter than the table of tensors.
    check(target, scores[:6], [], 0.5, largest=largest)
    check(target, scores[:3], masks[:3], 0.5, largest=largest)


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_what_is_not_aligned_for_vectors(target: Target, dtype: torch.dtype, offset: int) -> None:
    for size in sizes(target)[:3]:
        base = values("few", size + 8, dtype).to(target.device)
        old = mask("random", size + 8, torch.uint8).to(target.device)
        t = torch.randn(size + 8).to(dtype).to(target.device)
        # One misaligned operand at a time, then all three.
        for starts in ((offset, 0, 0), (0, offset, 0), (0, 0, offset), (offset,) * 3):
            s, o, u = (x[at : at + size] for x, at in zip((base, old, t), starts, strict=True))
            check_product(target, s, [o], u, 0.4)
        check(target, [base[offset:][:size], base[:size]], [], 0.6)


@pytest.mark.parametrize("what", ["fallback", "fallback_from_above", "overflow"])
@pytest.mark.parametrize("kind", ["normal", "few", "equal", "zeros99", "sorted"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_when_the_sample_is_of_no_use(
    target: Target, hooks: Hooks, dtype: torch.dtype, kind: str, what: str
) -> None:
    size_of_sampled = sizes(target)[1:]
    hooks.watch_fallbacks(True)
    getattr(hooks, f"force_{what}")(True)
    for size in size_of_sampled:
        scores = values(kind, size, dtype)
        before = hooks.fallbacks()
        for amount in (0.0, 0.5, 0.9, 1.0):
            check(target, [scores], [], amount)
            check(target, [scores], [mask("non_binary", size, torch.uint8)], amount)
        t = torch.randn(size).to(dtype).to(target.device)
        check_product(target, scores.to(target.device), [], t, 0.5)
        if target.name != "cpu" and kind == "normal":  # among few keys the wrong one can be right
            assert hooks.fallbacks() > before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
def test_ordinary_data_does_not_fall_back(
    target: Target, hooks: Hooks, dtype: torch.dtype, kind: str
) -> None:
    hooks.watch_fallbacks(True)
    before = hooks.fallbacks()
    for size in sizes(target)[1:]:
        scores = values(kind, size, dtype)
        for amount in (0.1, 0.5, 0.99):
            check(target, [scores], [], amount)
    assert hooks.fallbacks() == before


@pytest.mark.parametrize("kind", ["zeros50", "few", "equal", "zeros99"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
def test_ties_are_mostly_decided_by_the_sweep(
    target: Target, hooks: Hooks, dtype: torch.dtype, kind: str
) -> None:
    """Of many entries with the threshold's key, some are pruned: the sample tells up to where."""
    if target.name == "cpu":
        pytest.skip("counts what the kernels for CUDA rewrite")
    hooks.watch_fallbacks(True)
    size = sizes(target)[-1]
    scores = values(kind, size, dtype)  # zeros50: as after a pruning and remove()
    tile = 256 if target.name == "cuda_on_host" else 4096
    for amount in (0.1, 0.2, 0.29):
        before = hooks.rewritten()
        check(target, [scores], [], amount)
        assert hooks.rewritten() - before <= 0.2 * size / tile + 1


@pytest.mark.parametrize("mask_dtype", ["none", "own", torch.bool, torch.uint8, torch.int16])
@pytest.mark.parametrize("kind", ["normal", "few", "blocks"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_products(
    target: Target, dtype: torch.dtype, kind: str, mask_dtype: str | torch.dtype
) -> None:
    for size in sizes(target):
        scores = values(kind, size, dtype).to(target.device)
        t = torch.randn(size).to(dtype)
        special = torch.tensor([-0.0, torch.inf, -torch.inf, torch.nan, 0.0])
        t[::7] = special[torch.randint(5, t[::7].shape)].to(dtype)
        t = t.to(target.device)
        old = []
        if mask_dtype != "none":
            of = dtype if mask_dtype == "own" else mask_dtype
            assert isinstance(of, torch.dtype)
            old = [mask("non_binary", size, of).to(target.device)]
        for amount in (0.2, 0.5, 0.83):
            check_product(target, scores, old, t, amount)


def test_count_beyond_the_active_entries(target: Target) -> None:
    for size in sizes(target):
        old = torch.zeros(size)
        old[:: size // 100] = 1
        active = int(old.sum())
        scores = torch.randn(size).to(target.device)
        check(target, [scores], [old], active)
        for products in (False, True):
            with pytest.raises(
                ValueError, match=f"amount={active + 1} should be smaller .*={active}"
            ):
                if products:
                    target.ops.topk_prune([scores], [old.to(target.device)], [scores], active + 1)
                else:
                    target.ops.topk_masks([scores], [old.to(target.device)], active + 1)
