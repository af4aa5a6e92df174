"""Cases of the other files, under ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from .make import X, gradients, linear, loss_of, output_of, state, trained
from .modules import SEQUENCE, WORDS, Caching, FlatLSTM, Renaming
from .registry import case
from .tensors import Holder, Tagged, distinct, embedding_of, holder_of

Make = Callable[[ModuleType], nn.Module]


def compiled(function: Any, fullgraph: bool = True) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=fullgraph)


def trains(title: str, *inputs: Tensor, fullgraph: bool = True) -> Callable[[Make], Make]:
    """A case: the module that is made, compiled, run forward and backward."""

    def add(make: Make) -> Make:
        @case("compiled", title)
        def _(prune: ModuleType) -> Any:
            module = make(prune)
            return trained(compiled(module, fullgraph), *inputs), gradients(module)

        return make

    return add


@trains("`weight_mask.requires_grad_()`", X)
def _(prune: ModuleType) -> nn.Module:
    layer = linear(prune)
    layer.weight_mask.requires_grad_()
    return layer


@trains("the same, weight frozen", X)
def _(prune: ModuleType) -> nn.Module:
    layer = linear(prune).requires_grad_(False)
    layer.weight_mask.requires_grad_()
    return layer


@trains("a mask that is an `nn.Parameter`", X)
def _(prune: ModuleType) -> nn.Module:
    layer = linear(prune)
    mask = layer.weight_mask
    del layer._buffers["weight_mask"]
    layer.weight_mask = nn.Parameter(mask)
    return layer


@trains("masks of bool, and of a shape that broadcasts", X)
def _(prune: ModuleType) -> nn.Module:
    layers = nn.Sequential(linear(prune), prune.l1_unstructured(nn.Linear(3, 3), "weight", 0.5))
    layers[0].weight_mask = layers[0].weight_mask.bool()
    layers[1].weight_mask = torch.ones(3, 1)
    return layers


@trains("a module with a `__setattr__` that caches the weight", X, fullgraph=False)
def _(prune: ModuleType) -> nn.Module:
    return prune.l1_unstructured(Caching(), "weight", 0.5)


@trains("a module with a `__getattr__` of its own", X, fullgraph=False)
def _(prune: ModuleType) -> nn.Module:
    return prune.l1_unstructured(Renaming(), "weight", 0.5)


@trains("an LSTM subclass that reads `_flat_weights`", SEQUENCE, fullgraph=False)
def _(prune: ModuleType) -> nn.Module:
    return prune.l1_unstructured(FlatLSTM(4, 3), "weight_ih_l0", 0.5)


@trains("`nn.LSTM`", SEQUENCE, fullgraph=False)
def _(prune: ModuleType) -> nn.Module:
    return prune.l1_unstructured(nn.LSTM(4, 3), "weight_hh_l0", 0.5)


@trains("`weight_norm` of `weight_orig`", X)
def _(prune: ModuleType) -> nn.Module:
    layer = linear(prune)
    parametrizations.weight_norm(layer, "weight_orig")
    return layer


@trains("a subclass with another `PRUNING_TYPE`", X)
def _(prune: ModuleType) -> nn.Module:
    kind = type("Everywhere", (prune.L1Unstructured,), {"PRUNING_TYPE": "global"})
    layer = linear(prune)
    kind.apply(layer, "weight", 3)
    return layer


@trains("a method with its own `apply_mask`", X)
def _(prune: ModuleType) -> nn.Module:
    class Twice(prune.L1Unstructured):  # type: ignore[misc, name-defined]
        def apply_mask(self, module: nn.Module) -> Tensor:
            result: Tensor = super().apply_mask(module) * 2
            return result

    layer = nn.Linear(4, 3)
    Twice.apply(layer, "weight", 3)
    return layer


@trains("a subclass of Tensor", torch.ones(3, 4))
def _(prune: ModuleType) -> nn.Module:
    module = holder_of(nn.Parameter(distinct().as_subclass(Tagged)))
    return prune.custom_from_mask(module, "weight", torch.ones(3, 4).tril())


@case("compiled", "`nn.Embedding(sparse=True)`")
def _(prune: ModuleType) -> Any:
    module = embedding_of(nn.Embedding, prune)
    out = compiled(module, fullgraph=False)(WORDS)
    out.square().sum().backward()
    return out, module.weight_orig.grad


@case("compiled", "complex weights")
def _(prune: ModuleType) -> Any:
    module = prune.l1_unstructured(Holder(distinct().cfloat()), "weight", 0.5)
    out = compiled(module)(torch.ones(3, 4))
    out.abs().sum().backward()
    return out, gradients(module)


@case("compiled", "`torch.func.grad`, `jvp` and `vmap`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    loss, output, (params, buffers) = loss_of(layer), output_of(layer), state(layer)
    ones = {name: torch.ones_like(p) for name, p in params.items()}

    def all_three(params: Any, buffers: Any, x: Tensor) -> Any:
        at = lambda p: output(p, buffers, x)  # noqa: E731
        return (
            torch.func.grad(loss)(params, buffers, x),
            torch.func.jvp(at, (params,), (ones,)),
            torch.vmap(output, in_dims=(None, None, 0))(params, buffers, x),
        )

    return compiled(all_three, fullgraph=False)(params, buffers, X)


@case("compiled", "`functional_call`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    params, buffers = state(layer)
    call = compiled(lambda p, b, x: functional_call(layer, (p, b), (x,)), fullgraph=False)
    return call(params, buffers, X)


@case("compiled", "pruned again, forward and backward each time")
def _(prune: ModuleType) -> Any:
    layer = nn.Linear(4, 3)
    fast = compiled(layer)
    results = []
    for _ in range(3):
        prune.l1_unstructured(layer, "weight", 2)
        results.append((trained(fast, X), gradients(layer)))
    return results
