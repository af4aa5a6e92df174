"""Small pruned modules for the cases."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def linear(prune: ModuleType) -> nn.Linear:
    """A Linear whose weight has lost half of its entries."""
    result: nn.Linear = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
    return result


def model(prune: ModuleType) -> nn.Sequential:
    """Two pruned layers and what stands between them."""
    layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    prune.l1_unstructured(layers[0], "weight", 0.5)
    prune.ln_structured(layers[0], "weight", 1, 2, 0)
    prune.random_unstructured(layers[2], "weight", 0.3)
    return layers


def state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers, detached, for functional_call."""
    parameters = {name: p.detach().clone() for name, p in module.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    return parameters, buffers


def loss_of(module: nn.Module) -> Any:
    """(parameters, buffers, x) -> loss, a pure function."""

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(module, (parameters, buffers), (x,))
        return out.square().sum()

    return loss


def output_of(module: nn.Module) -> Any:
    """(parameters, buffers, x) -> output, a pure function."""

    def output(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = functional_call(module, (parameters, buffers), (x,))
        return result

    return output


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    """What a backward left, by name; for masks that require a gradient too."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: t.grad for name, t in tensors.items()}


def trained(module: nn.Module, *inputs: Tensor) -> dict[str, Any]:
    """A forward and a backward."""
    out = module(*inputs)
    first = out[0] if isinstance(out, tuple) else out
    first.float().square().sum().backward()
    return {"out": first, "grad": gradients(module), "state": dict(module.state_dict())}
