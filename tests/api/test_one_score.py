"""A score as a user writes it works locally, globally, by row, N:M, by block and in a container."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support import reference


def taylor(t: Tensor, mask: Tensor | None) -> Tensor:
    assert t.grad is not None
    return t * t.grad


def layer() -> nn.Linear:
    torch.manual_seed(0)
    module = nn.Linear(16, 8)
    module(torch.randn(5, 16)).square().sum().backward()
    return module


def scores() -> Tensor:
    weight = layer().weight
    assert weight.grad is not None
    return (weight * weight.grad).detach()


def lowest(values: Tensor, count: int, old: Tensor | None = None) -> Tensor:
    """The mask without the lowest values, of those that ``old`` has left."""
    left = values.flatten().argsort(stable=True)
    if old is not None:
        left = left[old.flatten()[left] == 1]
    mask = torch.ones(values.numel()) if old is None else old.flatten().clone()
    mask[left[:count]] = 0
    return mask.view(values.shape)


def locally(module: nn.Linear) -> Tensor:
    prune.Unstructured.apply(module, "weight", 0.5, score=taylor)
    return lowest(scores(), 64)


def globally(module: nn.Linear) -> Tensor:
    other = layer()
    pairs = [(module, "weight"), (other, "weight")]
    prune.global_unstructured(pairs, prune.Unstructured, amount=0.5, score=taylor)
    both = lowest(torch.stack([scores(), scores()]), 128)
    assert torch.equal(other.weight_mask, both[1])
    return both[0]


def each_of_many(module: nn.Linear) -> Tensor:
    prune.local_unstructured([(module, "weight")], prune.Unstructured, amount=0.25, score=taylor)
    return lowest(scores(), 32)


def by_an_upstream_name(module: nn.Linear) -> Tensor:
    prune.l1_unstructured(module, "weight", 0.5, score=taylor)
    return lowest(scores(), 64)


def globally_by_an_upstream_name(module: nn.Linear) -> Tensor:
    other = layer()
    pairs = [(module, "weight"), (other, "weight")]
    prune.global_unstructured(pairs, prune.L1Unstructured, sparsity=0.5, score=taylor)
    both = lowest(torch.stack([scores(), scores()]), 128)
    assert torch.equal(other.weight_mask, both[1])
    return both[0]


def each_of_many_by_an_upstream_name(module: nn.Linear) -> Tensor:
    prune.local_unstructured([(module, "weight")], prune.L1Unstructured, 0.25, score=taylor)
    return lowest(scores(), 32)


def by_channel(module: nn.Linear) -> Tensor:
    def of_channels(t: Tensor, mask: Tensor | None) -> Tensor:
        return taylor(t, mask).sum(1)

    prune.ln_structured(module, "weight", 3, dim=0, score=of_channels)
    return lowest(scores().sum(1), 3)[:, None].expand(8, 16)


def an_upstream_name_in_a_container(module: nn.Linear) -> Tensor:
    prune.random_unstructured(module, "weight", 0.3)
    old = module.weight_mask.clone()
    prune.l1_unstructured(module, "weight", sparsity=0.75, score=taylor)
    return lowest(scores(), 96 - int((old == 0).sum()), old)


def by_row(module: nn.Linear) -> Tensor:
    prune.RowUnstructured.apply(module, "weight", 0.5, score=taylor)
    return reference.row_masks([scores()], [], 0.5, 0, is_signed=True)[0]


def two_of_four(module: nn.Linear) -> Tensor:
    prune.NMStructured.apply(module, "weight", 2, 4, score=taylor)
    return reference.nm_masks([scores()], [], 2, 4, 1, is_signed=True)[0]


def by_block(module: nn.Linear) -> Tensor:
    prune.BlockStructured.apply(module, "weight", 0.5, (4, 4), score=taylor)
    means = scores().view(2, 4, 4, 4).double().mean((1, 3))
    return lowest(means, 4).repeat_interleave(4, 0).repeat_interleave(4, 1).float()


def in_a_container(module: nn.Linear) -> Tensor:
    prune.random_unstructured(module, "weight", 0.3)
    old = module.weight_mask.clone()
    prune.Unstructured.apply(module, "weight", 0.5, score=taylor)
    return lowest(scores(), round(0.5 * int(old.sum())), old)


def in_the_container_of_upstream(module: nn.Linear) -> Tensor:
    upstream.random_unstructured(module, "weight", 0.3)
    old = module.weight_mask.clone()
    prune.RowUnstructured.apply(module, "weight", 0.5, score=taylor)
    return reference.row_masks([scores()], [old], 0.5, 0, is_signed=True)[0]


@pytest.mark.parametrize(
    "way",
    [
        locally,
        globally,
        each_of_many,
        by_an_upstream_name,
        globally_by_an_upstream_name,
        each_of_many_by_an_upstream_name,
        by_channel,
        an_upstream_name_in_a_container,
        by_row,
        two_of_four,
        by_block,
        in_a_container,
        in_the_container_of_upstream,
    ],
)
def test_one_score(way: Callable[[nn.Linear], Tensor]) -> None:
    module = layer()
    expected = way(module)
    assert torch.equal(module.weight_mask, expected)
    assert 0 < int(expected.sum()) < expected.numel()
