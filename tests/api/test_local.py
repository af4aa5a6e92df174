"""local_unstructured: what a loop over apply does, at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from support.unchanged import assert_unchanged, snapshot

Pairs = list[tuple[nn.Module, str]]


class Taylor(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t * 3 - 0.1  # of both signs


class Users(upstream.BasePruningMethod):  # type: ignore[misc]
    """With an ``apply`` of its own."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        self.amount = amount

    @classmethod
    def apply(cls, module: nn.Module, name: str, amount: float) -> Any:
        module.counted = getattr(module, "counted", 0) + 1
        return super().apply(module, name, amount=amount)

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[: round(self.amount * t.numel())] = 0
        return mask


class Louder(prune.L1Unstructured):
    def apply_mask(self, module: nn.Module) -> Tensor:
        return 2 * super().apply_mask(module)


def model() -> nn.ModuleList:
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(7, 5), nn.Conv2d(3, 4, 3), nn.Linear(5, 90), nn.LSTM(3, 4)])
    layers[2].double()
    layers.append(nn.Linear(8, 8).to(torch.bfloat16))
    layers.append(nn.Linear(300, 500))
    return layers


def pairs_of(layers: nn.ModuleList) -> Pairs:
    lstm = [(layers[3], "weight_ih_l0"), (layers[3], "bias_hh_l0")]
    others = [(m, "weight") for m in layers if m is not layers[3]]
    return [*others[:2], (layers[0], "bias"), *others[2:], *lstm]


KEPT_MASKS = ("mask", "_fastprune_base")


def state(layers: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in layers.named_modules():
        for key, hook in enumerate(module._forward_pre_hooks.values()):
            methods = list(hook) if isinstance(hook, upstream.PruningContainer) else [hook]
            found[f"{name} hook {key}"] = [
                (type(m), {k: v for k, v in vars(m).items() if k not in KEPT_MASKS})
                for m in methods
            ]
        for key, value in vars(module).items():
            if key == "counted":
                found[f"{name}.{key}"] = value
            if isinstance(value, Tensor):
                found[f"{name}.{key}"] = value.detach().clone()
    found.update(copy.deepcopy(layers.state_dict()))
    return found


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(actual) == list(expected)
    for key, value in expected.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(actual[key], value, rtol=0, atol=0, msg=key)
        else:
            assert actual[key] == value, key


METHODS = [
    prune.L1Unstructured,
    prune.RandomUnstructured,
    Taylor,
    Users,
    Louder,
    upstream.L1Unstructured,
    upstream.RandomUnstructured,
]


def before(form: str, layers: nn.ModuleList) -> None:
    torch.manual_seed(2)
    if form == "in place":
        prune.l1_unstructured(layers[0], "weight", 0.3)
        prune.l1_unstructured(layers[5], "weight", 0.3)
        prune.in_place(layers)
    elif form == "parametrized":
        prune.parametrized(layers[0], "weight", prune.L1Unstructured(0.3))
    elif form == "upstream's":
        upstream.l1_unstructured(layers[0], "weight", 0.3)
        upstream.ln_structured(layers[5], "weight", 0.3, 2, 0)
        upstream.l1_unstructured(layers[5], "weight", 0.3)
    elif form == "repeated":
        for module, name in pairs_of(layers):
            prune.random_unstructured(module, name, 0.2)
    elif form == "not binary":
        for module, name in pairs_of(layers):
            prune.custom_from_mask(module, name, torch.full_like(getattr(module, name), 0.5))
            getattr(module, name + "_mask").view(-1)[::2] = 1


FORMS = ["plain", "in place", "parametrized", "upstream's", "repeated", "not binary"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.__module__[:5]} {m.__name__}")
def test_same_as_a_loop(method: Any, form: str) -> None:
    if form in ("in place", "parametrized") and not issubclass(method, prune.BasePruningMethod):
        pytest.skip("upstream's apply does not know this form")
    expected, actual = model(), model()
    amounts = [0.5, 3, 0.1, 0.9, 0.25, 0.6, 0.3, 0.4]
    if method is Users:
        amounts = [float(a) % 1 for a in amounts]
    for layers in (expected, actual):
        before(form, layers)
    for _ in range(2):
        torch.manual_seed(1)
        for (module, name), amount in zip(pairs_of(expected), amounts, strict=True):
            method.apply(module, name, amount=amount)
        torch.manual_seed(1)
        prune.local_unstructured(pairs_of(actual), method, amounts)
        assert_same(state(actual), state(expected))


@pytest.mark.parametrize("scores_dtype", [None, torch.int64, torch.float64], ids=str)
def test_importance_scores(scores_dtype: torch.dtype | None) -> None:
    expected, actual = model(), model()
    for layers in (expected, actual):
        given = {
            pair: torch.randn(getattr(*pair).shape, generator=torch.Generator().manual_seed(i)).mul(
                9
            )
            for i, pair in enumerate(pairs_of(layers))
            if i % 2
        }
        for pair, score in given.items():
            given[pair] = score.to(scores_dtype or getattr(*pair).dtype)
        if layers is expected:
            for module, name in pairs_of(layers):
                scores = given.get((module, name))
                prune.l1_unstructured(module, name, 0.5, importance_scores=scores)
        else:
            prune.local_unstructured(pairs_of(layers), prune.L1Unstructured, 0.5, given)
    assert_same(state(actual), state(expected))


def test_one_call_of_an_operator() -> None:
    layers = [nn.Linear(10, 10) for _ in range(20)]
    with mock.patch.object(prune.ops, "topk_prune", wraps=prune.ops.topk_prune) as called:
        for _ in range(2):
            prune.local_unstructured([(m, "weight") for m in layers], prune.L1Unstructured, 0.5)
    assert called.call_count == 2


def a_sequence(pairs: Pairs) -> Any:
    return tuple(0.1 * i for i in range(len(pairs)))


def a_mapping(pairs: Pairs) -> Any:
    amounts = {pair: 0.1 * i for i, pair in enumerate(pairs)}
    return {
        **amounts,
        (nn.Linear(1, 1), "weight"): 0.5,
    }  # of a whole model, of which these are some


@pytest.mark.parametrize("amounts", [lambda _: 0.5, lambda _: 3, a_sequence, a_mapping])
def test_amounts(amounts: Callable[[Pairs], Any]) -> None:
    expected, actual = model(), model()
    given = amounts(pairs_of(expected))
    each = list(given.values()) if isinstance(given, dict) else given
    for i, (module, name) in enumerate(pairs_of(expected)):
        prune.l1_unstructured(module, name, each if isinstance(each, (int, float)) else each[i])
    prune.local_unstructured(
        (pair for pair in pairs_of(actual)), prune.L1Unstructured, amounts(pairs_of(actual))
    )
    assert_same(state(actual), state(expected))


def test_a_shared_parameter_is_pruned_once() -> None:
    a, b, other = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)
    b.weight = a.weight
    pairs = [(a, "weight"), (other, "weight"), (b, "weight"), (a, "weight")]
    for zeros in (12, 18):
        prune.local_unstructured(pairs, prune.L1Unstructured, 0.5)
        for module in (a, b, other):
            assert (module.weight_mask == 0).sum() == zeros
        assert torch.equal(a.weight_mask, b.weight_mask)
        assert a.weight_orig is b.weight_orig
        assert a.weight_mask.data_ptr() != b.weight_mask.data_ptr()


def test_a_parameter_that_another_module_has_pruned() -> None:
    expected, actual = ([nn.Linear(6, 4), nn.Linear(6, 4)] for _ in range(2))
    values = torch.randn(4, 6)
    for first, second in (expected, actual):
        first.weight.data.copy_(values)
        second.weight = first.weight
        prune.l1_unstructured(first, "weight", 0.5)
    prune.l1_unstructured(expected[1], "weight", 0.6)
    prune.local_unstructured([(actual[1], "weight")], prune.L1Unstructured, 0.6)
    assert torch.equal(actual[1].weight_mask, expected[1].weight_mask)


def failing(layers: nn.ModuleList) -> Iterator[tuple[dict[str, Any], type[Exception], str]]:
    pairs = pairs_of(layers)
    l1 = prune.L1Unstructured
    yield {"parameters": 3, "pruning_method": l1, "amount": 1}, TypeError, "Iterable"
    plain = {"parameters": pairs, "pruning_method": l1}
    yield {**plain, "amount": [0.5]}, ValueError, "8 parameters, got 1"
    yield {**plain, "amount": dict.fromkeys(pairs[1:], 0.5)}, ValueError, r"weight of Linear\(in.*7"
    yield {**plain, "amount": 1.5}, ValueError, r"amount=1.5"
    yield (
        {**plain, "amount": [0.5] * 7 + [17]},
        ValueError,
        r"amount=17 .*=16, for bias_hh_l0 of LSTM",
    )
    yield {**plain, "amount": [36, *[0.5] * 7]}, ValueError, r"amount=36 .*=35, for weight of Lin"
    structured = {"pruning_method": prune.LnStructured, "n": 2, "dim": 0, "amount": 0.5}
    yield {"parameters": pairs, **structured}, TypeError, "unstructured"
    nothing = [*pairs, (layers[0], "nothing")]
    yield {**plain, "parameters": nothing, "amount": 0.5}, AttributeError, "nothing"
    buffer = [*pairs, (layers[0], "training")]
    yield {**plain, "parameters": buffer, "amount": 0.5}, TypeError, "training"
    scores = {pairs[3]: torch.ones(2, 2)}
    yield {**plain, "amount": 0.5, "importance_scores": scores}, AssertionError, "same shape"


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("form", ["plain", "repeated"])
def test_failures_change_nothing(form: str, number: int) -> None:
    layers = model()
    before(form, layers)
    arguments, error, message = list(failing(layers))[number]
    if form == "repeated" and "amount=3" in message:
        message = r"amount=36 .*=28, for weight of Lin"
    if form == "repeated" and "amount=17" in message:
        message = r"amount=17 .*=13, for bias_hh_l0 of LSTM"
    unchanged = [(m, snapshot(m)) for m in layers.modules()]
    with pytest.raises(error, match=message):
        prune.local_unstructured(**arguments)
    for module, found in unchanged:
        assert_unchanged(module, found)


def test_nothing_to_prune() -> None:
    prune.local_unstructured([], prune.L1Unstructured, 0.5)
    prune.local_unstructured([], prune.L1Unstructured, [])


def test_inside_of_cached() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(layers[0], "weight", 0.25)
    with prune.cached(layers):
        prune.local_unstructured([(m, "weight") for m in layers], prune.L1Unstructured, 0.5)
        out = layers(torch.ones(4))
    assert torch.equal(layers(torch.ones(4)), out)
    assert [(m.weight_mask == 0).sum().item() for m in layers] == [10, 8]
