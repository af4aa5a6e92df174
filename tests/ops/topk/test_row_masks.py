"""row_masks and row_prune against the reference: every dim, amount, old mask, factor and size."""

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
    target: Target, t: Tensor, old: Tensor | None, amount: float, dim: int, **options: Any
) -> Tensor:
    """Every bit of masks and products; the mask."""
    factor = options.pop("factor", None)
    factors = [] if factor is None else [factor]
    masks = [] if old is None else [old]
    (expected,) = reference.row_masks([t.cpu()], masks, amount, dim, factors, **options)
    there = t.to(target.device)
    masks = [m.to(target.device) for m in masks]
    factors = [f.to(target.device) for f in factors]
    (actual,) = target.ops.row_masks([there], masks, amount, dim, factors, **options)
    assert_same_bits(actual.cpu(), expected)
    assert_layout_of(actual, there)
    (again,), (product,) = target.ops.row_prune(
        [there], masks, [there], amount, dim, factors, **options
    )
    assert_same_bits(again, actual)
    torch.testing.assert_close(
        product, target.ops.masked_mul(there, actual), rtol=0, atol=0, equal_nan=True
    )
    return actual.cpu()


def factor_for(shape: list[int], draw: random.Random) -> Tensor:
    sizes = [s if draw.random() < 0.5 else 1 for s in shape][draw.randint(0, 1) :]
    return values(draw.choice(["normal", "nan", "two_values"]), tuple(sizes), draw.choice(FLOATS))


@pytest.mark.parametrize("seed", range(150))
def test_random(target: Target, seed: int) -> None:
    draw = random.Random(seed)
    shape = [draw.choice([1, 2, 3, 5, 8, 16, 33]) for _ in range(draw.randint(1, 4))]
    t = values(draw.choice(list(KINDS)), tuple(shape), draw.choice(FLOATS))
    kind = draw.choice(["none", "random", "zeros", "ones", "non_binary"])
    old = None
    if kind != "none":
        old = mask(kind, t.shape, draw.choice([t.dtype, torch.bool, torch.uint8, torch.float64]))
    options: dict[str, Any] = {"is_signed": draw.random() < 0.3, "absolute": draw.random() < 0.4}
    if not options["is_signed"] and draw.random() < 0.5:
        options["factor"] = factor_for(shape, draw)
    amount: float = draw.choice([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
    dim = draw.randrange(-len(shape), len(shape))
    if not options["absolute"] and draw.random() < 0.3:
        active = torch.ones(shape) if old is None else old == 1
        rows = active.movedim(dim, 0).reshape(shape[dim], -1).sum(1)
        amount = draw.randint(0, int(rows.min()))
    check(target, t, old, amount, dim, **options)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("size", [257, 512, 513, 1023, 1025, 5000])
@pytest.mark.parametrize("amount", [0.5, 0.01, 0.999, 1])
def test_long_rows(target: Target, dtype: torch.dtype, size: int, amount: float) -> None:
    """Rows that a sample is drawn from, of data that misleads it too."""
    target.needs(3 * size)
    for kind in ("normal", "all_equal", "two_values", "mostly_zeros", "sorted", "nan"):
        t = values(kind, (3, size), dtype)
        check(target, t, None, amount, 0)
        check(target, t, mask("random", t.shape, dtype), amount, 0)
    check(target, values("normal", (size, 3), dtype), None, amount, 1)


@pytest.mark.parametrize("size", [300, 700])
def test_more_rows_than_blocks(target: Target, size: int) -> None:
    """Rows with ties first, of which the next ones must know nothing."""
    t = values("normal", (12, size), torch.float32)
    t[:6] = 1
    check(target, t, None, 0.3, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_rows_that_no_blocks_registers_hold(target: Target, dtype: torch.dtype) -> None:
    for kind in ("normal", "two_values"):
        t = values(kind, (2, 20_000), dtype)
        check(target, t, mask("random", t.shape, dtype), 0.3, 0)


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_long_rows_with_old_masks(target: Target, is_signed: bool, absolute: bool) -> None:
    """Budgets differ by row once rows were pruned before."""
    t = values("normal", (5, 2000), torch.float32)
    old = torch.ones_like(t)
    for row in range(5):
        old[row, : 400 * row] = 0
    new = check(target, t, old, 0.5, 0, is_signed=is_signed, absolute=absolute)
    kept = (2000 - old.sum(1)) if not absolute else old.new_zeros(5)
    left = [int(n) for n in new.sum(1)]
    if absolute:
        assert left == [1000, 1000, 1000, 800, 400]
    else:
        assert left == [int(n) for n in (2000 - kept) / 2]


@pytest.mark.parametrize("shape", [(19, 64), (3, 130), (9, 65, 3), (2, 67, 5, 3)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_more_rows_than_are_copied_together(
    target: Target, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    for kind in ("normal", "two_values"):
        t = values(kind, shape, dtype)
        for old in (None, mask("random", shape, torch.bool), mask("non_binary", shape, dtype)):
            check(target, t, old, 0.4, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", range(4))
def test_layouts(target: Target, layout: str, dim: int) -> None:
    t = LAYOUTS[layout](values("normal", SHAPE, torch.float32))
    check(target, t, None, 0.5, dim)
    check(target, t, None, 0.5, dim, factor=values("normal", SHAPE[-1:], torch.float32))


@pytest.mark.parametrize("sizes", [(5, 9, 7), (9, 7), (5, 1, 7), (5, 9, 1), (7,)])
@pytest.mark.parametrize("dim", range(3))
def test_factors(target: Target, sizes: tuple[int, ...], dim: int) -> None:
    t = values("normal", (5, 9, 7), torch.bfloat16)
    for dtype in FLOATS:
        check(target, t, None, 0.4, dim, factor=values("normal", sizes, dtype))


@pytest.mark.parametrize("empty", [(0,), (0, 4), (3, 0), (2, 0, 5)])
def test_empty(target: Target, empty: tuple[int, ...]) -> None:
    check(target, torch.empty(empty), None, 0.5, 0)


def test_a_bracket_that_misses(target: Target) -> None:
    """Every 16th entry is large, in step with any sample of one in sixteen."""
    target.needs(2 * 4096)
    t = torch.rand(2, 4096)
    t[:, ::16] += 1
    t[:, 8::16] -= 1
    for amount in (0.03, 0.0625, 0.94, 0.97):
        check(target, t, None, amount, 0)


def test_several_tensors_and_dtypes(target: Target) -> None:
    ts = [values("normal", (3, 8), d).to(target.device) for d in FLOATS]
    masks = target.ops.row_masks(ts, [], 0.5, 0, dtype=torch.bool)
    for t, new in zip(ts, masks, strict=True):
        expected = reference.row_masks([t.cpu()], [], 0.5, 0, dtype=torch.bool)[0]
        assert_same_bits(new.cpu(), expected)
    assert ops.row_masks([], [], 0.5, 0) == []


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_other_products(target: Target, dtype: torch.dtype) -> None:
    """Of another tensor than the scores, of every dtype, and with masks of every kind."""
    scores = values("normal", (6, 12), torch.float32).to(target.device)
    t = values("nan", (6, 12), dtype).to(target.device)
    for old in (None, mask("random", t.shape, torch.bool), mask("non_binary", t.shape, dtype)):
        masks = [] if old is None else [old.to(target.device)]
        (new,), (product,) = target.ops.row_prune([scores], masks, [t], 0.5, 0)
        expected = target.ops.masked_mul(t, new)
        torch.testing.assert_close(product, expected, rtol=0, atol=0, equal_nan=True)


def test_wanda(target: Target) -> None:
    t = torch.tensor([[1.0, 2, 3, 4]], device=target.device)
    factor = torch.tensor([100, 10, 1, 0.1], device=target.device)
    (new,) = target.ops.row_masks([t], [], 0.5, 0, [factor])
    assert new.tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads(threads: int, set_threads: Any) -> None:
    set_threads(threads)
    t = values("normal", (37, 700), torch.float32)
    assert_same_bits(ops.row_masks([t], [], 0.3, 0)[0], reference.row_masks([t], [], 0.3, 0)[0])


def test_arguments(target: Target) -> None:
    t = torch.ones(2, 8, device=target.device)
    for amount in (-1, -0.1, 1.5):
        with pytest.raises(ValueError, match="range"):
            target.ops.row_masks([t], [], amount, 0)
    with pytest.raises(ValueError, match=r"amount=9 .* number of parameters to prune=8"):
        target.ops.row_masks([t], [], 9, 0)
    old = torch.ones_like(t)
    old[1, :3] = 0
    with pytest.raises(ValueError, match=r"amount=6 .* number of parameters to prune=5"):
        target.ops.row_masks([t], [old], 6, 0)
    long = torch.ones(2, 20_000, device=target.device)
    mask = torch.ones_like(long)
    mask[0, 5:] = 0
    with pytest.raises(ValueError, match=r"amount=6 .* number of parameters to prune=5"):
        target.ops.row_masks([long], [mask], 6, 0)
    with pytest.raises(TypeError, match="absolute amount to be a float, got 3"):
        target.ops.row_masks([t], [], 3, 0, absolute=True)
    with pytest.raises(IndexError, match=r"Invalid index 2 for tensor of size \[2, 8\]"):
        target.ops.row_masks([t], [], 0.5, 2)
    with pytest.raises(RuntimeError, match=r"factors\[0\] to broadcast.*\[2, 8\], got \[3\]"):
        target.ops.row_masks([t], [], 0.5, 0, [torch.ones(3, device=target.device)])
    with pytest.raises(ValueError, match="is_signed"):
        target.ops.row_masks([t], [], 0.5, 0, [t], is_signed=True)
    with pytest.raises(RuntimeError, match=r"one mask for each of 1 scores, or none, got 2"):
        target.ops.row_masks([t], [t, t], 0.5, 0)
    with pytest.raises(RuntimeError, match=r"ts\[0\] to have the shape of scores\[0\]"):
        target.ops.row_prune([t], [], [t[:1]], 0.5, 0)
