"""Small vectors of other libraries and of papers, by the words that say them here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastprune as prune


def layer(values: list[list[float]]) -> nn.Linear:
    made = nn.Linear(len(values[0]), len(values), bias=False)
    made.weight.data = torch.tensor(values)
    return made


def kept(module: nn.Module) -> list[list[float]]:
    mask: Tensor = module.weight_mask
    return mask.tolist()


def test_nm_of_tfmot() -> None:
    module = prune.nm_structured(layer([[-0.49, -0.66, 0.42]]), "weight", 2, 4)
    assert kept(module) == [[1, 1, 0]]


def test_nm_of_ones() -> None:
    assert kept(prune.nm_structured(layer([[1.0] * 4]), "weight", 2, 4)) == [[0, 0, 1, 1]]


def test_nm_upon_an_earlier_mask() -> None:
    module = layer([[0.0, 0.0, 5.0, 3.0]])
    prune.custom_from_mask(module, "weight", torch.tensor([[1, 1, 0, 1]]))
    assert kept(prune.nm_structured(module, "weight", 2, 4)) == [[0, 1, 0, 1]]


def test_nm_both_ways() -> None:
    values = [[2.0, 8, 9, 9], [9, 1, 3, 9], [5, 6, 3, 9], [2, 4, 6, 9]]
    module = prune.nm_structured(layer(values), "weight", 2, 4, both=True)
    assert module.weight.sum() == 61
    ones = prune.nm_structured(layer([[1.0] * 4] * 4), "weight", 2, 4, both=True)
    assert kept(ones) == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_rows_with_a_factor() -> None:
    """Sun et al., "A Simple and Effective Pruning Approach", arXiv:2306.11695."""
    factor = torch.tensor([100, 10, 1, 0.1])
    module = prune.row_unstructured(layer([[1.0, 2, 3, 4]]), "weight", 0.5, factor=factor)
    assert kept(module) == [[1, 1, 0, 0]]


def test_a_model_by_weights_over_their_norm() -> None:
    """Of nncf: a factor for each tensor makes the budget one over tensors of different scales."""
    a, b = layer([[1.0, -8, 9, -10]]), layer([[1.0, -2, 3, -10]])
    pairs = [(a, "weight"), (b, "weight")]
    norms = {(module, "weight"): 1 / module.weight.detach().norm() for module in (a, b)}
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5, factor=norms)
    assert (kept(a), kept(b)) == ([[0, 1, 1, 1]], [[0, 0, 0, 1]])


def lamp(t: Tensor, mask: Tensor | None) -> Tensor:
    """Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", arXiv:2010.07611."""
    squares = t.double().flatten() ** 2 * (1 if mask is None else mask.flatten() == 1)
    order = squares.argsort(stable=True)
    rest = squares[order].flip(0).cumsum(0).flip(0)
    scores = torch.zeros_like(squares).scatter_(0, order, squares[order] / rest.clamp(min=1e-300))
    return scores.view(t.shape)


def test_lamp_as_a_score() -> None:
    scores = lamp(torch.tensor([1.0, 2, 3]), None)
    torch.testing.assert_close(scores.float(), torch.tensor([0.0714, 0.3077, 1]), atol=1e-4, rtol=0)
    small, large = layer([[1.0, 2, 3]]), layer([[100.0, 200, 300]])
    pairs = [(small, "weight"), (large, "weight")]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=4, score=lamp)
    assert kept(small) == kept(large) == [[0, 0, 1]]


def test_packed_as_numpy_packs() -> None:
    mask = torch.tensor([[1.0, 0, 0, 1, 1, 0, 0, 0, 1], [0] * 9])
    assert prune.packed(mask).tolist() == [[0b00011001, 1], [0, 0]]
    assert torch.equal(prune.unpacked(prune.packed(mask), mask.shape).float(), mask)
