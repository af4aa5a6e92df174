"""Unstructured and Structured: methods that only say how important each entry or channel is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support.inputs import FLOATS, name
from support.unchanged import assert_unchanged, snapshot


class Taylor(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return (t * t.grad).abs()


class TaylorChannels(prune.Structured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        scores = (t * t.grad).abs()
        if mask is not None:
            scores = scores * mask
        return scores.transpose(0, self.dim).flatten(1).sum(1)


def itself(t: Tensor, mask: Tensor | None) -> Tensor:
    return t


def lowest(scores: Tensor, count: int, active: Tensor | None = None) -> Tensor:
    """The mask by definition: a stable sort of the values, NaN last."""
    flat = scores.detach().double().flatten()
    places = torch.arange(len(flat)) if active is None else active.flatten().nonzero().flatten()
    mask = torch.ones(len(flat)) if active is None else active.flatten().float()
    mask[places[flat[places].argsort(stable=True)[:count]]] = 0
    return mask.view(scores.shape)


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return step(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to(dtype))


def step(net: nn.Sequential) -> nn.Sequential:
    net.zero_grad()
    x = torch.randn(5, 8, dtype=net[0].bias.dtype)
    net(x).square().sum().backward()
    return net


def taylor(layer: nn.Module) -> Tensor:
    t = getattr(layer, "weight_orig", layer.weight)
    return (t * t.grad).abs().detach()


def test_apply_and_again() -> None:
    net = model()
    layer = net[0]
    expected = lowest(taylor(layer), 64)
    hook = Taylor.apply(layer, "weight", 0.5)
    assert isinstance(hook, Taylor)
    assert isinstance(hook, upstream.BasePruningMethod)
    assert torch.equal(layer.weight_mask, expected)
    assert torch.equal(layer.weight, layer.weight_orig * expected)
    step(net)
    # The gradient is that of weight_orig; only what is left is ranked.
    expected = lowest(taylor(layer), 32, active=layer.weight_mask == 1)
    container = Taylor.apply(layer, "weight", amount=0.5)
    assert isinstance(container, prune.PruningContainer)
    assert torch.equal(layer.weight_mask, expected)
    prune.remove(layer, "weight")
    assert "weight" in dict(layer.named_parameters())


def test_global_and_again() -> None:
    net = model()
    layers = [net[0], net[2]]
    pairs = [(layer, "weight") for layer in layers]
    flat = torch.cat([taylor(layer).flatten() for layer in layers])
    prune.global_unstructured(pairs, Taylor, amount=0.25)
    masks = torch.cat([layer.weight_mask.flatten() for layer in layers])
    assert torch.equal(masks, lowest(flat, 48))
    step(net)
    flat = torch.cat([taylor(layer).flatten() for layer in layers])
    prune.global_unstructured(pairs, Taylor, amount=0.25)
    assert torch.equal(
        torch.cat([layer.weight_mask.flatten() for layer in layers]),
        lowest(flat, 36, active=masks == 1),
    )


def test_global_over_two_dtypes() -> None:
    net = model()
    net[2].double()
    for layer in (net[0], net[2]):
        layer.weight.grad = torch.randn_like(layer.weight)
    flat = torch.cat([taylor(layer).double().flatten() for layer in (net[0], net[2])])
    prune.global_unstructured([(net[0], "weight"), (net[2], "weight")], Taylor, amount=0.5)
    masks = [net[0].weight_mask, net[2].weight_mask]
    assert [mask.dtype for mask in masks] == [torch.float32, torch.float64]
    assert torch.equal(torch.cat([m.flatten().float() for m in masks]), lowest(flat, 96))


def test_global_of_a_pair_twice() -> None:
    layer = model()[0]
    expected = lowest(torch.cat([taylor(layer)] * 2), 64)
    prune.global_unstructured([(layer, "weight")] * 2, Taylor, amount=0.25)
    assert torch.equal(layer.weight_mask, expected[:16] * expected[16:])


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("amount", [0, 1, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shift", [-9.0, -0.5, 0.0, 0.5, 9.0])
def test_ranked_by_value(dtype: torch.dtype, amount: float, shift: float) -> None:
    """-1 goes before 0, as among values, not magnitudes; equal values by the lowest index."""
    t = (torch.randn(37, 11) * 2).round().add(shift).to(dtype)
    t[0, :4] = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0])
    method = prune.Unstructured(amount, score=itself)
    count = amount if isinstance(amount, int) else round(amount * t.numel())
    expected = lowest(t, count)
    mask = method.compute_mask(t, torch.ones_like(t))
    assert mask.dtype == dtype
    assert torch.equal(mask.float(), expected)
    old = (torch.rand(37, 11) < 0.5).to(dtype)
    active = old == 1
    inside = prune.PruningContainer(named(method)).compute_mask(t, old)
    count = amount if isinstance(amount, int) else round(amount * int(active.sum()))
    assert torch.equal(inside.float(), lowest(t, count, active))


def named(method: Any) -> Any:
    method._tensor_name = "weight"
    return method


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_structured_and_again(dim: int) -> None:
    net = model()
    layer = net[0]
    size = layer.weight.shape[dim]
    for count in (size // 2, size // 4):
        t = getattr(layer, "weight_orig", layer.weight).detach()
        mask = getattr(layer, "weight_mask", torch.ones_like(t))
        scores = (taylor(layer) * mask).sum(1 - dim % 2)
        scores = scores.masked_fill(mask.sum(1 - dim % 2) == 0, torch.inf)
        gone = scores.argsort(stable=True)[:count]
        expected = mask.index_fill(dim, gone, 0)
        TaylorChannels.apply(layer, "weight", count, dim=dim)
        assert torch.equal(layer.weight_mask, expected)
        assert torch.equal(layer.weight, layer.weight_orig * expected)
        step(net)


def test_structured_ranks_by_value() -> None:
    scores = torch.tensor([3.0, -1.0, 0.0, -5.0, -1.0, torch.nan])
    method = prune.Structured(3, dim=0, score=lambda t, mask: scores)
    mask = method.compute_mask(torch.randn(6, 4), torch.ones(6, 4))
    assert mask[:, 0].tolist() == [1, 0, 1, 0, 0, 1]


def test_one_score_serves_every_pattern() -> None:
    def squares(t: Tensor, mask: Tensor | None) -> Tensor:
        return t.square()

    def rows(t: Tensor, mask: Tensor | None) -> Tensor:
        return squares(t, mask).sum(1)

    a, b = model()[0], model()[2]
    prune.Unstructured.apply(a, "weight", 3, score=squares)
    assert torch.equal(a.weight_mask, lowest(a.weight_orig.square(), 3))
    prune.Structured.apply(b, "weight", 1, dim=0, score=rows)
    lowest_row = int(b.weight_orig.square().sum(1).argmin())
    assert b.weight_mask.sum(1).eq(0).nonzero().flatten().tolist() == [lowest_row]
    a, b = model()[0], model()[2]
    pairs = [(a, "weight"), (b, "weight")]
    prune.global_unstructured(pairs, prune.Unstructured, amount=9, score=squares)
    flat = torch.cat([a.weight_orig.flatten(), b.weight_orig.flatten()])
    masks = torch.cat([a.weight_mask.flatten(), b.weight_mask.flatten()])
    assert torch.equal(masks, lowest(flat.square(), 9))


def test_importance_scores_take_the_place_of_the_parameter() -> None:
    layer = model()[0]
    given = torch.randn(16, 8)
    prune.Unstructured.apply(layer, "weight", 20, score=itself, importance_scores=given)
    assert torch.equal(layer.weight_mask, lowest(given, 20))
    pruned = prune.Unstructured(5, score=itself).prune(layer.weight_orig, None, given)
    assert torch.equal(pruned, layer.weight_orig * lowest(given, 5))


def test_scores_of_another_dtype() -> None:
    net = model(torch.bfloat16)
    layer = net[0]
    prune.Unstructured.apply(layer, "weight", 40, score=lambda t, mask: t.double() * 2)
    assert layer.weight_mask.dtype == layer.weight.dtype == torch.bfloat16
    assert torch.equal(layer.weight_mask.float(), lowest(layer.weight_orig, 40))
    prune.Unstructured.apply(net[2], "weight", 9, score=lambda t, mask: (t * 50).long())
    assert torch.equal(net[2].weight_mask.float(), lowest((net[2].weight_orig * 50).long(), 9))


def test_scores_record_no_graph_and_see_the_old_mask() -> None:
    seen: list[Any] = []

    def score(t: Tensor, mask: Tensor | None) -> Tensor:
        seen.append((t, mask, torch.is_grad_enabled()))
        return t * 1

    layer = nn.Linear(4, 3)
    weight = layer.weight
    prune.Unstructured.apply(layer, "weight", 2, score=score)
    first = layer.weight_mask
    prune.Unstructured.apply(layer, "weight", 2, score=score)
    assert seen[0][0] is weight
    assert seen[1][0] is weight
    assert seen[0][1] is None
    assert torch.equal(seen[1][1], first)
    assert [grad for _, _, grad in seen] == [False, False]
    assert not layer.weight_mask.requires_grad


def test_tensors_that_the_operators_do_not_take() -> None:
    """There a stable sort decides, and gives the same masks."""

    class Sub(Tensor):
        pass

    t = torch.randn(12, 5).round()
    old = (torch.rand(12, 5) < 0.6).float()
    method = named(prune.Unstructured(0.5, score=itself))
    channels = named(prune.Structured(0.5, dim=0, score=lambda t, mask: t.sum(1).round()))
    for m in (method, channels):
        plain = m.compute_mask(t, torch.ones(12, 5))
        assert torch.equal(m.compute_mask(t.as_subclass(Sub), torch.ones(12, 5)), plain)
        inside = prune.PruningContainer(m)
        assert torch.equal(
            inside.compute_mask(t.as_subclass(Sub), old), inside.compute_mask(t, old)
        )


def test_copies_and_pickles() -> None:
    net = model()
    x = torch.randn(5, 8)
    Taylor.apply(net[0], "weight", 0.5)
    prune.Unstructured.apply(net[2], "weight", 0.5, score=itself)
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


class GradAlone(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t.grad.abs()


class NotATensor(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Any:
        return t.tolist()


class OneNumberARow(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t.sum(1)


class OneNumberAnEntry(prune.Structured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t


class Complex(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return torch.complex(t, t)


class Elsewhere(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t.to("meta")


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        (Taylor, TypeError, r"Taylor.scores\(\) failed: .* \(t.grad is None: a score"),
        (GradAlone, AttributeError, r"GradAlone.scores\(\) failed: .* \(t.grad is None: a score"),
        (NotATensor, TypeError, r"NotATensor.scores\(\) should return a Tensor, got list"),
        (OneNumberARow, AssertionError, r"shape \[16, 8\] for one of shape \[16, 8\], got \[16\]"),
        (OneNumberAnEntry, AssertionError, r"\(dim=-1\).scores\(\) should .* \[8\] for one of"),
        (Complex, TypeError, "should return real numbers, got torch.complex64"),
        (Elsewhere, RuntimeError, "on the device of its argument, cpu, got meta"),
        (prune.Unstructured, TypeError, r"Unstructured\(\) needs score=, or a subclass that"),
        (prune.Structured, TypeError, r"Structured\(\) needs score=, or a subclass that"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_errors(method: Any, error: type[Exception], said: str) -> None:
    layer = nn.Linear(8, 16)
    before = snapshot(layer)
    with pytest.raises(error, match=said):
        method.apply(layer, "weight", 0.5)
    assert_unchanged(layer, before)


@pytest.mark.parametrize("amount", [129, -1, 1.5, "half"])
def test_amounts_out_of_range(amount: Any) -> None:
    layer = model()[0]
    before = snapshot(layer)
    for method in (Taylor, TaylorChannels):
        with pytest.raises((ValueError, TypeError)) as ours:
            method.apply(layer, "weight", amount)
        with pytest.raises(ours.type):
            upstream.l1_unstructured(nn.Linear(8, 16), "weight", amount)
        assert_unchanged(layer, before)


def test_names_of_the_protocol_in_classes_that_know_upstream_alone() -> None:
    """A subclass of L1Unstructured may mean anything by ``scores``: its masks stay upstream's."""

    def own(base: type) -> type:
        class Own(base):  # type: ignore[misc]
            pattern = "2:4"
            rank = 3

            def __init__(self, amount: float) -> None:
                super().__init__(amount)
                self.select = "all"

            def scores(self) -> str:
                return "mine"

            def accepts(self, anything: object) -> bool:
                return True

        return Own

    results = []
    for library in (prune, upstream):
        torch.manual_seed(1)
        layer = nn.Linear(8, 16)
        method = own(library.L1Unstructured)
        method.apply(layer, "weight", 0.5)
        method.apply(layer, "weight", 0.5)
        library.global_unstructured([(layer, "weight")], method, amount=0.5)
        (hook,) = layer._forward_pre_hooks.values()
        assert hook[0].scores() == "mine"
        results.append(layer.weight_mask)
    assert torch.equal(*results)
