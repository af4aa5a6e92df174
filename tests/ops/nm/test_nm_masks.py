"""nm_masks and nm_prune against the reference: every n, m, dim, remainder, old mask and factor."""

from __future__ import annotations

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


def check(
    target: Target, t: Tensor, old: Tensor | None, n: int, m: int, dim: int, **options: Any
) -> Tensor:
    """Every bit of masks and products; the mask."""
    factor = options.pop("factor", None)
    factors = [] if factor is None else [factor]
    (expected,) = reference.nm_masks(
        [t.cpu()], [] if old is None else [old], n, m, dim, factors, **options
    )
    there = t.to(target.device)
    masks = [] if old is None else [old.to(target.device)]
    factors = [f.to(target.device) for f in factors]
    (actual,) = target.ops.nm_masks([there], masks, n, m, dim, factors, **options)
    assert_same_bits(actual.cpu(), expected)
    assert_layout_of(actual, there)
    (again,), (product,) = target.ops.nm_prune(
        [there], masks, [there], n, m, dim, factors, **options
    )
    assert_same_bits(again, actual)
    torch.testing.assert_close(
        product, target.ops.masked_mul(there, actual), rtol=0, atol=0, equal_nan=True
    )
    return actual.cpu()


@pytest.mark.parametrize("seed", range(150))
def test_random(target: Target, seed: int) -> None:
    draw = random.Random(seed)
    shape = [draw.choice([1, 2, 3, 5, 8, 16, 33]) for _ in range(draw.randint(1, 4))]
    t = values(draw.choice(list(KINDS)), tuple(shape), draw.choice(FLOATS))
    m = draw.choice([1, 2, 3, 4, 4, 8, 9, 16, 32, 64])
    kind = draw.choice(["none", "random", "zeros", "ones", "non_binary"])
    old = None
    if kind != "none":
        old = mask(kind, t.shape, draw.choice([t.dtype, torch.bool, torch.uint8, torch.float64]))
    options: dict[str, Any] = {"is_signed": draw.random() < 0.3}
    if not options["is_signed"] and draw.random() < 0.5:
        sizes = [s if draw.random() < 0.5 else 1 for s in shape][draw.randint(0, 1) :]
        kind = draw.choice(["normal", "nan", "two_values"])
        options["factor"] = values(kind, tuple(sizes), draw.choice(FLOATS))
    check(target, t, old, draw.randint(0, m), m, draw.randrange(-len(shape), len(shape)), **options)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (3, 7), (8, 16), (5, 11), (31, 64)])
def test_whole_runs(target: Target, dtype: torch.dtype, n: int, m: int) -> None:
    """As a Linear layer has: exactly n of m stay, whatever the data."""
    for kind in ("normal", "all_equal", "two_values"):
        t = values(kind, (9, 4 * m), dtype)
        new = check(target, t, None, n, m, 1)
        assert (new.view(9, 4, m).sum(-1) == n).all()


@pytest.mark.parametrize("m", [4, 12])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", range(4))
def test_layouts(target: Target, layout: str, dim: int, m: int) -> None:
    check(target, LAYOUTS[layout](values("normal", SHAPE, torch.float32)), None, 2, m, dim)


@pytest.mark.parametrize("shape", [(500, 44), (44, 500)])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("m", [16, 23, 64])
def test_more_runs_than_a_grid_takes_at_once(
    target: Target, shape: tuple[int, int], dim: int, m: int
) -> None:
    """Of few values, so that there are ties; the last runs are shorter, of whole fours or not."""
    t = values("normal", shape, torch.float32).mul(2).round()
    check(target, t, mask("random", shape, torch.bool), m // 2, m, dim)


@pytest.mark.parametrize("empty", [(0,), (0, 4), (3, 0), (2, 0, 5)])
def test_empty(target: Target, empty: tuple[int, ...]) -> None:
    check(target, torch.empty(empty), None, 2, 4, 0)


def test_several_tensors_and_dtypes(target: Target) -> None:
    ts = [values("normal", (3, 8), d).to(target.device) for d in FLOATS]
    masks = target.ops.nm_masks(ts, [], 2, 4, 1, dtype=torch.bool)
    for t, new in zip(ts, masks, strict=True):
        assert new.dtype == torch.bool
        assert_same_bits(new.cpu(), reference.nm_masks([t.cpu()], [], 2, 4, 1, dtype=torch.bool)[0])
    assert ops.nm_masks([], [], 2, 4, 1) == []


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_other_products(target: Target, dtype: torch.dtype) -> None:
    """Of another tensor than the scores, of every dtype, and with masks of every kind."""
    scores = values("normal", (6, 12), torch.float32).to(target.device)
    t = values("nan", (6, 12), dtype).to(target.device)
    for old in (None, mask("random", t.shape, torch.bool), mask("non_binary", t.shape, dtype)):
        masks = [] if old is None else [old.to(target.device)]
        (new,), (product,) = target.ops.nm_prune([scores], masks, [t], 2, 4, 1)
        expected = target.ops.masked_mul(t, new)
        torch.testing.assert_close(product, expected, rtol=0, atol=0, equal_nan=True)


def test_where_denormals_are_flushed() -> None:
    """The product is that of masked_mul, which loses small bfloat16 then."""
    t = values("denormals", (4, 8), torch.bfloat16)
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush denormals")
    try:
        (new,), (product,) = ops.nm_prune([t], [], [t], 2, 4, 1)
        assert_same_bits(product, ops.masked_mul(t, new))
    finally:
        torch.set_flush_denormal(False)


VECTORS = [
    ([[-0.49, -0.66, 0.42]], None, [[1, 1, 0]]),  # tfmot's; a remainder of three
    ([[1.0, 1, 1, 1]], None, [[0, 0, 1, 1]]),
    ([[0.0, 0, 5, 3]], [[1, 1, 0, 1]], [[0, 1, 0, 1]]),  # one was pruned before
]


@pytest.mark.parametrize(("weights", "old", "expected"), VECTORS)
def test_vectors(target: Target, weights: Any, old: Any, expected: Any) -> None:
    masks = [] if old is None else [torch.tensor(old, dtype=torch.float32, device=target.device)]
    t = torch.tensor(weights, device=target.device)
    (new,) = target.ops.nm_masks([t], masks, 2, 4, 1)
    assert new.tolist() == expected


def test_arguments(target: Target) -> None:
    t = torch.ones(2, 8, device=target.device)
    for n, m, said in (
        (-1, 4, "n to be"),
        (5, 4, "n to be"),
        (1, 0, "m to be"),
        (1, 65, "m to be"),
    ):
        with pytest.raises(ValueError, match=said):
            target.ops.nm_masks([t], [], n, m, 1)
    with pytest.raises(IndexError, match=r"Invalid index 2 for tensor of size \[2, 8\]"):
        target.ops.nm_masks([t], [], 2, 4, 2)
    with pytest.raises(RuntimeError, match=r"factors\[0\] to broadcast.*\[2, 8\], got \[3\]"):
        target.ops.nm_masks([t], [], 2, 4, 1, [torch.ones(3, device=target.device)])
    with pytest.raises(ValueError, match="is_signed"):
        target.ops.nm_masks([t], [], 2, 4, 1, [t], is_signed=True)
    with pytest.raises(RuntimeError, match=r"one mask for each of 1 scores, or none, got 2"):
        target.ops.nm_masks([t], [t, t], 2, 4, 1)
    with pytest.raises(RuntimeError, match=r"ts\[0\] to have the shape of scores\[0\]"):
        target.ops.nm_prune([t], [], [t[:1]], 2, 4, 1)
