"""factor= and score= of upstream's methods: what multiplies magnitudes, and what replaces them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support.inputs import FLOATS, name, values
from support.unchanged import assert_unchanged, snapshot


def linear(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(16, 6).to(dtype)


def ranked(t: Tensor, factor: Tensor) -> Tensor:
    wide = torch.float64 if t.dtype == torch.float64 else torch.float32
    return t.detach().abs().to(wide) * factor.abs().to(wide)


def lowest(scores: Tensor, count: int, old: Tensor | None = None) -> Tensor:
    old = torch.ones_like(scores) if old is None else old
    order = scores.flatten().argsort(stable=True)
    order = order[old.flatten()[order] == 1]
    mask = old.flatten().clone()
    mask[order[:count]] = 0
    return mask.view(old.shape)


def test_by_hand() -> None:
    module, factor = nn.Module(), torch.tensor([100, 10, 1, 0.1])
    module.weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    prune.l1_unstructured(module, "weight", 0.5, factor=factor)
    assert module.weight_mask.tolist() == [[1, 1, 0, 0]]
    prune.l1_unstructured(module, "weight", 1, factor=-factor)
    assert module.weight_mask.tolist() == [[1, 0, 0, 0]]  # by magnitude, whatever the sign


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("shape", [(16,), (6, 1), (1, 1), (6, 16), ()])
def test_broadcasts(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    factor = values("scaled", shape, torch.float64) if shape else torch.tensor(2.0)
    module = linear(dtype=dtype)
    expected = lowest(ranked(module.weight, factor), 48).to(dtype)
    prune.l1_unstructured(module, "weight", 0.5, factor=factor)
    assert torch.equal(module.weight_mask, expected)
    assert module.weight_mask.dtype == dtype
    old = module.weight_mask.clone()
    scores = torch.randn(6, 16).to(dtype)
    prune.l1_unstructured(module, "weight", 0.25, scores, factor=factor)
    expected = lowest(ranked(scores, factor), 12, old)
    assert torch.equal(module.weight_mask, expected)


@pytest.mark.parametrize("form", ["tensor", "number", "mapping"])
def test_globally_and_locally(form: str) -> None:
    factors = [torch.rand(16) * 9, torch.rand(6, 1)]
    if form == "number":
        factors = [torch.tensor(3.0)] * 2
    elif form == "tensor":
        factors = [factors[0]] * 2

    for locally in (False, True):
        a, b = linear(), linear(1)
        pairs = [(a, "weight"), (b, "weight")]
        given: Any = factors[0] if form != "mapping" else dict(zip(pairs, factors, strict=True))
        scores = [ranked(m.weight, f) for (m, _), f in zip(pairs, factors, strict=True)]
        if locally:
            prune.local_unstructured(pairs, prune.L1Unstructured, [9, 30], factor=given)
            expected = [lowest(s, k) for s, k in zip(scores, (9, 30), strict=True)]
        else:
            prune.global_unstructured(pairs, prune.L1Unstructured, amount=50, factor=given)
            expected = list(lowest(torch.stack(scores), 50))
        assert torch.equal(a.weight_mask, expected[0])
        assert torch.equal(b.weight_mask, expected[1])


def test_globally_over_dtypes_and_of_a_shared_parameter() -> None:
    a, b, c = linear(), linear(1, torch.float64), linear()
    c.weight = a.weight
    pairs = [(c, "weight"), (a, "weight"), (b, "weight")]
    factors = {pairs[1]: torch.rand(16), pairs[2]: torch.tensor(2.0)}
    both = [a.weight.double().abs() * factors[pairs[1]], b.weight.abs() * 2]
    prune.global_unstructured(pairs, prune.L1Unstructured, sparsity=0.5, factor=factors)
    expected = lowest(torch.stack(both).detach(), 96)
    assert torch.equal(a.weight_mask.double(), expected[0])
    assert torch.equal(c.weight_mask, a.weight_mask)
    assert torch.equal(b.weight_mask, expected[1])


def test_in_the_container_of_upstream() -> None:
    t, factor = linear().weight.detach(), torch.rand(16)
    old = (torch.rand(6, 16) < 0.5).float()
    for options in ({"factor": factor}, {"score": lambda t, mask: ranked(t, factor)}):
        method = prune.L1Unstructured(0.5, **options)
        method._tensor_name = "weight"
        container = upstream.PruningContainer()
        container._tensor_name = "weight"
        container.add_pruning_method(method)
        expected = lowest(ranked(t, factor), round(0.5 * int(old.sum())), old)
        assert torch.equal(container.compute_mask(t, old.clone()), expected)


@pytest.mark.parametrize("n", [1, 2, float("inf"), "fro", "nuc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=name)
def test_norms_of_channels(n: Any, dtype: torch.dtype) -> None:
    if dtype is torch.bfloat16 and n == "nuc":
        pytest.skip("torch has no nuclear norm of bfloat16")
    t = torch.randn(5, 4, 3).to(dtype)
    module = nn.Module()
    module.weight = nn.Parameter(t.clone())
    factor = torch.rand(4, 1)
    norms = torch.stack([ranked(t, factor)[i] for i in range(5)]).double()
    norms = torch.stack(
        [
            torch.linalg.norm(
                each.flatten() if n != "nuc" else each,
                "nuc" if n == "nuc" else 2 if n == "fro" else n,
            )
            for each in norms
        ]
    )
    prune.ln_structured(module, "weight", 2, n, 0, factor=factor)
    assert module.weight_mask.dtype == dtype
    assert torch.equal(module.weight_mask[:, 0, 0].double(), lowest(norms, 2))


def test_a_score_of_channels() -> None:
    module = linear()
    prune.ln_structured(module, "weight", 2, dim=0, score=lambda t, mask: t.sum(1))
    expected = lowest(module.weight_orig.detach().sum(1), 2)
    assert torch.equal(module.weight_mask[:, 0], expected)
    prune.ln_structured(module, "weight", sparsity=0.5, dim=0, score=lambda t, mask: t.sum(1))
    expected = lowest(module.weight_orig.detach().sum(1), 1, expected)
    assert torch.equal(module.weight_mask[:, 0], expected)


def test_a_score_gets_the_parameter() -> None:
    module, seen = linear(), []

    def score(t: Tensor, mask: Tensor | None) -> Tensor:
        seen.append((t, mask, torch.is_grad_enabled()))
        return -t

    weight = module.weight
    prune.l1_unstructured(module, "weight", 0.5, score=score)
    first = module.weight_mask.clone()
    prune.l1_unstructured(module, "weight", 0.5, score=score)
    assert seen[0][0] is weight and seen[0][1] is None
    assert seen[1][0] is weight and torch.equal(seen[1][1], first)
    assert not seen[0][2]
    assert torch.equal(first, lowest(-weight.detach(), 48))


def test_tensors_that_the_operators_do_not_take() -> None:
    class Sub(Tensor):
        pass

    t, factor, old = torch.randn(6, 16), torch.rand(16), (torch.rand(6, 16) < 0.5).float()
    for method in (
        prune.L1Unstructured(0.5, factor=factor),
        prune.L1Unstructured(sparsity=0.75),
        prune.L1Unstructured(0.5, score=lambda t, mask: -t),
        prune.LnStructured(sparsity=0.5, n=1, dim=0),
        prune.LnStructured(2, 2, 0, factor=factor),
    ):
        for mask in (torch.ones(6, 16), old):
            plain = method.compute_mask(t, mask)
            assert torch.equal(method.compute_mask(t.as_subclass(Sub), mask), plain)
    mask = prune.L1Unstructured(0.5, factor=factor).compute_mask((t * 50).long(), old)
    assert torch.equal(
        mask, lowest(ranked((t * 50).long().double(), factor), round(int(old.sum()) / 2), old)
    )


def test_copies() -> None:
    module = prune.l1_unstructured(linear(), "weight", 0.5, factor=torch.rand(16))
    module.weight = module.weight.detach()
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        (hook,) = copied._forward_pre_hooks.values()
        assert torch.equal(hook.factor, next(iter(module._forward_pre_hooks.values())).factor)
        assert torch.equal(copied(torch.ones(16)), module(torch.ones(16)))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"factor": torch.ones(16), "score": lambda t, m: t}, TypeError, "or a score, got both"),
        ({"factor": torch.ones(5)}, RuntimeError, "size|broadcast|expand"),
        ({"factor": torch.ones(2, 6, 16)}, RuntimeError, "size|broadcast|expand"),
        ({"factor": 2.0}, TypeError, "expected factor to be a Tensor, got float"),
        ({"factor": {}}, TypeError, "got a mapping"),
        ({"score": lambda t, m: t.sum(1)}, AssertionError, r"L1Unstructured.scores\(\) should"),
        ({"score": lambda t, m: 3}, TypeError, r"should return a Tensor, got int"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], said: str) -> None:
    module = prune.identity(linear(), "weight")
    before = snapshot(module)
    with pytest.raises(error, match=said):
        prune.l1_unstructured(module, "weight", 0.5, **options)
    assert_unchanged(module, before)


def test_a_mapping_without_a_parameter() -> None:
    module = prune.identity(linear(), "weight")
    before = snapshot(module)
    for call in (prune.global_unstructured, prune.local_unstructured):
        with pytest.raises(ValueError, match="expected factor to have one for weight"):
            call([(module, "weight")], prune.L1Unstructured, amount=0.5, factor={})
        assert_unchanged(module, before)
