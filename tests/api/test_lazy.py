"""Lazy modules before and after their first forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastprune as prune

X = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))

MODULES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "LazyLinear": (lambda: nn.LazyLinear(3), X),
    "LazyConv1d": (lambda: nn.LazyConv1d(3, 2), X[0]),
    "LazyConv2d": (lambda: nn.LazyConv2d(3, 2), X),
    "LazyConv3d": (lambda: nn.LazyConv3d(3, 2), X[None]),
    "LazyConvTranspose2d": (lambda: nn.LazyConvTranspose2d(3, 2), X),
    "LazyBatchNorm2d": (nn.LazyBatchNorm2d, X),
    "LazyInstanceNorm2d": (lambda: nn.LazyInstanceNorm2d(affine=True), X),
}


class Smallest(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t.abs()


def ones_for(t: Tensor) -> Tensor:
    return torch.ones(3, 4) if nn.parameter.is_lazy(t) else torch.ones_like(t)


METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "identity": lambda m: prune.identity(m, "weight"),
    "custom": lambda m: prune.custom_from_mask(m, "weight", ones_for(m.weight)),
    "l1": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "random": lambda m: prune.random_unstructured(m, "weight", 0.5),
    "ln": lambda m: prune.ln_structured(m, "weight", 1, 2, 0),
    "random channels": lambda m: prune.random_structured(m, "weight", 1, 0),
    "scores of one's own": lambda m: Smallest.apply(m, "weight", 0.5),
    "channels by scores": lambda m: prune.Structured.apply(
        m, "weight", 1, 0, score=lambda t, mask: t.flatten(1).sum(1)
    ),
    "global": lambda m: prune.global_unstructured(
        [(m, "weight")], prune.L1Unstructured, amount=0.5
    ),
    "global, random": lambda m: prune.global_unstructured(
        [(nn.Linear(4, 3), "weight"), (m, "weight")], prune.RandomUnstructured, amount=0.5
    ),
    "global, scores": lambda m: prune.global_unstructured([(m, "weight")], Smallest, amount=0.5),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", MODULES)
def test_before_and_after_the_first_forward(kind: str, method: str) -> None:
    make, x = MODULES[kind]
    module = make()
    before = dict(vars(module)), dict(module._parameters), dict(module._buffers)
    hooks = dict(module._forward_pre_hooks)
    with pytest.raises(ValueError, match=r"weight of Lazy.* to have a shape.*run a forward"):
        METHODS[method](module)
    assert (dict(vars(module)), dict(module._parameters), dict(module._buffers)) == before
    assert dict(module._forward_pre_hooks) == hooks
    module(x)
    assert type(module).__name__ == kind.removeprefix("Lazy")
    if module.weight.dim() < 2 and method in ("ln", "random channels", "channels by scores"):
        return  # no channels
    METHODS[method](module)
    out = module(x)
    assert torch.equal(module.weight, module.weight_orig * module.weight_mask)
    out.sum().backward()
    assert not module.weight_orig.grad[module.weight_mask == 0].any()


def test_with_importance_scores() -> None:
    module = nn.LazyLinear(3)
    with pytest.raises(RuntimeError, match=r"expected weight of LazyLinear.* to have a shape"):
        prune.l1_unstructured(module, "weight", 2, importance_scores=torch.ones(3, 4))
    given = {(module, "weight"): torch.ones(3, 4)}
    with pytest.raises(ValueError, match=r"expected weight of LazyLinear.* to have a shape"):
        prune.global_unstructured([(module, "weight")], prune.L1Unstructured, given, amount=2)
    module(torch.ones(2, 4))
    prune.global_unstructured([(module, "weight")], prune.L1Unstructured, given, amount=2)
    assert module.weight_mask.sum() == 10


def test_global_pruning_leaves_the_modules_before_it() -> None:
    layer, lazy = nn.Linear(4, 3), nn.LazyLinear(3)
    with pytest.raises(ValueError, match="LazyLinear"):
        prune.global_unstructured(
            [(layer, "weight"), (lazy, "weight")], prune.L1Unstructured, amount=2
        )
    assert not prune.is_pruned(layer)


def test_state_dicts_of_lazy_modules() -> None:
    source = prune.l1_unstructured(nn.Linear(4, 3), "weight", 2)
    lazy = nn.LazyLinear(3)
    with pytest.raises(RuntimeError, match='"weight_orig": "weight" has no shape yet'):
        prune.attach(lazy, source.state_dict())
    dense = prune.dense_state_dict(lazy)
    assert nn.parameter.is_lazy(dense["weight"])
    x = torch.ones(2, 4)
    lazy(x)
    prune.attach(lazy, source.state_dict()).load_state_dict(source.state_dict())
    assert torch.equal(lazy(x), source(x))
    other = nn.LazyLinear(3)  # torch gives it its shape from a dense state dict
    other.load_state_dict(prune.dense_state_dict(source))
    assert torch.equal(other(x), source(x))
