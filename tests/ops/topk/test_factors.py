"""topk_masks and topk_prune with factors: |score| * |factor| is ranked, to the bit as if stored."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from support import reference
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import FLOATS, KINDS, LAYOUTS, SHAPE, mask, name, values
from support.targets import Target


def check(
    target: Target,
    scores: list[Tensor],
    masks: list[Tensor | None],
    amount: Any,
    factors: list[Tensor | None],
    **options: bool,
) -> None:
    """Every bit of masks and products."""

    def there(tensors: list[Tensor | None]) -> list[Any]:
        return [None if t is None else t.to(target.device) for t in tensors]

    expected = reference.topk_masks(scores, masks, amount, factors, **options)
    ts, old, by = there([*scores]), there(masks), there(factors)
    news = target.ops.topk_masks(ts, old, amount, by, **options)
    for new, wanted, t in zip(news, expected, ts, strict=True):
        assert_same_bits(new.cpu(), wanted)
        assert_layout_of(new, t)
    if options.pop("largest", False):
        return
    again, products = target.ops.topk_prune(ts, old, ts, amount, by, **options)
    for new, product, wanted, t in zip(again, products, expected, ts, strict=True):
        assert_same_bits(new.cpu(), wanted)
        same = target.ops.masked_mul(t, new)
        torch.testing.assert_close(product, same, rtol=0, atol=0, equal_nan=True)


def factor_for(shape: tuple[int, ...], draw: random.Random) -> Tensor | None:
    if draw.random() < 0.1:
        return None
    sizes = [s if draw.random() < 0.5 else 1 for s in shape][draw.randint(0, 1) :]
    return values(draw.choice(["normal", "nan", "two_values"]), tuple(sizes), draw.choice(FLOATS))


@pytest.mark.parametrize("seed", range(100))
def test_random(target: Target, seed: int) -> None:
    draw = random.Random(seed)
    dtype = draw.choice(FLOATS)
    shapes = [
        tuple(draw.choice([1, 2, 3, 5, 8, 16, 33]) for _ in range(draw.randint(1, 4)))
        for _ in range(draw.randint(1, 3))
    ]
    scores = [values(draw.choice(list(KINDS)), shape, dtype) for shape in shapes]
    kind = draw.choice(["none", "random", "zeros", "ones", "non_binary"])
    of_masks = draw.choice([dtype, torch.bool, torch.float64])
    masks = [None if kind == "none" else mask(kind, shape, of_masks) for shape in shapes]
    amount: Any = draw.choice([0.0, 0.1, 0.25, 0.5, 0.9, 1.0, 1])
    if draw.random() < 0.3:
        amount = [draw.choice([0.0, 0.3, 1.0]) for _ in shapes]
    options = {"active_only": draw.random() < 0.7, "largest": draw.random() < 0.2}
    if amount == 1 and kind == "zeros" and options["active_only"]:
        amount = 0
    check(target, scores, masks, amount, [factor_for(s, draw) for s in shapes], **options)


@pytest.mark.parametrize("of", ["row", "middle", "column", "entry", "tensor"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_sampled(target: Target, dtype: torch.dtype, of: str) -> None:
    """Tensors that a sample is drawn from: on the emulator, of the medium and of the large path."""
    for shape in ((7, 60, 5), (40, 60, 9)):
        target.needs(torch.Size(shape).numel())
        rows, middle, columns = shape
        sizes = {
            "row": (rows, 1, 1),
            "middle": (middle, 1),
            "column": (columns,),
            "entry": shape,
            "tensor": (),
        }[of]
        factor = values("normal", sizes, torch.float32)
        for kind in ("normal", "two_values", "mostly_zeros", "nan"):
            scores = values(kind, shape, dtype)
            check(target, [scores], [None], 0.5, [factor])
        old = mask("random", shape, torch.float32)
        check(target, [scores, scores], [old, old], 0.3, [factor, None])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(target: Target, layout: str) -> None:
    t = LAYOUTS[layout](values("normal", SHAPE, torch.float32))
    check(target, [t], [None], 0.5, [values("normal", (*SHAPE[1:2], 1, 1), torch.float32)])
    check(target, [t], [None], 0.5, [LAYOUTS[layout](values("normal", SHAPE, torch.float32))])


def test_a_bracket_that_misses(target: Target) -> None:
    hooks = target.hooks
    if hooks is None:
        pytest.skip(f"{target.name} has no hooks")
    scores, factor = values("normal", (70, 40), torch.bfloat16), torch.rand(40)
    try:
        hooks.force_fallback(True)
        check(target, [scores], [None], 0.5, [factor])
        check(target, [scores, scores], [None, None], 0.2, [factor, factor[:1]])
    finally:
        hooks.reset()


def test_many_dims_of_a_factor(target: Target) -> None:
    """More strides than are kept: it is expanded."""
    shape = (2, 3, 2, 3, 2, 3, 2, 3)
    factor = values("normal", (2, 1, 2, 1, 2, 1, 2, 1), torch.float32)
    check(target, [values("normal", shape, torch.float32)], [None], 0.5, [factor])


def test_the_sign_and_the_dtype_of_a_factor(target: Target) -> None:
    """Multiplied once, in float32: 1e30 * 1e30 is infinite, and ties with others go by index."""
    scores = torch.tensor([1e30, 2e30, 1.0, -3.0], dtype=torch.bfloat16, device=target.device)
    factor = torch.tensor([-1e30, 1e30, 2.0, 1.0], dtype=torch.float64, device=target.device)
    (new,) = target.ops.topk_masks([scores], [], 3, [factor])
    assert new.tolist() == [0.0, 1.0, 0.0, 0.0]
