"""prune.parametrized: the same masks, kept by torch.nn.utils.parametrize."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import fastprune as prune
from support.unchanged import assert_unchanged, snapshot

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


class Taylor(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        assert t.grad is not None
        return (t * t.grad).abs()


class FirstEntries(upstream.BasePruningMethod):
    """A method from scratch, which knows nothing of ours."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, count: int) -> None:
        self.count = count

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[: self.count] = 0
        return mask


METHODS: dict[str, Callable[[], Any]] = {
    "Identity": prune.Identity,
    "L1Unstructured": lambda: prune.L1Unstructured(0.4),
    "L1Unstructured, a number": lambda: prune.L1Unstructured(3),
    "RandomUnstructured": lambda: prune.RandomUnstructured(0.4),
    "LnStructured": lambda: prune.LnStructured(0.5, 2, 0),
    "RandomStructured": lambda: prune.RandomStructured(0.5, 1),
    "CustomFromMask": lambda: prune.CustomFromMask(torch.eye(4, 6)),
    "Taylor": lambda: Taylor(0.4),
    "score=": lambda: prune.Structured(1, 0, score=lambda t, mask: t.sum(1)),
    "upstream.L1Unstructured": lambda: upstream.L1Unstructured(0.4),
    "upstream.LnStructured": lambda: upstream.LnStructured(0.5, 2, 0),
    "from scratch": lambda: FirstEntries(5),
}
every_method = pytest.mark.parametrize("name", METHODS)


def linear() -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    layer(X).square().sum().backward()
    return layer


def hooked(layer: nn.Module, method: Any, scores: Tensor | None = None) -> None:
    """The same method as a forward pre-hook."""
    kind = type("Given", (type(method),), {"__new__": lambda *_: copy.copy(method)})
    apply: Any = prune.BasePruningMethod.apply.__func__  # type: ignore[attr-defined]
    apply(kind, layer, "weight", importance_scores=scores)


def mask_of(layer: nn.Module) -> Tensor:
    return layer.get_buffer("parametrizations.weight.0.mask")


@every_method
@pytest.mark.parametrize("second", [None, *METHODS])
def test_masks_are_those_of_the_hook(name: str, second: str | None) -> None:
    ours, theirs = linear(), linear()
    for step in (name, second):
        if step is not None:
            torch.manual_seed(1)
            assert prune.parametrized(ours, "weight", METHODS[step]()) is ours
            torch.manual_seed(1)
            hooked(theirs, METHODS[step]())
    assert torch.equal(mask_of(ours), theirs.weight_mask)  # type: ignore[arg-type]
    assert mask_of(ours).dtype == theirs.weight_mask.dtype  # type: ignore[union-attr]
    assert torch.equal(ours.weight, theirs.weight)
    for layer in (ours, theirs):
        layer.zero_grad()
        layer(X).square().sum().backward()
    grads = [p.grad for _, p in sorted(ours.named_parameters())]
    expected = [p.grad for _, p in sorted(theirs.named_parameters())]
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_importance_scores(dtype: torch.dtype) -> None:
    scores = torch.rand(4, 6).to(dtype)
    ours, theirs = linear(), linear()
    for amount in (0.3, 4):
        prune.parametrized(ours, "weight", prune.L1Unstructured(amount), importance_scores=scores)
        prune.l1_unstructured(theirs, "weight", amount, importance_scores=scores)
    assert torch.equal(mask_of(ours), theirs.weight_mask)  # type: ignore[arg-type]
    assert mask_of(ours).dtype == theirs.weight_mask.dtype  # type: ignore[union-attr]


def test_keys_and_the_parameter_stay() -> None:
    layer = linear()
    weight = layer.weight
    prune.parametrized(layer, "weight", prune.L1Unstructured(0.5))
    assert layer.parametrizations.weight.original is weight  # type: ignore[union-attr]
    assert list(layer.state_dict()) == [
        "bias",
        "parametrizations.weight.original",
        "parametrizations.weight.0.mask",
    ]
    other = prune.parametrized(nn.Linear(6, 4), "weight", prune.Identity())
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)


def test_the_container_holds_the_methods_and_the_given_one_is_left_alone() -> None:
    layer, first = linear(), prune.L1Unstructured(0.5)
    prune.parametrized(layer, "weight", first)
    prune.parametrized(layer, "bias", first)
    prune.parametrized(layer, "weight", first)
    prune.l1_unstructured(layer, "weight", 2)
    (masked,) = layer.parametrizations.weight  # type: ignore[union-attr]
    assert isinstance(masked.method, prune.PruningContainer)
    assert [type(m) for m in masked.method] == 3 * [prune.L1Unstructured]
    assert vars(first) == {"amount": 0.5}
    assert int((mask_of(layer) == 0).sum()) == 12 + 6 + 2


def test_global_over_both_forms() -> None:
    layers = [linear(), nn.Linear(6, 4), nn.Linear(6, 4)]
    twins = copy.deepcopy(layers)
    prune.parametrized(layers[0], "weight", prune.L1Unstructured(0.2))
    prune.l1_unstructured(twins[0], "weight", 0.2)
    for group in (layers, twins):
        prune.l1_unstructured(group[1], "weight", 0.3)
        for kind in (prune.L1Unstructured, upstream.L1Unstructured):
            pairs = [(layer, "weight") for layer in group]
            prune.global_unstructured(pairs, kind, amount=0.25)
    for ours, theirs in zip(layers, twins, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
    assert not hasattr(layers[0], "weight_mask")
    with torch.enable_grad():
        for layer in layers:
            layer.zero_grad()
            layer(X).square().sum().backward()
    prune.global_unstructured([(layers[0], "weight"), (layers[1], "weight")], Taylor, amount=0.5)


def test_a_failure_leaves_masks_as_they_were() -> None:
    layer = prune.parametrized(linear(), "weight", prune.L1Unstructured(0.5))
    before = [mask_of(layer).clone(), layer.parametrizations.weight[0].method]  # type: ignore[index, union-attr]
    pairs = [(layer, "weight"), (nn.Linear(2, 2), "nothing")]
    with pytest.raises(AttributeError):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=1)

    class Broken(nn.Linear):
        def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune.global_unstructured(
            [(layer, "weight"), (Broken(2, 2), "weight")], prune.L1Unstructured, amount=1
        )
    with pytest.raises(ValueError, match="should be smaller"):
        prune.parametrized(layer, "weight", prune.L1Unstructured(1000))
    with pytest.raises(ValueError, match="should be smaller"):
        prune.parametrized(layer, "bias", prune.L1Unstructured(1000))
    assert not parametrize.is_parametrized(layer, "bias")
    assert torch.equal(mask_of(layer), before[0])
    assert layer.parametrizations.weight[0].method is before[1]  # type: ignore[index, union-attr]


def test_remove() -> None:
    layer = prune.parametrized(linear(), "weight", prune.L1Unstructured(0.5))
    weight = layer.parametrizations.weight.original  # type: ignore[union-attr]
    product = layer.weight.detach().clone()
    assert prune.is_pruned(nn.Sequential(layer))
    assert prune.remove(layer, "weight") is layer
    assert layer.weight is weight
    assert torch.equal(layer.weight, product)
    assert type(layer) is nn.Linear
    assert not prune.is_pruned(layer)
    with pytest.raises(ValueError, match="has to be pruned"):
        prune.remove(layer, "weight")


def test_beside_another_parametrization() -> None:
    layer = parametrizations.weight_norm(linear())
    value = layer.weight.detach().clone()
    prune.parametrized(layer, "weight", prune.L1Unstructured(0.5))
    expected = prune.L1Unstructured(0.5).prune(value)
    assert torch.equal(layer.weight, expected)
    prune.parametrized(layer, "weight", prune.L1Unstructured(0.5))
    assert int((layer.weight == 0).sum()) == 18
    message = r"other parametrizations than its mask, \['_WeightNorm'\]"
    with pytest.raises(RuntimeError, match=message):
        prune.remove(layer, "weight")
    assert prune.is_pruned(layer)
    parametrize.remove_parametrizations(layer, "weight")
    assert int((layer.weight == 0).sum()) == 18


def test_cached_makes_one_product() -> None:
    layer = prune.parametrized(linear(), "weight", prune.L1Unstructured(0.5))
    assert layer.weight is not layer.weight
    with parametrize.cached():
        assert layer.weight is layer.weight
        layer(X)
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(2)  # type: ignore[union-attr, operator]
    assert torch.equal(layer.weight, layer.parametrizations.weight())  # type: ignore[union-attr, operator]


def test_assignment_goes_to_the_original() -> None:
    layer = prune.parametrized(linear(), "weight", prune.L1Unstructured(0.5))
    given = torch.rand(4, 6) + 1
    with torch.no_grad():
        layer.weight = given  # type: ignore[assignment]
    assert torch.equal(layer.parametrizations.weight.original, given)  # type: ignore[union-attr]
    assert torch.equal(layer.weight, given * mask_of(layer))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_copied_and_moved(backend: str) -> None:
    layer = prune.parametrized(linear(), "weight", prune.L1Unstructured(0.5))
    expected = layer(X)
    assert torch.equal(torch.compile(layer, backend=backend, fullgraph=True)(X), expected)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(X), expected)
    prune.parametrized(twin, "weight", prune.L1Unstructured(0.5))
    assert torch.equal(layer(X), expected)
    assert not torch.equal(twin(X), expected)
    assert twin.double()(X.double()).dtype == torch.float64


def test_attention_and_rnns() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2)
    rnn = nn.LSTM(6, 4)
    cases: list[tuple[nn.Module, nn.Module, str]] = [
        (attention, attention.out_proj, "weight"),
        (attention, attention, "in_proj_weight"),
        (rnn, rnn, "weight_ih_l0"),
        (rnn, rnn, "weight_hh_l0"),
    ]
    for _, module, name in cases:
        prune.parametrized(module, name, prune.L1Unstructured(0.5))
    optimizer = torch.optim.SGD([*attention.parameters(), *rnn.parameters()], 0.1)
    for _ in range(2):
        loss = attention(X, X, X)[0].square().sum() + rnn(X)[0].square().sum()
        loss.backward()
        optimizer.step()
    outputs = attention(X, X, X)[0], rnn(X)[0]
    for _, module, name in cases:
        assert int((getattr(module, name) == 0).sum()) == getattr(module, name).numel() // 2
        prune.remove(module, name)
    torch.testing.assert_close(attention(X, X, X)[0], outputs[0])
    torch.testing.assert_close(rnn(X)[0], outputs[1])


def test_errors() -> None:
    layer = linear()
    before = snapshot(layer)
    wrong: list[tuple[type[Exception], str, str, Any, Any]] = [
        (AttributeError, "nothing", "no attribute 'nothing'", prune.Identity(), None),
        (TypeError, "weight", "an instance of BasePruningMethod", prune.Identity, None),
        (TypeError, "in_features", "to be a Parameter, got int", prune.Identity(), None),
        (AssertionError, "weight", "same shape", prune.Identity(), torch.ones(6, 4)),
        (AssertionError, "weight", "must match", prune.CustomFromMask(torch.ones(3)), None),
    ]
    for kind, name, message, method, scores in wrong:
        with pytest.raises(kind, match=message):
            prune.parametrized(layer, name, method, importance_scores=scores)
        assert_unchanged(layer, before)
    assert type(layer) is nn.Linear
    prune.l1_unstructured(layer, "weight", 0.5)
    with pytest.raises(TypeError, match="pruned by a hook"):
        prune.parametrized(layer, "weight", prune.Identity())


def test_dense_state_dict() -> None:
    layer = prune.parametrized(linear(), "weight", prune.L1Unstructured(0.5))
    dense = prune.dense_state_dict(layer)
    fresh = nn.Linear(6, 4)
    fresh.load_state_dict(dense)
    assert torch.equal(fresh(X), layer(X))
    both = parametrizations.weight_norm(nn.Linear(6, 4))
    prune.parametrized(both, "weight", prune.L1Unstructured(0.5))
    with pytest.raises(RuntimeError, match="other parametrizations than its mask"):
        prune.dense_state_dict(both)
