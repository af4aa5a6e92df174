"""Under torch.set_default_device and ``with torch.device(...)``: the kernels, and upstream's masks.

Both are a TorchFunctionMode, of which any other may redefine what the kernels stand for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import fastprune
from fastprune import _C


class Mine(fastprune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t


CALLS: dict[str, Callable[[nn.Module], object]] = {
    "l1_unstructured": lambda m: fastprune.l1_unstructured(m, "weight", 0.3),
    "random_unstructured": lambda m: fastprune.random_unstructured(m, "weight", 0.3),
    "ln_structured": lambda m: fastprune.ln_structured(m, "weight", 0.3, 2, 0),
    "random_structured": lambda m: fastprune.random_structured(m, "weight", 0.3, 0),
    "custom_from_mask": lambda m: fastprune.custom_from_mask(
        m, "weight", torch.ones(8, 12, device="cpu").tril()
    ),
    "global_unstructured": lambda m: fastprune.global_unstructured(
        [(m, "weight"), (m, "bias")], fastprune.L1Unstructured, amount=0.3
    ),
    "global_unstructured of two dtypes": lambda m: fastprune.global_unstructured(
        [(m, "weight"), (nn.Linear(3, 2, device="cpu").double(), "weight")],
        fastprune.L1Unstructured,
        amount=0.3,
    ),
    "local_unstructured": lambda m: fastprune.local_unstructured(
        [(m, "weight"), (m, "bias")], fastprune.L1Unstructured, 0.3
    ),
    "nm_structured": lambda m: fastprune.nm_structured(m, "weight", 2, 4),
    "row_unstructured": lambda m: fastprune.row_unstructured(m, "weight", 0.3),
    "block_structured": lambda m: fastprune.block_structured(m, "weight", 0.3, (2, 2)),
    "scores": lambda m: Mine.apply(m, "weight", amount=0.3),
}


def operators(run: Callable[[], object]) -> list[str]:
    """The operators of fastprune that are called, as a profiler sees them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events() if event.name.startswith("fastprune::")]


def pruned(call: str, layer: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for _ in range(2):
        CALLS[call](layer)
    return layer


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(12, 8, device="cpu")


@pytest.mark.parametrize("default", ["cpu", "meta"])
@pytest.mark.parametrize("call", CALLS)
def test_the_same_operators_and_masks(call: str, default: str) -> None:
    if (call, default) == ("random_structured", "meta"):  # draws on the default device, as upstream
        with torch.device(default), pytest.raises(NotImplementedError, match="meta"):
            pruned(call, fresh())
        return
    expected, layer = fresh(), fresh()
    usual = operators(lambda: pruned(call, expected))
    with torch.device(default):
        assert operators(lambda: pruned(call, layer)) == usual
        product = _C.product_if_plain(layer.weight_orig, layer.weight_mask)
    assert usual
    assert torch.equal(layer.weight_mask, expected.weight_mask)
    assert torch.equal(layer.weight, expected.weight)
    assert torch.equal(product, layer.weight)


def test_set_as_default() -> None:
    layer = fresh()
    torch.set_default_device("cpu")
    try:
        called = operators(lambda: fastprune.l1_unstructured(layer, "weight", 0.5))
    finally:
        torch.set_default_device(None)
    assert called == ["fastprune::topk_prune"]
    assert layer.weight_mask.sum() == 48


@pytest.mark.parametrize("outside", [False, True])
def test_another_mode_beside_it(outside: bool) -> None:
    """What a mode redefines is redefined for pruning too, as with upstream."""

    class Sixteen(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            if func is torch.topk:
                kwargs = {**kwargs, "k": 16}
            return func(*args, **(kwargs or {}))

    contexts = [torch.device("cpu"), Sixteen()]
    first, second = reversed(contexts) if outside else contexts
    ours, theirs = fresh(), fresh()
    with first, second:
        assert operators(lambda: fastprune.l1_unstructured(ours, "weight", 0.5)) == []
        upstream.l1_unstructured(theirs, "weight", 0.5)
    assert (ours.weight_mask == 0).sum() == 16
    assert torch.equal(ours.weight_mask, theirs.weight_mask)
