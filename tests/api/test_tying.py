"""One Parameter in several modules: what upstream prunes without knowing, and what we know."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from fastprune.copying import homes
from fastprune.tying import holders
from support.unchanged import assert_unchanged, snapshot

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def tied(count: int = 2) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Linear(6, 6) for _ in range(count)]
    for layer in layers[1:]:
        layer.weight = layers[0].weight
    return layers


# ---- one module after another ----

METHODS: dict[str, Callable[[Any, nn.Module], Any]] = {
    "identity": lambda p, m: p.identity(m, "weight"),
    "l1": lambda p, m: p.l1_unstructured(m, "weight", 0.25),
    "random": lambda p, m: p.random_unstructured(m, "weight", 0.25),
    "ln": lambda p, m: p.ln_structured(m, "weight", 2, 2, 0),
    "random channels": lambda p, m: p.random_structured(m, "weight", 2, 1),
    "custom": lambda p, m: p.custom_from_mask(m, "weight", torch.ones(6, 6).triu()),
    "importance scores": lambda p, m: p.l1_unstructured(
        m, "weight", 5, importance_scores=torch.arange(36.0).view(6, 6)
    ),
}


@pytest.mark.parametrize("second", METHODS)
@pytest.mark.parametrize("first", METHODS)
def test_the_second_mask_starts_from_the_first(first: str, second: str) -> None:
    a, b = tied()
    alone = nn.Linear(6, 6)
    alone.weight = nn.Parameter(a.weight.detach().clone())
    METHODS[first](prune, a)
    kept = a.weight_mask.clone()
    for library, module in ((prune, b), (upstream, alone)):
        torch.manual_seed(3)  # the second draws what it would draw alone
        METHODS[second](library, module)
    assert torch.equal(b.weight_mask, kept * alone.weight_mask)
    assert torch.equal(b.weight, b.weight_orig * b.weight_mask)
    assert a.weight_orig is b.weight_orig
    assert torch.equal(a.weight_mask, kept)
    b.weight_mask.zero_()  # which is a buffer of its own
    assert torch.equal(a.weight_mask, kept)
    (hook,) = b._forward_pre_hooks.values()
    assert not isinstance(hook, prune.PruningContainer)


def test_a_method_of_a_user_is_given_the_first_mask() -> None:
    shown: list[Any] = []

    class Own(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            shown.append((t.shape, default_mask.clone()))
            default_mask[0] = 0
            return default_mask

    class Largest(prune.Unstructured):
        def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
            shown.append((t.shape, mask))
            return -t.abs()

    a, b, c = tied(3)
    prune.l1_unstructured(a, "weight", 0.5)
    kept = a.weight_mask.clone()
    Own.apply(b, "weight")
    Largest.apply(c, "weight", 6)
    for shape, mask in shown:
        assert shape == (6, 6)
        assert torch.equal(mask, kept)
    assert torch.equal(a.weight_mask, kept)
    assert torch.equal(b.weight_mask[1:], kept[1:])
    assert not b.weight_mask[0].any()
    assert c.weight_mask.sum() == 12  # the largest six are not among the smallest half


def test_pruned_again_under_its_own_module() -> None:
    a, b = tied()
    prune.l1_unstructured(a, "weight", 6)
    prune.l1_unstructured(b, "weight", 6)
    prune.l1_unstructured(b, "weight", 6)
    assert (a.weight_mask.sum(), b.weight_mask.sum()) == (30, 24)
    prune.l1_unstructured(a, "weight", 3)  # by its own mask, as upstream
    assert a.weight_mask.sum() == 27


def test_one_parameter_under_two_names_of_a_module() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key = self.value = nn.Parameter(torch.randn(6, 6))

    module = Twice()
    prune.l1_unstructured(module, "key", 12)
    prune.l1_unstructured(module, "value", 6)
    assert torch.equal(module.key_mask, module.value_mask)
    assert module.key_mask is not module.value_mask


def test_the_mask_may_have_another_dtype_and_require_a_gradient() -> None:
    a, b, c = tied(3)
    prune.l1_unstructured(a, "weight", 12)
    a.weight_mask = a.weight_mask.bool()
    prune.l1_unstructured(b, "weight", 6)
    assert torch.equal(b.weight_mask.bool(), a.weight_mask)
    a.weight_mask = torch.rand(6, 1, requires_grad=True)  # a mask that broadcasts
    prune.identity(c, "weight")
    assert not c.weight_mask.requires_grad
    assert torch.equal(c.weight_mask, a.weight_mask.detach().expand(6, 6))


def by_remove(module: nn.Module) -> None:
    prune.remove(module, "weight")


def with_its_mask(module: nn.Module) -> None:
    del module.weight_mask


def to_another_parameter(module: nn.Module) -> None:
    module.weight_orig = nn.Parameter(torch.randn(6, 6))


@pytest.mark.parametrize(
    "leave",
    [by_remove, with_its_mask, to_another_parameter],
    ids=lambda f: f.__name__,
)
def test_a_mask_that_is_gone(leave: Callable[[nn.Module], None]) -> None:
    a, b = tied()
    prune.l1_unstructured(a, "weight", 18)
    hooks = list(a._forward_pre_hooks.values())
    leave(a)
    prune.identity(b, "weight")
    assert b.weight_mask.all()
    assert hooks  # kept alive until here


def test_a_module_does_not_start_from_a_mask_that_it_has_left() -> None:
    layer = nn.Linear(6, 6)
    prune.l1_unstructured(layer, "weight", 18)
    (hook,) = layer._forward_pre_hooks.values()
    layer._forward_pre_hooks.clear()  # by hand, without the mask
    parameter = layer._parameters.pop("weight_orig")
    layer.weight = parameter
    prune.identity(layer, "weight")
    assert layer.weight_orig is parameter
    assert layer.weight_mask.all()
    assert hook._tensor_name == "weight"  # kept alive until here


def test_a_module_that_is_gone() -> None:
    a, b = tied()
    prune.l1_unstructured(a, "weight", 18)
    hooks = list(a._forward_pre_hooks.values())
    del a
    gc.collect()
    prune.identity(b, "weight")
    assert b.weight_mask.all()
    assert hooks


def test_the_next_holder_counts_when_the_first_is_gone() -> None:
    a, b, c = tied(3)
    prune.l1_unstructured(a, "weight", 6)
    prune.l1_unstructured(b, "weight", 18)
    prune.remove(a, "weight")
    prune.identity(c, "weight")
    assert torch.equal(c.weight_mask, b.weight_mask)


def test_a_copy_is_found_after_its_first_forward() -> None:
    layers = nn.ModuleList(tied())
    prune.l1_unstructured(layers[0], "weight", 18)
    twin = copy.deepcopy(layers)
    twin[0](X)
    twin[0].weight_mask.zero_()
    prune.identity(twin[1], "weight")
    assert twin[0].weight_orig is twin[1].weight_orig
    assert not twin[1].weight_mask.any()
    prune.identity(layers[1], "weight")
    assert torch.equal(layers[1].weight_mask, layers[0].weight_mask)


def test_an_id_that_was_another_parameters() -> None:
    """Entries that are found by chance are of another Parameter, so they are not taken."""
    a, b = nn.Linear(6, 6), nn.Linear(6, 6)
    prune.l1_unstructured(a, "weight", 18)
    key = id(b.weight)
    holders[key] = holders[id(a.weight_orig)]
    try:
        prune.identity(b, "weight")
    finally:
        del holders[key]
    assert b.weight_mask.all()


def test_nothing_is_left_of_thousands_of_prunings() -> None:
    gc.collect()
    before = len(homes), len(holders)
    layers = tied(3)
    parameter = layers[0].weight
    for _ in range(1000):
        for layer in layers:
            prune.identity(layer, "weight")
        prune.identity(layers[1], "weight")
        home, chain = holders[id(parameter)], 0
        while home is not None:
            home, chain = home.older, chain + 1
        assert chain == 3
        for layer in (layers[1], layers[0], layers[2]):
            prune.remove(layer, "weight")
    assert id(parameter) not in holders
    for _ in range(1000):
        prune.identity(nn.Linear(2, 2), "weight")
    del layer, layers
    gc.collect()
    assert len(homes) <= before[0]
    assert len(holders) <= before[1]


def test_a_failure_leaves_both_modules() -> None:
    class Failing(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            default_mask.zero_()
            raise KeyboardInterrupt

    a, b = tied()
    prune.l1_unstructured(a, "weight", 18)
    befores = snapshot(a), snapshot(b)
    with pytest.raises(KeyboardInterrupt):
        Failing.apply(b, "weight")
    assert_unchanged(a, befores[0])
    assert_unchanged(b, befores[1])


# ---- in global_unstructured ----


class Smallest(prune.Unstructured):
    """L1 by scores of one's own."""

    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t.abs()


class Own(upstream.BasePruningMethod):
    """L1, written from scratch."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone(memory_format=torch.contiguous_format)
        mask.view(-1)[t.abs().view(-1).argsort(stable=True)[: self.amount]] = 0
        return mask


GLOBAL = [prune.L1Unstructured, upstream.L1Unstructured, Smallest, Own, prune.RandomUnstructured]


def as_one(method: Any, amount: int, layers: list[nn.Module], **options: Any) -> list[Tensor]:
    """Upstream's masks where each Parameter is listed once."""
    twins = copy.deepcopy(layers)
    name = "RandomUnstructured" if method is prune.RandomUnstructured else "L1Unstructured"
    torch.manual_seed(1)
    pairs = [(twin, "weight") for twin in twins]
    upstream.global_unstructured(pairs, getattr(upstream, name), amount=amount, **options)
    return [twin.weight_mask for twin in twins]


@pytest.mark.parametrize("method", GLOBAL, ids=lambda m: f"{m.__module__}.{m.__name__}")
def test_a_parameter_of_two_modules_counts_once(method: Any) -> None:
    a, b = tied()
    other = nn.Linear(6, 6)
    expected = as_one(method, 20, [a, other])
    torch.manual_seed(1)
    pairs = [(a, "weight"), (b, "weight"), (other, "weight")]
    prune.global_unstructured(pairs, method, amount=20)
    assert torch.equal(a.weight_mask, expected[0])
    assert torch.equal(b.weight_mask, expected[0])
    assert torch.equal(other.weight_mask, expected[1])
    assert a.weight_mask.sum() + other.weight_mask.sum() == 72 - 20
    for layer in (a, b, other):
        assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)
        layer.weight.sum().backward()
    a.weight_mask.zero_()
    assert torch.equal(b.weight_mask, expected[0])


@pytest.mark.parametrize("method", GLOBAL, ids=lambda m: f"{m.__module__}.{m.__name__}")
def test_a_pair_that_is_listed_twice_counts_once(method: Any) -> None:
    layer = nn.Linear(6, 6)
    (expected,) = as_one(method, 12, [layer])
    torch.manual_seed(1)
    prune.global_unstructured([(layer, "weight")] * 3, method, amount=12)
    assert torch.equal(layer.weight_mask, expected)
    (hook,) = layer._forward_pre_hooks.values()
    assert type(hook) is prune.CustomFromMask


@pytest.mark.parametrize("method", GLOBAL[:4], ids=lambda m: f"{m.__module__}.{m.__name__}")
def test_old_masks_of_one_parameter_are_multiplied(method: Any) -> None:
    a, b, c = tied(3)
    upstream.custom_from_mask(a, "weight", torch.ones(6, 6).tril())  # neither knows of the other
    upstream.custom_from_mask(b, "weight", torch.ones(6, 6).triu(-1))
    pairs = [(layer, "weight") for layer in (a, b, c)]
    prune.global_unstructured(pairs, method, amount=4)
    band = torch.ones(6, 6).tril().triu(-1)
    active = (a.weight_orig.abs() * band)[band == 1]
    expected = band * (a.weight_orig.abs() > active.sort().values[3])
    for layer in (a, b, c):
        assert torch.equal(layer.weight_mask, expected)
        assert torch.equal(layer.weight, layer.weight_orig * expected)


@pytest.mark.parametrize("method", GLOBAL[:4], ids=lambda m: f"{m.__module__}.{m.__name__}")
def test_a_mask_of_a_module_that_is_not_listed(method: Any) -> None:
    a, b = tied()
    other = nn.Linear(6, 6)
    prune.custom_from_mask(a, "weight", torch.ones(6, 6).tril())
    expected = as_one(method, 20, [b, other])
    prune.global_unstructured([(b, "weight"), (other, "weight")], method, amount=20)
    assert torch.equal(b.weight_mask, expected[0] * torch.ones(6, 6).tril())
    assert torch.equal(other.weight_mask, expected[1])
    assert torch.equal(b.weight, b.weight_orig * b.weight_mask)


@pytest.mark.parametrize("method", GLOBAL[:4], ids=lambda m: f"{m.__module__}.{m.__name__}")
def test_the_first_importance_scores_of_a_parameter_count(method: Any) -> None:
    a, b, c = tied(3)
    scores = torch.arange(36.0).view(6, 6)
    given = {(b, "weight"): scores, (c, "weight"): scores.flip(0)}
    pairs = [(layer, "weight") for layer in (a, b, c)]
    prune.global_unstructured(pairs, method, given, amount=12)
    for layer in (a, b, c):
        assert torch.equal(layer.weight_mask, (scores >= 12).float())
    with pytest.raises(IndexError, match="same shape as parameter weight"):
        given[c, "weight"] = torch.ones(2)
        prune.global_unstructured(pairs, method, given, amount=12)


def test_an_amount_that_only_the_copies_have() -> None:
    a, b = tied()
    befores = snapshot(a), snapshot(b)
    with pytest.raises(ValueError, match="smaller than the number of parameters to prune=36"):
        prune.global_unstructured([(a, "weight"), (b, "weight")], prune.L1Unstructured, amount=40)
    assert_unchanged(a, befores[0])
    assert_unchanged(b, befores[1])


def test_tied_and_halves() -> None:
    a, b = tied()
    a.half()  # both, as one Parameter is converted in place
    b.half()
    other = nn.Linear(6, 6)
    pairs = [(layer, "weight") for layer in (a, b, other)]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=20)
    assert a.weight_mask.dtype == b.weight_mask.dtype == torch.float16
    assert a.weight_mask.sum() + other.weight_mask.sum() == 52
    assert torch.equal(a.weight_mask, b.weight_mask)
