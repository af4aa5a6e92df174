"""RowUnstructured and row_unstructured: in containers, with scores and factors, on any tensor."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from fastprune.groups import ranked_values
from support import reference
from support.compare import assert_same_bits
from support.inputs import FLOATS, KINDS, mask, values


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(16, 6)


def test_prunes_trains_and_is_removed() -> None:
    module = prune.row_unstructured(linear(), "weight", 0.25)
    (expected,) = reference.row_masks([module.weight_orig], [], 0.25, 0)
    assert torch.equal(module.weight_mask, expected)
    assert (module.weight_mask.sum(1) == 12).all()
    assert_same_bits(module.weight.detach(), (module.weight_orig * expected).detach())
    module(torch.randn(3, 16)).square().sum().backward()
    assert torch.equal(module.weight_orig.grad != 0, expected != 0)
    assert torch.equal(copy.deepcopy(module).weight_mask, expected)
    prune.remove(module, "weight")
    assert torch.equal(module.weight != 0, expected != 0)


@pytest.mark.parametrize("budget", [{"amount": 0.5}, {"amount": 3}, {"sparsity": 0.5}])
@pytest.mark.parametrize("theirs", [False, True])
def test_stacked(theirs: bool, budget: dict[str, Any]) -> None:
    """Built upon an unstructured mask, in our container and in upstream's."""
    module, t = linear(), linear().weight.detach()
    method = prune.RowUnstructured(**budget)
    if theirs:
        upstream.l1_unstructured(module, "weight", 0.3)
        old = module.weight_mask
        container = upstream.PruningContainer()
        container._tensor_name = "weight"
        method._tensor_name = "weight"
        container.add_pruning_method(method)
        new = container.compute_mask(t * old, old.clone())
    else:
        prune.l1_unstructured(module, "weight", 0.3)
        old = module.weight_mask
        prune.row_unstructured(module, "weight", **budget)
        new = module.weight_mask
    amount, absolute = next(iter(budget.values())), "sparsity" in budget
    (expected,) = reference.row_masks([t], [old], amount, 0, absolute=absolute)
    assert torch.equal(new, expected)
    assert not new[old == 0].any()


class Taylor(prune.RowUnstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        assert t.grad is not None
        return t * t.grad


def test_scores_are_ranked_by_value() -> None:
    def taylor(t: Tensor, mask: Tensor | None) -> Tensor:
        assert t.grad is not None
        return t * t.grad

    first, second = linear(), linear()
    for module in (first, second):
        module(torch.ones(2, 16)).square().sum().backward()
    scores = first.weight.detach().clone() * first.weight.grad
    expected = reference.row_masks([scores], [], 0.5, 0, is_signed=True)[0]
    Taylor.apply(first, "weight", 0.5)
    prune.row_unstructured(second, "weight", 0.5, score=taylor)
    assert torch.equal(first.weight_mask, expected)
    assert torch.equal(second.weight_mask, expected)


@pytest.mark.parametrize("shape", [(16,), (6, 1), (1, 1), (6, 16), ()])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_factor(shape: tuple[int, ...], dim: int) -> None:
    """Wanda's norms of inputs, a number for each row, for all, or for each entry."""
    factor = values("scaled", shape, torch.float64) if shape else torch.tensor(2.0)
    module = prune.row_unstructured(linear(), "weight", 0.5, dim, factor=factor)
    expected = reference.row_masks([module.weight_orig], [], 0.5, dim, [factor])[0]
    assert torch.equal(module.weight_mask, expected)


def test_wanda() -> None:
    """As its paper has it: per output, |weight| times the norms of the inputs."""
    weight, norms = torch.randn(32, 64), torch.rand(64)
    module = nn.Linear(64, 32)
    module.weight = nn.Parameter(weight.clone())
    prune.row_unstructured(module, "weight", sparsity=0.5, factor=norms)
    order = (weight.abs() * norms).argsort(dim=1, stable=True)
    expected = torch.ones(32, 64).scatter(1, order[:, :32], 0)
    assert torch.equal(module.weight_mask, expected)


def test_importance_scores_are_ranked_by_magnitude() -> None:
    scores = torch.randn(6, 16)
    module = prune.row_unstructured(linear(), "weight", 0.5, importance_scores=scores)
    assert torch.equal(module.weight_mask, reference.row_masks([scores], [], 0.5, 0)[0])


@pytest.mark.parametrize("seed", range(40))
def test_by_sorting(seed: int) -> None:
    """What is done for tensors that the operators do not take is the same."""
    draw = random.Random(seed)
    shape = [draw.choice([1, 3, 8, 13]) for _ in range(draw.randint(1, 3))]
    t = values(draw.choice(list(KINDS)), tuple(shape), draw.choice(FLOATS))
    kind = draw.choice(["none", "random", "non_binary"])
    old = None if kind == "none" else mask(kind, t.shape, t.dtype)
    dim, is_signed = draw.randrange(-len(shape), len(shape)), draw.random() < 0.5
    factor = None if is_signed else values("normal", (shape[-1],), torch.float32)
    key, amount = draw.choice([("amount", 0.5), ("amount", 0), ("sparsity", 0.5)])
    (expected,) = reference.row_masks(
        [t],
        [] if old is None else [old],
        amount,
        dim,
        [factor],
        is_signed=is_signed,
        absolute=key == "sparsity",
    )
    method = prune.RowUnstructured(dim=dim, **{key: amount})
    ones = torch.ones_like(t) if old is None else old
    actual = method.pattern.by_sorting(method, ranked_values(t, factor, is_signed), ones)
    assert torch.equal(actual, expected)


def test_under_vmap_and_for_integers() -> None:
    t = torch.randn(3, 5, 8)
    method = prune.RowUnstructured(0.5)
    new = torch.func.vmap(lambda x: method.compute_mask(x, torch.ones_like(x)))(t)
    expected = torch.stack([reference.row_masks([x], [], 0.5, 0)[0] for x in t])
    assert torch.equal(new, expected)
    whole = torch.randint(-9, 9, (4, 8))
    expected = reference.row_masks([whole.double()], [], 0.5, 0)[0]
    assert torch.equal(method.compute_mask(whole, torch.ones(4, 8)), expected.float())


def test_complex_weights() -> None:
    module = linear()
    module.weight = nn.Parameter(torch.randn(6, 16, dtype=torch.complex64))
    expected = reference.row_masks([module.weight.abs()], [], 4, 0)[0]
    prune.row_unstructured(module, "weight", 4)
    assert module.weight_mask.dtype == torch.complex64
    assert torch.equal(module.weight_mask.real, expected)
    with pytest.raises(ValueError, match="number of parameters to prune=12"):
        prune.row_unstructured(module, "weight", 13)


def test_errors_leave_the_module() -> None:
    module = linear()
    for options, error, said in (
        ({"amount": 1.5}, ValueError, "range"),
        ({"amount": 17}, ValueError, "number of parameters to prune=16"),
        ({"amount": 0.5, "dim": 2}, IndexError, "Invalid index 2"),
        ({}, TypeError, "missing 1 required argument: 'amount', or 'sparsity'"),
        ({"amount": 1, "sparsity": 0.5}, ValueError, "takes amount or sparsity"),
        ({"sparsity": 1}, TypeError, "sparsity to be a float, got 1"),
        ({"sparsity": 1.5}, ValueError, "sparsity to be in the range"),
        ({"amount": 0.5, "factor": torch.ones(3)}, RuntimeError, "to broadcast"),
    ):
        with pytest.raises(error, match=said):
            prune.row_unstructured(module, "weight", **options)
    with pytest.raises(TypeError, match=r"a factor.* or a score, got both"):
        prune.RowUnstructured(0.5, factor=torch.ones(1), score=lambda t, mask: t)
    assert not prune.is_pruned(module)
