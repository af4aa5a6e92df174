"""BlockStructured, block_structured and tied_structured: blocks, containers, scores, heads."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support import reference
from support.inputs import FLOATS, name


def linear(rows: int = 12, cols: int = 20, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(cols, rows, dtype=dtype)


def expected_mask(
    t: Tensor, old: Tensor | None, block: tuple[int, int], due: Any, norm: float = 2
) -> Tensor:
    """Block by block: the norm of the mean, the lowest first, what is empty not counted."""
    (norms,) = reference.block_norms([t], block, norm)
    mask = torch.ones_like(t) if old is None else old.clone()
    (left,) = reference.block_norms([(mask != 0).float()], block, math.inf)
    active = (left != 0).flatten().nonzero().flatten().tolist()
    order = sorted(active, key=lambda u: (float(norms.flatten()[u]), u))
    kept = torch.ones(norms.numel(), dtype=torch.bool)
    kept[order[: due(len(active), norms.numel())]] = False
    return reference.block_masks([kept.view(norms.shape)], [mask], [t], block)[0]


@pytest.mark.parametrize("block", [(1, 4), (4, 1), (4, 4), (5, 3), (16, 16), (32, 32)])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_blocks(block: tuple[int, int], dtype: torch.dtype) -> None:
    module = linear(40, 70, dtype)
    t = module.weight.detach().clone()
    prune.block_structured(module, "weight", 0.5, block)
    expected = expected_mask(t, None, block, lambda active, _: round(0.5 * active))
    assert torch.equal(module.weight_mask, expected)
    assert torch.equal(module.weight, t * expected)


@pytest.mark.parametrize("norm", [1, 2, math.inf, 0])
def test_norms(norm: float) -> None:
    module = linear()
    t = module.weight.detach().clone()
    prune.block_structured(module, "weight", 3, (4, 4), norm)
    assert torch.equal(module.weight_mask, expected_mask(t, None, (4, 4), lambda *_: 3, norm))


def test_a_kernel_is_within_a_block() -> None:
    module = prune.block_structured(nn.Conv2d(8, 6, 3), "weight", 0.5, (2, 4))
    blocks = module.weight_mask.view(3, 2, 2, 4, 9).movedim(1, 2).flatten(2)
    assert ((blocks == 0).all(-1) | (blocks == 1).all(-1)).all()
    assert int(blocks[..., 0].sum()) == 3


def test_trains_and_is_removed() -> None:
    module = prune.block_structured(linear(), "weight", 0.5)
    mask = module.weight_mask
    module(torch.randn(3, 20)).square().sum().backward()
    assert torch.equal(module.weight_orig.grad != 0, mask != 0)
    assert torch.equal(copy.deepcopy(module).weight_mask, mask)
    prune.remove(module, "weight")
    assert torch.equal(module.weight != 0, mask != 0)


BUDGETS: list[tuple[dict[str, Any], Any]] = [
    ({"amount": 0.5}, lambda active, total: round(0.5 * active)),
    ({"amount": 2}, lambda active, total: 2),
    ({"sparsity": 0.75}, lambda active, total: max(0, round(0.75 * total) - (total - active))),
]


@pytest.mark.parametrize(("budget", "due"), BUDGETS)
@pytest.mark.parametrize("theirs", [False, True])
def test_stacked(theirs: bool, budget: dict[str, Any], due: Any) -> None:
    """Built upon another mask of blocks and single entries, in both containers."""
    module, t = linear(), linear().weight.detach()
    old = torch.ones_like(t)
    old[:4, :8] = 0
    old[5, 3] = 0
    method = prune.BlockStructured(**budget)
    if theirs:
        container = upstream.PruningContainer()
        container._tensor_name = method._tensor_name = "weight"
        container.add_pruning_method(method)
        new = container.compute_mask(t * old, old.clone())
    else:
        prune.custom_from_mask(module, "weight", old)
        prune.block_structured(module, "weight", **budget)
        new = module.weight_mask
    assert torch.equal(new, expected_mask(t * old, old, (4, 4), due))


def test_scores_are_ranked_by_their_mean() -> None:
    scores = torch.randn(12, 20)
    module = linear()
    prune.block_structured(module, "weight", 0.5, (4, 4), score=lambda t, mask: scores)
    means = scores.view(3, 4, 5, 4).movedim(1, 2).flatten(2).double().mean(-1)
    kept = torch.ones(15, dtype=torch.bool)
    kept[means.flatten().argsort()[:8]] = False
    expected = kept.view(3, 5).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(module.weight_mask, expected.float())


def test_importance_scores() -> None:
    scores, module = torch.randn(12, 20), linear()
    prune.block_structured(module, "weight", 0.5, importance_scores=scores)
    expected = expected_mask(scores, None, (4, 4), lambda active, _: round(active / 2))
    assert torch.equal(module.weight_mask, expected)


@pytest.mark.parametrize("block", [(4, 4), (5, 3), (32, 32)])
def test_other_tensors(block: tuple[int, int]) -> None:
    """Complex weights and integers, which no operator of ours takes."""
    for t in (torch.randn(12, 20, dtype=torch.complex64), torch.randint(-9, 9, (12, 20))):
        new = prune.BlockStructured(0.5, block).compute_mask(t, torch.ones_like(t))
        assert new.dtype == t.dtype
        expected = expected_mask(t.abs().double(), None, block, lambda n, _: round(n / 2))
        assert torch.equal(new.abs().double(), expected)


def test_integer_parameters() -> None:
    module, t = linear(), torch.randint(-9, 9, (12, 20))
    module.weight = nn.Parameter(t, requires_grad=False)
    prune.block_structured(module, "weight", 0.5)
    expected = expected_mask(t.double(), None, (4, 4), lambda active, _: round(active / 2))
    assert module.weight_mask.dtype == t.dtype
    assert torch.equal(module.weight, t * expected.long())


def test_errors_leave_the_module() -> None:
    module = linear()
    for options, error, said in (
        ({"amount": 1.5}, ValueError, "range"),
        ({"amount": 16}, ValueError, "number of parameters to prune=15"),
        ({"amount": 1, "block": (0, 4)}, ValueError, "two positive numbers"),
        ({"amount": 1, "block": (4,)}, ValueError, "two positive numbers"),
        ({"amount": 1, "block": 4.5}, ValueError, "two positive numbers, got 4.5"),
        ({"amount": 1, "norm": "fro"}, TypeError, "norm to be a number or infinity, got 'fro'"),
        ({}, TypeError, "missing 1 required argument"),
        ({"amount": 1, "sparsity": 0.5}, ValueError, "takes amount or sparsity"),
    ):
        with pytest.raises(error, match=said):
            prune.block_structured(module, "weight", **options)
    assert not prune.is_pruned(module)


@pytest.mark.parametrize("block", [4, np.int64(4), (np.int64(4), 4), [4, 4]])
def test_block_is_two_numbers_or_one(block: Any) -> None:
    module = prune.block_structured(linear(), "weight", 5, block)
    expected = prune.block_structured(linear(), "weight", 5, (4, 4))
    assert torch.equal(module.weight_mask, expected.weight_mask)
    (hook,) = module._forward_pre_hooks.values()
    assert hook.block == (4, 4)


def heads() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(16, 16) for name in "qkvo"})


def tied(layers: nn.ModuleDict) -> list[tuple[nn.Module, str, int]]:
    return [*((layers[name], "weight", 0) for name in "qkv"), (layers["o"], "weight", 1)]


def units_of(weight: Tensor, dim: int, size: int) -> Tensor:
    return weight.detach().movedim(dim, 0).reshape(16 // size, -1)


@pytest.mark.parametrize("budget", [{"amount": 2}, {"amount": 0.5}, {"sparsity": 0.5}])
def test_heads(budget: dict[str, Any]) -> None:
    layers = heads()
    scores = torch.zeros(4, dtype=torch.float64)
    for layer, _, dim in tied(layers):
        scores += units_of(layer.weight, dim, 4).double().square().mean(1).sqrt()
    expected = torch.ones(4).scatter(0, scores.argsort()[:2], 0)
    prune.tied_structured(tied(layers), **budget, size=4)
    for layer, _, dim in tied(layers):
        kept = units_of(layer.get_buffer("weight_mask"), dim, 4)
        assert torch.equal(kept.sum(1), kept.shape[1] * expected)
    prune.tied_structured(tied(layers), amount=1, size=4)  # of those that are left
    assert int(layers["q"].weight_mask.sum()) == 4 * 16


def test_heads_with_biases() -> None:
    layers = heads()
    prune.tied_structured([*tied(layers), (layers["q"], "bias", 0)], amount=1, size=4)
    rows = layers["q"].weight_mask[:, 0]
    assert torch.equal(layers["q"].bias_mask, rows)
    assert int(rows.sum()) == 12


def test_errors_leave_the_heads() -> None:
    layers = heads()
    for parameters, options, error, said in (
        ([], {"amount": 1}, ValueError, "at least one parameter"),
        (tied(layers), {}, TypeError, "missing 1 required argument"),
        (tied(layers), {"amount": 1, "size": 0}, ValueError, "size to be a positive number, got 0"),
        (tied(layers), {"amount": 1, "norm": None}, TypeError, "norm to be a number"),
        ([(layers["q"], "weight")], {"amount": 1}, TypeError, "triples, got .* at index 0"),
        (
            [(nn.Linear(4, 4, bias=False), "bias", 0)],
            {"amount": 1},
            TypeError,
            "bias of Linear.* to be a Parameter, got NoneType",
        ),
        (tied(layers), {"amount": 9, "size": 4}, ValueError, "number of parameters to prune=4"),
        ([(layers["q"], "weight", 2)], {"amount": 1}, IndexError, "to be 0 or 1, got 2"),
        (
            [(layers["q"], "weight", 0), (nn.Linear(8, 8), "weight", 0)],
            {"amount": 1, "size": 4},
            ValueError,
            "to have 4 units of 4, as the parameters before it, got 2",
        ),
    ):
        with pytest.raises(error, match=said):
            prune.tied_structured(parameters, **options)
        assert not any(prune.is_pruned(layer) for layer in layers.values())
