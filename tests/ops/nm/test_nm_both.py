"""nm_masks and nm_prune with both: 2:4 in rows and columns, against all patterns one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import fastprune
from support import reference
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import FLOATS, KINDS, LAYOUTS, MASK_DTYPES, name, values
from support.targets import Target

#: Shapes with many squares and few, and with kernels: less than a block of lanes, several of them
#: in one row of squares, in several, and not a whole number.
SHAPES = [(4, 4), (8, 12), (4, 132), (12, 256), (44, 36), (128, 8), (8, 16, 3), (12, 4, 3, 3)]


def check(target: Target, t: Tensor, **options: Any) -> Tensor:
    """Every bit of masks and products; the mask."""
    factor = options.pop("factor", None)
    dim = options.pop("dim", 1)
    factors = [] if factor is None else [factor]
    (expected,) = reference.nm_masks([t.cpu()], [], 2, 4, dim, factors, both=True, **options)
    there = t.to(target.device)
    factors = [f.to(target.device) for f in factors]
    (actual,) = target.ops.nm_masks([there], [], 2, 4, dim, factors, both=True, **options)
    assert_same_bits(actual.cpu(), expected)
    assert_layout_of(actual, there)
    options.pop("dtype", None)
    (again,), (product,) = target.ops.nm_prune(
        [there], [None], [there], 2, 4, dim, factors, both=True, **options
    )
    assert_same_bits(again, actual.to(t.dtype))
    torch.testing.assert_close(
        product, target.ops.masked_mul(there, again), rtol=0, atol=0, equal_nan=True
    )
    assert fastprune.check_nm(actual, 2, 4, 0)
    assert fastprune.check_nm(actual, 2, 4, 1)
    assert 2 * int((actual != 0).sum()) == t.numel()
    return actual.cpu()


@pytest.mark.parametrize("seed", range(120))
def test_random(target: Target, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    shape = draw.choice(SHAPES)
    t = values(draw.choice(list(KINDS)), shape, draw.choice(FLOATS))
    options: dict[str, Any] = {"is_signed": draw.random() < 0.3, "dim": draw.choice([0, 1])}
    if draw.random() < 0.3:
        options["dtype"] = draw.choice(MASK_DTYPES)
    if not options["is_signed"] and draw.random() < 0.5:
        sizes = [s if draw.random() < 0.5 else 1 for s in shape][draw.randint(0, 1) :]
        kind = draw.choice(["normal", "nan", "two_values", "inf"])
        options["factor"] = values(kind, tuple(sizes), draw.choice(FLOATS))
    check(target, t, **options)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "channels_last"])
def test_layouts(target: Target, layout: str, dtype: torch.dtype) -> None:
    check(target, LAYOUTS[layout](values("normal", (8, 140), dtype)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_convolutions(target: Target, layout: str) -> None:
    factor = values("uniform", (8, 1, 1), torch.float32)
    check(target, LAYOUTS[layout](values("normal", (12, 8, 3, 5), torch.float32)), factor=factor)


@pytest.mark.parametrize("factor_dtype", FLOATS, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_factors(target: Target, dtype: torch.dtype, factor_dtype: torch.dtype) -> None:
    t = values("normal", (8, 136), dtype)
    for shape in ((136,), (8, 1), (8, 136), (1,), ()):
        check(target, t, factor=values("scaled", shape, factor_dtype))


@pytest.mark.parametrize("empty", [(0, 0), (0, 4), (8, 0), (4, 4, 0)])
def test_empty(target: Target, empty: tuple[int, ...]) -> None:
    check(target, torch.empty(empty))


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_vector(target: Target, dtype: torch.dtype) -> None:
    t = torch.tensor([[2, 8, 9, 9], [9, 1, 3, 9], [5, 6, 3, 9], [2, 4, 6, 9]], dtype=dtype)
    mask = check(target, t)
    assert (t * mask).sum() == 61


@pytest.mark.parametrize("is_signed", [False, True])
def test_equals(target: Target, is_signed: bool) -> None:
    """The smallest binary number."""
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    for value in (1.0, -1.0, 0.0, float("inf"), -float("inf"), float("nan")):
        mask = check(target, torch.full((4, 4), value), is_signed=is_signed)
        assert mask.tolist() == expected


def test_equals_after_rounding(target: Target) -> None:
    """Sums are of pairs, then of rows: 2^53 takes no 1 after it, but the 2 of two ones."""
    t = torch.zeros(4, 4, dtype=torch.float64)
    t[0, 0] = 2.0**53
    t[1, 2] = t[1, 3] = 1
    t[2, 1] = t[3, 2] = 1
    mask = check(target, t)
    assert mask[0, 0] == 1
    assert mask[1].tolist() == [0, 0, 1, 1]


def test_what_is_not_finite(target: Target) -> None:
    """A NaN stays before an infinity, and that before any number, two before one."""
    nan, inf = float("nan"), float("inf")
    t = torch.ones(4, 4, dtype=torch.float64)
    t[0] = torch.tensor([nan, inf, 1e300, 1e301], dtype=torch.float64)
    assert check(target, t)[0].tolist() == [1, 1, 0, 0]
    t[0] = torch.tensor([nan, 1.0, inf, nan])
    assert check(target, t)[0].tolist() == [1, 0, 0, 1]
    t[0] = torch.tensor([-inf, 1.0, -nan, -2.0])
    kept = check(target, t, is_signed=True)[0].tolist()
    assert (kept[0], kept[2]) == (0, 1)


def test_of_another_tensor(target: Target) -> None:
    scores = values("normal", (8, 132), torch.float32).to(target.device)
    for dtype in FLOATS:
        t = values("nan", (8, 132), dtype).to(target.device)
        (new,), (product,) = target.ops.nm_prune([scores], [], [t], 2, 4, 1, both=True)
        expected = target.ops.masked_mul(t, new)
        torch.testing.assert_close(product, expected, rtol=0, atol=0, equal_nan=True)


def test_several_tensors_and_dtypes(target: Target) -> None:
    ts = [values("normal", (8, 8), d).to(target.device) for d in FLOATS]
    masks = target.ops.nm_masks(ts, [], 2, 4, -1, dtype=torch.bool, both=True)
    for t, new in zip(ts, masks, strict=True):
        assert new.dtype == torch.bool
        expected = reference.nm_masks([t.cpu()], [], 2, 4, 1, dtype=torch.bool, both=True)[0]
        assert_same_bits(new.cpu(), expected)


def test_large(target: Target) -> None:
    """More than a piece whose pages are populated at once, by several workers."""
    target.needs(4096 * 4096)
    t = torch.randn(4096, 4100, device=target.device)
    (mask,), (product,) = target.ops.nm_prune([t], [], [t], 2, 4, 1, both=True)
    assert_same_bits(product, t * mask)
    for rows in (slice(0, 8), slice(2044, 2052), slice(4088, 4096)):
        expected = reference.nm_masks([t[rows, :64].cpu()], [], 2, 4, 1, both=True)[0]
        assert_same_bits(mask[rows, :64].cpu().contiguous(), expected)
    assert fastprune.check_nm(mask, 2, 4, 0)
    assert fastprune.check_nm(mask, 2, 4, 1)


def test_arguments(target: Target) -> None:
    t = torch.ones(4, 8, device=target.device)
    for arguments, said in (
        (([t], [], 1, 4, 1), r"expected 2:4 with both, got 1:4"),
        (([t], [], 4, 8, 1), r"expected 2:4 with both, got 4:8"),
        (([t, t[:3]], [], 2, 4, 1), r"scores\[1\] to have two dims divisible by 4.*got.*\[3, 8\]"),
        (([t[:, :6]], [], 2, 4, 1), r"scores\[0\] to have two dims divisible by 4.*got.*\[4, 6\]"),
        (([t[0]], [], 2, 4, 0), r"scores\[0\] to have two dims divisible by 4.*got.*\[8\]"),
        (([t.view(4, 4, 2)], [], 2, 4, 2), r"dim to be 0 or 1 with both, got 2"),
        (([t.view(4, 4, 2)], [], 2, 4, -1), r"dim to be 0 or 1 with both, got -1"),
        (([t], [t], 2, 4, 1), r"no old mask of scores\[0\] with both, got one"),
        (([t, t], [None, t], 2, 4, 1), r"no old mask of scores\[1\] with both, got one"),
        (([t], [], 2, 4, 1, [t], True), r"is_signed"),
    ):
        scores, masks, n, m, dim, *rest = arguments
        factors, is_signed = rest or ([], False)
        with pytest.raises(ValueError, match=said):
            target.ops.nm_masks(scores, masks, n, m, dim, factors, is_signed=is_signed, both=True)
        with pytest.raises(ValueError, match=said):
            target.ops.nm_prune(
                scores, masks, scores, n, m, dim, factors, is_signed=is_signed, both=True
            )
