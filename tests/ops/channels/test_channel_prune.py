"""channel_prune: the mask of channel_mask and the product of masked_mul, to the bit."""

import pytest
import torch
from torch import Tensor, nn

import fastprune
from fastprune import ops
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import FLOATS, LAYOUTS, MASK_DTYPES, SHAPE, mask, name, values
from support.targets import Target

#: Rows and runs of every kind of length, vectors in one channel and vectors across several, and
#: more channels than a block selects from by itself.
PATHS = [((5, 7), 0), ((5, 7), 1), ((64, 96), 0), ((64, 96), 1), ((6, 4, 100), 1), ((3, 64, 3), 1)]
PATHS += [((2, 9001), 1), ((300, 2, 5), 0), ((1, 1), 0), ((0, 3), 1), ((3, 0), 1)]


def check(
    target: Target, t: Tensor, old: Tensor | None, amount: float, dim: int, *, active_only: bool
) -> None:
    scores = torch.randn(t.shape[dim])
    mask_alone = ops.channel_mask(
        scores, t.cpu(), None if old is None else old.cpu(), amount, dim, active_only=active_only
    )
    new, product = target.ops.channel_prune(
        scores.to(target.device), t, old, amount, dim, active_only=active_only
    )
    assert_same_bits(new.cpu(), mask_alone)
    assert_same_bits(product.cpu(), mask_alone.to(t.dtype) * t.cpu())
    assert_layout_of(new, t)
    assert_layout_of(product, t)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("shape", "dim"), PATHS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_same_bits_as_two_operators(
    target: Target, dtype: torch.dtype, shape: tuple[int, ...], dim: int, shift: int
) -> None:
    size = torch.Size(shape).numel()
    t = values("any_bits", size + shift, dtype).to(target.device)[shift:].view(shape)
    for kind in (None, "random", "non_binary"):
        old = None if kind is None else mask(kind, shape, dtype).to(target.device)
        check(target, t, old, 0.5, dim, active_only=True)
        check(target, t, old, 0.3, dim, active_only=False)
        check(target, t, old, 0, dim, active_only=True)


@pytest.mark.parametrize("mask_dtype", MASK_DTYPES, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_mask_of_another_dtype(target: Target, dtype: torch.dtype, mask_dtype: torch.dtype) -> None:
    t = values("normal", (33, 65), dtype).to(target.device)
    old = mask("random", (33, 65), mask_dtype).to(target.device)
    check(target, t, old, 0.5, 1, active_only=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(target: Target, layout: str) -> None:
    t = LAYOUTS[layout](values("normal", SHAPE, torch.float32).to(target.device))
    for dim in range(len(SHAPE)):
        check(target, t, None, 0.5, dim, active_only=True)
        check(target, t, mask("random", t.shape, t.dtype).to(t.device), 2, dim, active_only=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=name)
def test_gradient(device: str, dtype: torch.dtype) -> None:
    t = values("normal", (12, 34), dtype).to(device).requires_grad_()
    scores = torch.randn(12, device=device, requires_grad=True)
    new, product = ops.channel_prune(scores, t, None, 0.5, 0)
    assert product.requires_grad and not new.requires_grad
    (gradient,) = torch.autograd.grad(product.sum(), t, create_graph=True)
    assert torch.equal(gradient, new)
    with torch.no_grad():
        assert not ops.channel_prune(scores, t, None, 0.5, 0)[1].requires_grad


@pytest.mark.parametrize("method", ["ln_structured", "random_structured"])
def test_apply_takes_one_operator(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    module = nn.Linear(40, 30)
    before = module.weight.detach().clone()
    monkeypatch.setattr(ops, "masked_mul", None)
    options = {"n": 2} if method == "ln_structured" else {}
    for dim in (0, 1):
        getattr(fastprune, method)(module, "weight", 0.5, dim=dim, **options)
        assert torch.equal(module.weight, module.weight_mask * before)
        assert module.weight.requires_grad
    pruned = fastprune.LnStructured(0.5, 2, 0).prune(before)
    norms = ops.channel_norms(before, 2, 0)
    assert torch.equal(pruned, before * ops.channel_mask(norms, before, None, 0.5, 0))


def test_a_compute_mask_of_ones_own_is_called() -> None:
    class Inverted(fastprune.LnStructured):
        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:  # type: ignore[override]
            return 1 - super().compute_mask(t, default_mask)

    module = nn.Linear(4, 6)
    Inverted.apply(module, "weight", 2, 2, 0)
    assert (module.weight_mask.sum(dim=1) != 0).sum() == 2
    assert torch.equal(module.weight, module.weight_orig * module.weight_mask)
