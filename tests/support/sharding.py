"""Models that are spread over processes, and how they are compared with a whole one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastprune as prune


def mesh_of(*shape: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    shape = shape or (dist.get_world_size(),)
    return init_device_mesh("cpu", shape, mesh_dim_names=("a", "b")[: len(shape)])


#: Whether full_tensor of a parameter under tensor parallelism and fully_shard has its rows in order
#: where pieces differ in size. Of torch 2.9 it has not, without fastprune either.
ORDERS_UNEVEN_PIECES = tuple(map(int, torch.__version__.split(".")[:2])) > (2, 9)


def whole(t: Any) -> Tensor:
    result: Tensor = t.full_tensor() if hasattr(t, "full_tensor") else t
    return result.detach()


def assert_same(ours: Any, expected: Any) -> None:
    assert torch.equal(whole(ours), whole(expected))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 5))


def model_pruned() -> nn.Sequential:
    result = model()
    for layer in (result[0], result[2]):
        prune.l1_unstructured(layer, "weight", 0.5)
    return result


def model_tied() -> nn.Sequential:
    """Two layers with one weight."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    layers[2].weight = layers[0].weight
    return layers


X = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))


class Training:
    """A model, its optimizer, and the losses of its steps."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def steps(self) -> list[float]:
        losses = []
        for _ in range(2):
            loss = self.model(X).square().mean()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(loss.item())
        return losses


def assert_same_state(ours: nn.Module, expected: nn.Module) -> None:
    state = ours.state_dict()
    assert list(state) == list(expected.state_dict())
    for name, value in expected.state_dict().items():
        assert torch.allclose(whole(state[name]), value, atol=1e-6), name


def whole_model(layers: nn.Sequential, **kwargs: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(layers, **{"mesh": mesh_of(), **kwargs})


def by_layer(layers: nn.Sequential, **kwargs: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    for layer in (layers[0], layers[2]):
        fully_shard(layer, **{"mesh": mesh_of(), **kwargs})
    whole_model(layers, **kwargs)
