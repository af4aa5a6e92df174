"""topk_prune: the masks of topk_masks and the products of masked_mul, to the bit."""

import pytest
import torch
from torch import Tensor, nn

import fastprune
from fastprune import ops
from support.compare import assert_same_bits
from support.inputs import FLOATS, LAYOUTS, mask, name, values
from support.targets import Target

SIZES = (0, 1, 33, 1025, 70_001)
KINDS = ("normal", "all_equal", "mostly_zeros", "nan", "inf")


def expected(
    scores: Tensor, old: list[Tensor], t: Tensor, amount: float, active_only: bool
) -> tuple[Tensor, Tensor]:
    (new,) = ops.topk_masks([scores.cpu()], [m.cpu() for m in old], amount, active_only=active_only)
    return new, new.to(t.dtype) * t.cpu()


@pytest.mark.parametrize("mask_dtype", ["none", "own", "bool"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_same_bits_as_two_operators(
    target: Target, dtype: torch.dtype, kind: str, size: int, mask_dtype: str
) -> None:
    target.needs(size)
    scores = values(kind, size, dtype).to(target.device)
    t = values("any_bits", size, dtype).to(target.device)
    old = {
        "none": [],
        "own": [mask("random", size, dtype).to(target.device)],
        "bool": [mask("random", size, torch.bool).to(target.device)],
    }[mask_dtype]
    for amount, active_only in ((0.5, True), (0.3, False), (0, True), (1.0, True)):
        (new,), (product,) = target.ops.topk_prune(
            [scores], old, [t], amount, active_only=active_only
        )
        new_mask, new_product = expected(scores, old, t, amount, active_only)
        assert_same_bits(new.cpu(), new_mask)
        assert_same_bits(product.cpu(), new_product)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_lists_that_are_partly_masked(target: Target, dtype: torch.dtype) -> None:
    ts = [values("any_bits", size, dtype).to(target.device) for size in (1025, 33)]
    old = mask("non_binary", 33, dtype).to(target.device)
    news, products = target.ops.topk_prune(ts, [None, old], ts, 0.5)
    for t, new, product in zip(ts, news, products, strict=True):
        assert_same_bits(product, new * t)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_flushed_denormals(dtype: torch.dtype) -> None:
    """A product in bfloat16 loses them as arithmetic does, whether computed or chosen as bits."""
    tiny = torch.finfo(dtype).smallest_normal / 2
    t = torch.full((64,), tiny, dtype=torch.float64).to(dtype)
    assert bool((t != 0).all())
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU does not flush denormals")
    try:
        (new,), (product,) = ops.topk_prune([t], [], [t], 0.5)
        assert_same_bits(product, ops.masked_mul(t, new))
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(target: Target, layout: str) -> None:
    t = LAYOUTS[layout](values("normal", (8, 5, 7, 3), torch.float32).to(target.device))
    (new,), (product,) = target.ops.topk_prune([t], [], [t], 0.5)
    new_mask, new_product = expected(t, [], t, 0.5, True)
    assert torch.equal(new.cpu(), new_mask)
    assert torch.equal(product.cpu(), new_product)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=name)
def test_gradient(device: str, dtype: torch.dtype) -> None:
    t = values("normal", 1025, dtype).to(device).requires_grad_()
    other = values("normal", 7, dtype).to(device)
    masks, products = ops.topk_prune([t, other], [], [t, other], 0.5)
    assert not any(m.requires_grad for m in masks)
    (gradient,) = torch.autograd.grad(products[0].sum() + products[1].sum(), t, create_graph=True)
    assert torch.equal(gradient, masks[0])


def test_apply_takes_one_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(40, 30)
    before = module.weight.detach().clone()
    monkeypatch.setattr(ops, "masked_mul", None)
    for _ in range(2):
        fastprune.l1_unstructured(module, "weight", 0.5)
        assert torch.equal(module.weight, module.weight_mask * before)
        assert module.weight.requires_grad
    pruned = fastprune.L1Unstructured(0.5).prune(before)
    assert torch.equal(pruned == 0, ops.topk_masks([before], [], 0.5)[0] == 0)


def test_an_apply_mask_of_ones_own_is_called() -> None:
    class Doubled(fastprune.L1Unstructured):
        def apply_mask(self, module: nn.Module) -> Tensor:
            return 2 * super().apply_mask(module)

    module = nn.Linear(4, 3)
    Doubled.apply(module, "weight", 0.5)
    assert torch.equal(module.weight, 2 * module.weight_orig * module.weight_mask)


@pytest.mark.parametrize(
    ("ts", "message"),
    [
        ([torch.ones(4)], r"expected ts\[0\] to have the shape of scores\[0\], \[3\], got \[4\]"),
        ([], "expected as many ts as scores, 1, got 0"),
        ([torch.ones(3, dtype=torch.int64)], r"expected ts\[0\] to be float64.*got Long"),
    ],
)
def test_errors(target: Target, ts: list[Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        scores = torch.ones(3, device=target.device)
        target.ops.topk_prune([scores], [], [t.to(target.device) for t in ts], 0.5)
