"""topk_masks against the stable sort: values, sizes, masks, layouts, lists, threads."""

import pytest
import torch
from torch import Tensor

import fastprune
from support import reference
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import (
    DENSE,
    FLOATS,
    INTEGERS,
    KINDS,
    LAYOUTS,
    MASK_DTYPES,
    MASKS,
    PRIME,
    SHAPE,
    SIZES,
    amounts,
    mask,
    name,
    values,
)
from support.targets import Target

ABOVE_WIDE_DIGIT = 70_001  # the CPU reads larger digits from 2^16 elements on


def check(
    target: Target,
    scores: list[Tensor],
    masks: list[Tensor | None],
    amount: float,
    **kwargs: object,
) -> list[Tensor]:
    """Run on the target and hold every bit against the reference."""
    scores = [s.to(target.device) for s in scores]
    masks = [None if m is None else m.to(target.device) for m in masks]
    new = target.ops.topk_masks(scores, masks, amount, **kwargs)
    expected = reference.topk_masks(scores, masks, amount, **kwargs)
    assert len(new) == len(scores)
    for actual, wanted, score in zip(new, expected, scores, strict=True):
        assert_same_bits(actual, wanted)
        assert_layout_of(actual, score)
    return new


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("size", SIZES)
def test_sizes_and_amounts(target: Target, size: int, dtype: torch.dtype) -> None:
    target.needs(size)
    scores = values("normal", size, dtype)
    for amount in amounts(size):
        (new,) = check(target, [scores], [], amount)
        assert (new == 0).sum() == reference.count(amount, size)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1025, PRIME, ABOVE_WIDE_DIGIT])
def test_values(target: Target, size: int, kind: str, dtype: torch.dtype) -> None:
    target.needs(size)
    scores = values(kind, size, dtype)
    old = mask("random", size, dtype)
    for amount in [1, size // 3, 0.5, 0.97, 1.0]:
        check(target, [scores], [], amount)
        check(target, [scores], [], amount, largest=True)
        check(target, [scores], [old], float(amount / size if amount > 1 else amount))
    check(target, [scores], [old], int(old.count_nonzero()) - 1, largest=True)


@pytest.mark.parametrize("active_only", [True, False], ids=["active", "all"])
@pytest.mark.parametrize(
    ("mask_dtype", "kind"),
    [(d, k) for d in MASK_DTYPES for k in MASKS if k != "fractions" or d.is_floating_point],
    ids=name,
)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_masks(
    target: Target, dtype: torch.dtype, mask_dtype: torch.dtype, kind: str, active_only: bool
) -> None:
    size = 1025
    scores = values("two_values", size, dtype)
    scores[::3] = values("normal", size, dtype)[::3]
    old = mask(kind, size, mask_dtype)
    active = int((old == 1).sum()) if active_only else size
    for amount in amounts(active):
        check(target, [scores], [old], amount, active_only=active_only)


@pytest.mark.parametrize("mask_dtype", MASK_DTYPES, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_dtype_of_new_masks(target: Target, dtype: torch.dtype, mask_dtype: torch.dtype) -> None:
    (new,) = check(target, [values("normal", 1000, dtype)], [], 0.5, dtype=mask_dtype)
    assert new.dtype == mask_dtype
    assert new.sum() == 500


@pytest.mark.parametrize("mask_dtype", INTEGERS, ids=name)
def test_integer_masks(target: Target, mask_dtype: torch.dtype) -> None:
    old = mask("non_binary", 1025, mask_dtype)
    check(target, [values("normal", 1025, torch.float32)], [old], 0.5)


@pytest.mark.parametrize("mask_layout", [None, *LAYOUTS])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
def test_layouts(target: Target, dtype: torch.dtype, layout: str, mask_layout: str | None) -> None:
    scores = LAYOUTS[layout](values("normal", SHAPE, dtype).to(target.device))
    old = None
    if mask_layout is not None:
        old = LAYOUTS[mask_layout](mask("non_binary", SHAPE, torch.uint8).to(target.device))
    for amount in (0.5, 7):
        new = target.ops.topk_masks([scores], [old], amount)[0]
        assert_same_bits(new, reference.topk_masks([scores], [old], amount)[0])
        assert_layout_of(new, scores)
        if layout in DENSE:
            assert new.stride() == scores.stride()


def test_inputs_are_left_alone(target: Target) -> None:
    scores = values("normal", 1025, torch.float32).to(target.device)
    old = mask("random", 1025, torch.float32).to(target.device)
    before = scores.clone(), old.clone()
    (new,) = target.ops.topk_masks([scores], [old], 0.5)
    assert_same_bits(scores, before[0])
    assert_same_bits(old, before[1])
    assert new.data_ptr() != old.data_ptr()


@pytest.mark.parametrize("kind", ["normal", "all_equal", "mostly_zeros", "nan", "any_bits"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_a_million(target: Target, dtype: torch.dtype, kind: str) -> None:
    size = 1_000_003
    target.needs(size)
    scores = values(kind, size, dtype)
    check(target, [scores], [], 0.5)
    check(target, [scores], [mask("random", size, torch.bool)], 0.9)


# ---- lists: one budget, ties in order of the list ----


@pytest.mark.parametrize("largest", [False, True], ids=["smallest", "largest"])
@pytest.mark.parametrize("kind", ["normal", "all_equal", "two_values", "mostly_zeros", "any_bits"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_lists(target: Target, dtype: torch.dtype, kind: str, largest: bool) -> None:
    shapes: list[tuple[int, ...]] = [(33,), (0,), (4, 5, 6), (), (1,), (31, 33), (2, 0, 3), (7, 1)]
    scores = [values(kind, shape, dtype) for shape in shapes]
    total = sum(s.numel() for s in scores)
    for amount in amounts(total):
        check(target, scores, [], amount, largest=largest)
        check(target, scores, [None] * len(scores), amount, largest=largest)
    masks = [mask("random", shape, dtype) if i % 2 else None for i, shape in enumerate(shapes)]
    for amount in (0.0, 0.5, 11, 1.0):
        check(target, scores, masks, amount, largest=largest)


def test_list_of_large_and_small(target: Target) -> None:
    target.needs(150_000)
    sizes = [3, 40_000, 0, 70_001, 1, 33_000]
    scores = [values("two_values", size, torch.float32) for size in sizes]
    masks = [mask("non_binary", size, torch.uint8) for size in sizes]
    for amount in (0.1, 0.5, 0.9, 40_001):
        check(target, scores, masks, amount)


def test_ties_go_in_order_of_the_list(target: Target) -> None:
    scores = [torch.ones(3), torch.full((4,), -1.0), torch.ones(2)]
    new = check(target, scores, [], 5)
    assert [m.tolist() for m in new] == [[0, 0, 0], [0, 0, 1, 1], [1, 1]]


def test_nan_is_pruned_last_and_signed_zeros_tie(target: Target) -> None:
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([nan, 0.0, inf, -0.0, -nan, 5e-324, -inf, 0.0], dtype=torch.float64)
    pruned_at = [
        (check(target, [scores], [], k)[0] == 0).nonzero().flatten().tolist() for k in range(9)
    ]
    order = [1, 3, 7, 5, 2, 6, 0, 4]
    assert pruned_at == [sorted(order[:k]) for k in range(9)]


def test_empty_list() -> None:
    assert fastprune.ops.topk_masks([], [], 0.5) == []


def test_list_of_empty_tensors(target: Target) -> None:
    for amount in (0, 0.0, 0.5, 1.0):
        check(target, [torch.empty(0), torch.empty(3, 0)], [], amount)


def test_many_tensors(target: Target) -> None:
    target.needs(20_000)
    scores = [values("normal", 1 + i % 37, torch.float32) for i in range(1000)]
    masks = [mask("random", 1 + i % 37, torch.float32) if i % 3 else None for i in range(1000)]
    check(target, scores, masks, 0.6)


# ---- the amount ----


@pytest.mark.parametrize("active", [1, 2, 3, 5, 7, 10, 1023, 1025])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.9, 1 / 3])
def test_fraction_rounds_half_to_even_as_python(
    target: Target, fraction: float, active: int
) -> None:
    (new,) = check(target, [torch.randn(active)], [], fraction)
    assert (new == 0).sum() == round(fraction * active)


def test_fraction_counts_active_entries_only(target: Target) -> None:
    old = torch.ones(100)
    old[:60] = 0
    (new,) = check(target, [torch.rand(100)], [old], 0.5)
    assert new.sum() == 20
    (new,) = check(target, [torch.rand(100)], [old], 0.5, active_only=False)
    assert new.sum() <= 40


@pytest.mark.parametrize("size", [0, 1, 10, 1025])
def test_count_above_active_is_a_value_error(target: Target, size: int) -> None:
    scores = torch.randn(size, device=target.device)
    with pytest.raises(ValueError, match=f"amount={size + 1} should be smaller .*={size}"):
        target.ops.topk_masks([scores], [], size + 1)
    old = torch.zeros(size, device=target.device)
    if size:
        with pytest.raises(ValueError, match=r"amount=1 should be smaller .*=0"):
            target.ops.topk_masks([scores], [old], 1)


# ---- any number of threads, any run: the same bits ----


@pytest.mark.parametrize("kind", ["normal", "two_values", "any_bits"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_threads(target: Target, set_threads: object, dtype: torch.dtype, kind: str) -> None:
    target.needs(400_000)
    sizes = [200_003, 5, 150_000]
    scores = [values(kind, size, dtype).to(target.device) for size in sizes]
    masks = [mask("random", size, torch.uint8).to(target.device) for size in sizes]
    results = []
    for threads in (1, 2, 7, 2):
        set_threads(threads)
        results.append(
            [
                target.ops.topk_masks(scores, masks, 0.5),
                target.ops.topk_masks(scores, [], 123_456),
                target.ops.topk_masks(scores, masks, 0.01, active_only=False),
            ]
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---- beyond 32 bits ----


@pytest.mark.large
def test_more_than_2_31_elements(target: Target) -> None:
    size = (1 << 31) + 1000
    target.needs(size)
    scores = torch.ones(size, dtype=torch.bfloat16, device=target.device)
    scores[-500:] = 0.5
    k = (1 << 31) + 200
    (new,) = target.ops.topk_masks([scores], [], k, dtype=torch.uint8)
    assert not new[: k - 500].any()
    assert new[k - 500 : -500].all()
    assert not new[-500:].any()


@pytest.mark.large
def test_list_of_more_than_2_31_elements(target: Target) -> None:
    half = (1 << 30) + 500
    target.needs(2 * half)
    scores = [torch.ones(half, dtype=torch.bfloat16, device=target.device) for _ in range(2)]
    new = target.ops.topk_masks(scores, [], half + 7, dtype=torch.bool)
    assert not new[0].any()
    assert not new[1][:7].any()
    assert new[1][7:].all()
