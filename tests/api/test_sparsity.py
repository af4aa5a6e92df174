"""sparsity=: what is pruned in the end, in place of an amount of what is left."""

from __future__ import annotations

import copy
import pickle
import random
import re
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support.unchanged import assert_unchanged, snapshot


def layer(*shape: int, seed: int = 0) -> nn.Module:
    module = nn.Module()
    values = torch.randn(shape or (8, 12), generator=torch.Generator().manual_seed(seed))
    module.weight = nn.Parameter(values)
    return module


def row(*values: float) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.tensor([values]).float())
    return module


def lowest(scores: Tensor, count: int, old: Tensor) -> Tensor:
    """The old mask without the ``count`` active entries of lowest score."""
    order = scores.flatten().argsort(stable=True)
    order = order[old.flatten()[order] == 1]
    mask = old.flatten().clone()
    mask[order[:count]] = 0
    return mask.view(old.shape)


def to_sparsity(scores: Tensor, sparsity: float, old: Tensor) -> Tensor:
    due = round(sparsity * old.numel()) - int((old == 0).sum())
    return lowest(scores, max(0, due), old)


def channels_to_sparsity(scores: Tensor, sparsity: float, old: Tensor) -> Tensor:
    """The same of rows."""
    rows = (old != 0).any(1).to(old.dtype)
    return old * to_sparsity(scores, sparsity, rows)[:, None]


def test_by_hand() -> None:
    module = row(1, 2, 3, 4)
    for sparsity, expected in ((0.5, [0, 0, 1, 1]), (0.75, [0, 0, 0, 1]), (0.25, [0, 0, 0, 1])):
        prune.l1_unstructured(module, "weight", sparsity=sparsity)
        assert module.weight_mask.tolist() == [expected]
        assert torch.equal(module.weight, module.weight_orig * module.weight_mask)


@pytest.mark.parametrize(("sparsity", "zeros"), [(0.125, 0), (0.375, 2), (0.625, 2), (0.875, 4)])
def test_half_is_rounded_to_even(sparsity: float, zeros: int) -> None:
    module = prune.l1_unstructured(row(1, 2, 3, 4), "weight", sparsity=sparsity)
    assert int((module.weight_mask == 0).sum()) == zeros
    prune.identity(module, "weight")
    prune.l1_unstructured(module, "weight", sparsity=sparsity)
    assert int((module.weight_mask == 0).sum()) == zeros


@pytest.mark.parametrize("seed", range(20))
def test_chains_of_calls(seed: int) -> None:
    """Entries and channels, upon whatever came before, by the obvious reference."""
    draw = random.Random(seed)
    module = layer(draw.choice([1, 5, 16]), draw.choice([1, 7, 24]), seed=seed)
    t, mask = module.weight.detach().clone(), torch.ones_like(module.weight)
    for _ in range(6):
        kind, sparsity = draw.choice(["l1", "random", "ln", "score", "channels"]), draw.random()
        if kind == "l1":
            mask = to_sparsity((t * mask).abs(), sparsity, mask)
            prune.l1_unstructured(module, "weight", sparsity=sparsity)
        elif kind == "score":
            mask = to_sparsity(t, sparsity, mask)
            prune.Unstructured.apply(module, "weight", sparsity=sparsity, score=lambda t, m: t)
        elif kind == "ln":
            mask = channels_to_sparsity((t * mask).double().norm(dim=1), sparsity, mask)
            prune.ln_structured(module, "weight", sparsity=sparsity, n=2, dim=0)
        elif kind == "channels":
            mask = channels_to_sparsity(t.sum(1), sparsity, mask)
            prune.Structured.apply(
                module, "weight", dim=0, sparsity=sparsity, score=lambda t, m: t.sum(1)
            )
        else:
            zeros = int((mask == 0).sum())
            prune.random_unstructured(module, "weight", sparsity=sparsity)
            new = module.weight_mask
            assert not new[mask == 0].any()
            assert int((new == 0).sum()) == max(zeros, round(sparsity * mask.numel()))
            mask = new.clone()
        assert torch.equal(module.weight_mask, mask), kind


@pytest.mark.parametrize("method", ["random_unstructured", "random_structured"])
def test_random_methods_draw_as_by_amount(method: str) -> None:
    masks = []
    for budgets in ([0.25, 0.5], [8, 8]):
        module, options = layer(16, 2), {"dim": 0} if method == "random_structured" else {}
        torch.manual_seed(3)
        for budget in budgets:
            units = 16 if options else 32
            if isinstance(budget, float):
                getattr(prune, method)(module, "weight", sparsity=budget, **options)
            else:
                getattr(prune, method)(module, "weight", budget * units // 32, **options)
        masks.append(module.weight_mask)
    assert torch.equal(*masks)


METHODS: list[Any] = [
    lambda s: prune.L1Unstructured(sparsity=s),
    lambda s: prune.RandomUnstructured(sparsity=s),
    lambda s: prune.LnStructured(sparsity=s, n=2, dim=0),
    lambda s: prune.RandomStructured(sparsity=s, dim=0),
    lambda s: prune.Unstructured(sparsity=s, score=lambda t, mask: t),
    lambda s: prune.Structured(sparsity=s, dim=0, score=lambda t, mask: t.sum(1)),
]


@pytest.mark.parametrize("make", METHODS)
def test_in_the_container_of_upstream(make: Any) -> None:
    t = layer(8, 6).weight.detach()
    old = torch.ones(8, 6)
    old[:2], old[2, 3] = 0, 0
    masks = []
    for library in (upstream, prune):
        method = make(0.5)
        assert method.PRUNING_TYPE == "global"
        method._tensor_name = "weight"
        container = library.PruningContainer(method) if library is prune else container_of(method)
        torch.manual_seed(0)
        masks.append(container.compute_mask(t * old, old.clone()))
        torch.manual_seed(0)
        masks.append(method.compute_mask(t * old, old.clone()))
    assert all(torch.equal(mask, masks[0]) for mask in masks[1:])
    assert not masks[0][old == 0].any()
    zero_rows = int((masks[0].sum(1) == 0).sum())
    assert zero_rows == 4 if hasattr(method, "dim") else int((masks[0] == 0).sum()) == 24


def container_of(method: Any) -> Any:
    container = upstream.PruningContainer()
    container._tensor_name = "weight"
    container.add_pruning_method(method)
    return container


def test_of_a_hook_of_upstreams() -> None:
    module = layer(4, 4)
    upstream.l1_unstructured(module, "weight", 4)
    prune.l1_unstructured(module, "weight", sparsity=0.5)
    expected = lowest(module.weight_orig.abs(), 8, torch.ones(4, 4))
    assert torch.equal(module.weight_mask, expected)


def test_globally() -> None:
    a, b = layer(4, 8), layer(4, 4, seed=1)
    pairs = [(a, "weight"), (b, "weight")]
    prune.l1_unstructured(a, "weight", 20)
    old = torch.cat([a.weight_mask.flatten(), torch.ones(16)])
    flat = torch.cat([a.weight_orig.flatten(), b.weight.flatten()]).detach().abs()
    for sparsity in (0.5, 0.75, 0.1):
        prune.global_unstructured(pairs, prune.L1Unstructured, sparsity=sparsity)
        old = to_sparsity(flat, sparsity, old)
        assert torch.equal(torch.cat([a.weight_mask.flatten(), b.weight_mask.flatten()]), old)
    prune.global_unstructured(pairs, prune.RandomUnstructured, sparsity=0.9)
    assert int(a.weight_mask.sum() + b.weight_mask.sum()) == 48 - 43


def test_globally_over_dtypes() -> None:
    a, b = layer(4, 8), layer(4, 4, seed=1).double()
    pairs = [(a, "weight"), (b, "weight")]
    for sparsity in (0.25, 0.5):
        prune.global_unstructured(pairs, prune.L1Unstructured, sparsity=sparsity)
    flat = torch.cat([a.weight_orig.flatten().double(), b.weight_orig.flatten()]).detach().abs()
    masks = torch.cat([a.weight_mask.flatten().double(), b.weight_mask.flatten()])
    assert torch.equal(masks, lowest(flat, 24, torch.ones(48, dtype=torch.double)))


@pytest.mark.parametrize("form", ["one", "sequence", "mapping"])
@pytest.mark.parametrize("method", [prune.L1Unstructured, prune.RandomUnstructured])
def test_locally(form: str, method: Any) -> None:
    """A mapping is what a distribution over layers returns."""
    modules = [layer(4, 8), layer(4, 4, seed=1), layer(6, seed=2)]
    pairs = [(module, "weight") for module in modules]
    prune.l1_unstructured(modules[1], "weight", 3)
    for wanted in ([0.5, 0.25, 0.5], [0.75, 0.25, 0.0]):
        given: Any = wanted if form == "sequence" else dict(zip(pairs, wanted, strict=True))
        if form == "one":
            given, wanted = wanted[0], [wanted[0]] * 3
        before = [getattr(m, "weight_mask", torch.ones_like(m.weight)).clone() for m in modules]
        prune.local_unstructured(pairs, method, sparsity=given)
        for module, sparsity, old in zip(modules, wanted, before, strict=True):
            if method is prune.L1Unstructured:
                t = module.weight_orig.detach().abs()
                assert torch.equal(module.weight_mask, to_sparsity(t, sparsity, old))
            zeros = max(round(sparsity * old.numel()), int((old == 0).sum()))
            assert int((module.weight_mask == 0).sum()) == zeros


@pytest.mark.parametrize("form", ["parametrized", "in place", "cached"])
def test_other_forms(form: str) -> None:
    module = layer(4, 8)
    t = module.weight.detach().clone()
    if form == "parametrized":
        prune.parametrized(module, "weight", prune.L1Unstructured(sparsity=0.25))
    else:
        prune.l1_unstructured(module, "weight", sparsity=0.25)
    if form == "in place":
        prune.in_place(module)
    with prune.cached(module):
        prune.l1_unstructured(module, "weight", sparsity=0.5)
    expected = t * lowest(t.abs(), 16, torch.ones(4, 8))
    assert torch.equal(module.weight.detach(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_dtypes(dtype: torch.dtype) -> None:
    t = torch.randperm(32).view(4, 8).to(dtype)
    module = nn.Module()
    module.weight = nn.Parameter(t)
    for sparsity in (0.25, 0.5):
        prune.l1_unstructured(module, "weight", sparsity=sparsity)
    assert module.weight_mask.dtype == dtype
    assert torch.equal(module.weight_mask.real.float(), (t.abs().float() >= 16).float())
    whole = torch.randperm(32).view(4, 8)
    mask = prune.L1Unstructured(sparsity=0.5).compute_mask(whole, torch.ones(4, 8))
    assert torch.equal(mask, (whole >= 16).float())


def test_copies_and_attributes() -> None:
    module = prune.l1_unstructured(layer(4, 8), "weight", sparsity=0.5)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(detached(module)))):
        prune.l1_unstructured(copied, "weight", sparsity=0.75)
        assert int(copied.weight_mask.sum()) == 8
    assert vars(prune.L1Unstructured(0.5)) == {"amount": 0.5}
    assert vars(prune.LnStructured(0.5, 2)) == {"amount": 0.5, "n": 2, "dim": -1}
    (hook,) = module._forward_pre_hooks.values()
    assert (hook.amount, hook.sparsity, hook.factor, hook.score) == (None, 0.5, None, None)
    prune.remove(module, "weight")
    assert int((module.weight == 0).sum()) == 16


def detached(module: nn.Module) -> nn.Module:
    module.weight = module.weight.detach()
    return module


class Twice(prune.L1Unstructured):
    """A user's, to whom ``score``, ``sparsity`` and ``factor`` mean something else."""

    def __init__(self, amount: float) -> None:
        super().__init__(amount)
        self.score, self.sparsity, self.factor = "high", "much", 2


def test_attributes_of_a_users_subclass() -> None:
    module, expected = layer(4, 8), layer(4, 8)
    for _ in range(2):
        Twice.apply(module, "weight", 0.5)
        upstream.l1_unstructured(expected, "weight", 0.5)
    prune.global_unstructured([(module, "weight")], Twice, amount=0.5)
    upstream.global_unstructured([(expected, "weight")], upstream.L1Unstructured, amount=0.5)
    assert torch.equal(module.weight_mask, expected.weight_mask)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, TypeError, r"L1Unstructured\(\) missing 1 required argument: 'amount', or 'sparsi"),
        ({"amount": 1, "sparsity": 0.5}, ValueError, "takes amount or sparsity"),
        ({"sparsity": 1}, TypeError, "expected sparsity to be a float, got 1"),
        ({"sparsity": 1.5}, ValueError, "in the range"),
        ({"sparsity": float("nan")}, ValueError, "in the range"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], said: str) -> None:
    module = prune.identity(layer(4, 8), "weight")
    pairs, before = [(module, "weight")], snapshot(module)
    for call in (
        lambda: prune.l1_unstructured(module, "weight", **options),
        lambda: prune.global_unstructured(pairs, prune.L1Unstructured, **options),
        lambda: prune.local_unstructured(pairs, prune.L1Unstructured, **options),
    ):
        with pytest.raises(error, match=said):
            call()
        assert_unchanged(module, before)


@pytest.mark.parametrize("sparsity", [np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_numbers_that_are_no_float(sparsity: Any) -> None:
    expected = prune.l1_unstructured(layer(4, 8), "weight", sparsity=0.5)
    for module in (layer(4, 8), prune.random_unstructured(layer(4, 8), "weight", 3)):
        prune.l1_unstructured(module, "weight", sparsity=sparsity)
        assert int(module.weight_mask.sum()) == int(expected.weight_mask.sum())
    prune.local_unstructured([(module, "weight")], prune.L1Unstructured, sparsity=sparsity)
    prune.global_unstructured([(module, "weight")], prune.L1Unstructured, sparsity=sparsity)
    assert int(module.weight_mask.sum()) == int(expected.weight_mask.sum())
    for prune_it in (prune.row_unstructured, prune.block_structured):
        assert int(prune_it(layer(4, 8), "weight", sparsity=sparsity).weight_mask.sum()) == 16


def test_more_errors() -> None:
    module = layer(4, 8)
    pairs = [(module, "weight")]
    with pytest.raises(TypeError, match="'n'"):
        prune.ln_structured(module, "weight", sparsity=0.5, dim=0)
    for call in (prune.ln_structured, prune.random_structured):
        with pytest.raises(TypeError, match="'dim'"):
            call(module, "weight", sparsity=0.5)
    with pytest.raises(TypeError, match='Only "unstructured"'):
        prune.global_unstructured(pairs, prune.RandomStructured, sparsity=0.5)
    with pytest.raises(ValueError, match="expected sparsity to have one for weight"):
        prune.local_unstructured(pairs, prune.L1Unstructured, sparsity={})
    with pytest.raises(ValueError, match="expected one sparsity, or one for each of 1 "):
        prune.local_unstructured(pairs, prune.L1Unstructured, sparsity=[0.5, 0.5])
    assert not prune.is_pruned(module)


def test_under_patch() -> None:
    """Our classes have the words there, too; upstream's do not."""
    a, b = layer(4, 8), layer(4, 8, seed=1)
    pairs = [(a, "weight"), (b, "weight")]
    with prune.patch():
        upstream.global_unstructured(pairs, prune.L1Unstructured, sparsity=0.25)
        upstream.global_unstructured(pairs, prune.L1Unstructured, sparsity=0.5)
        for words in ({"sparsity": 0.5}, {"amount": 0.5, "replace": True}):
            with pytest.raises(TypeError, match="unexpected keyword"):
                upstream.global_unstructured(pairs, upstream.L1Unstructured, **words)
    flat = torch.stack([a.weight_orig, b.weight_orig]).detach().abs()
    expected = lowest(flat, 32, torch.ones(2, 4, 8))
    assert torch.equal(torch.stack([a.weight_mask, b.weight_mask]), expected)


def test_many_tensors_are_one_call() -> None:
    modules = [layer(4, 8, seed=seed) for seed in range(5)]
    pairs = [(module, "weight") for module in modules]
    factors = {pair: torch.rand(8) for pair in pairs}
    for options in ({}, {"factor": factors}):
        with mock.patch.object(prune.ops, "topk_prune", wraps=prune.ops.topk_prune) as operator:
            prune.local_unstructured(pairs, prune.L1Unstructured, sparsity=0.5, **options)
            prune.local_unstructured(pairs, prune.L1Unstructured, sparsity=0.75, **options)
        assert operator.call_count == 2
    assert all(int(module.weight_mask.sum()) == 8 for module in modules)


def test_an_order_of_none_is_given() -> None:
    """torch.norm's p may be None, as upstream's n; until torch 2.14, which takes vector_norm."""
    t = torch.randn(3, 4)
    try:
        theirs = upstream.LnStructured(1, None, 0).prune(t)
    except TypeError as error:
        with pytest.raises(TypeError, match=re.escape(str(error))):
            prune.LnStructured(1, None, 0).prune(t)
        return
    assert torch.equal(prune.LnStructured(1, None, 0).prune(t), theirs)
