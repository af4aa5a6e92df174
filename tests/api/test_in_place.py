"""prune.in_place: pruned entries stay zero in training, and the form is kept and undone."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import fastprune as prune
from fastprune.packing import unpacked
from support.unchanged import assert_unchanged, snapshot

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
SHAPE_OF = {"0.weight": (9, 6), "2.weight": (4, 9), "0.bias": (9,)}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4))
    prune.l1_unstructured(layers[0], "weight", 0.5)
    prune.random_unstructured(layers[0], "bias", 3)
    prune.ln_structured(layers[2], "weight", 1, 2, 0)
    prune.l1_unstructured(layers[2], "weight", 0.4)
    return layers


def masks(layers: nn.Module) -> dict[str, Tensor]:
    """Of either form, as bool."""
    found = {}
    for name, buffer in layers.named_buffers():
        key = name.removesuffix("_mask")
        packed = buffer.dtype == torch.uint8
        found[key] = unpacked(buffer, SHAPE_OF[key]) if packed else buffer != 0
    return found


def loss_of(layers: nn.Module, x: Tensor = X) -> Tensor:
    out: Tensor = layers(x)
    return (out - 1).square().sum()


def step(layers: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss = loss_of(layers)
    loss.backward()
    optimizer.step()
    return loss.detach()


def assert_zero(layers: nn.Module) -> None:
    kept = masks(layers)
    assert kept
    for name, mask in kept.items():
        value = layers.get_parameter(name)
        assert not value[~mask].any(), name
        assert value[mask].any(), name


FORMS: list[dict[str, Any]] = [
    {},
    {"mask_dtype": "bits"},
    {"persistent": False},
    {"mask_dtype": "bits", "persistent": False},
]
every_form = pytest.mark.parametrize("form", FORMS, ids=str)


@every_form
def test_losses_are_those_of_the_ordinary_form(form: dict[str, Any]) -> None:
    ordinary, ours = model(), model()
    parameters = [p for _, p in sorted(ours.named_parameters())]
    optimizers = [torch.optim.SGD(m.parameters(), 0.01) for m in (ordinary, ours)]
    assert prune.in_place(ours, optimizers[1], **form) is ours
    for _ in range(20):
        assert torch.equal(step(ours, optimizers[1]), step(ordinary, optimizers[0]))
    assert_zero(ours)
    for name, mask in masks(ordinary).items():
        orig = ordinary.get_parameter(name + "_orig")
        assert torch.equal(ours.get_parameter(name)[mask], orig[mask])
    assert {id(p) for p in parameters} == {id(p) for p in ours.parameters()}


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "SGD, foreach": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, foreach=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.05, amsgrad=True, weight_decay=0.1),
    "Adam, fused": lambda p: torch.optim.Adam(p, 0.05, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.05),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, 0.05, foreach=True),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 1.0),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.05),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.05),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.05),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.05),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.05),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.05, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.05),
    "one of a user's": lambda p: Mixing(p),
}


class Mixing(torch.optim.Optimizer):
    """Moves every entry of a parameter by the mean of its gradients."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p -= 0.01 * p.grad.mean()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("mask_dtype", [torch.bool, "bits"])
def test_pruned_entries_stay_zero(name: str, mask_dtype: Any) -> None:
    layers = model()
    optimizer = OPTIMIZERS[name](layers.parameters())
    for _ in range(2):  # which leaves momentum at entries that are pruned
        step(layers, optimizer)
    for p in optimizer.state:
        for value in optimizer.state[p].values():
            if isinstance(value, Tensor) and value.shape == p.shape:
                value.add_(0.1)
    prune.in_place(layers, optimizer, mask_dtype=mask_dtype)
    assert_zero(layers)
    before = {n: p.detach().clone() for n, p in layers.named_parameters()}
    for _ in range(3):
        step(layers, optimizer)
        assert_zero(layers)
    for n, p in layers.named_parameters():
        assert not torch.equal(p, before[n])


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_an_optimizer_that_mixes_entries() -> None:
    layer = prune.l1_unstructured(nn.Linear(6, 9, bias=False), "weight", 0.5)
    optimizer = torch.optim.Muon(layer.parameters(), 0.05)
    prune.in_place(layer, optimizer)
    for _ in range(2):
        step(layer, optimizer)
        assert_zero(layer)


def test_a_closure() -> None:
    layers = model()
    optimizer = torch.optim.LBFGS(layers.parameters(), 0.1)
    prune.in_place(layers, optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(layers)
        loss.backward()
        return loss

    first = optimizer.step(closure)  # type: ignore[arg-type]
    assert optimizer.step(closure=closure) < first  # type: ignore[arg-type, operator]
    assert_zero(layers)


@every_form
def test_without_an_optimizer(form: dict[str, Any]) -> None:
    layers = prune.in_place(model(), **form)
    for x in (X, 2 * X):
        loss_of(layers, x).backward()
    for name, mask in masks(layers).items():
        grad = layers.get_parameter(name).grad
        assert grad is not None
        assert not grad[~mask].any()
        assert grad[mask].any()
    optimizer = torch.optim.SGD(layers.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    prune.in_place(layers, optimizer)  # which takes over
    layers.zero_grad()
    loss_of(layers).backward()
    assert any(layers.get_parameter(n).grad[~m].any() for n, m in masks(layers).items())  # type: ignore[index]
    optimizer.step()
    assert_zero(layers)


def test_called_again() -> None:
    layers = model()
    optimizer = torch.optim.SGD(layers.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        prune.in_place(layers, optimizer)
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == 1
    assert len(layers[0]._load_state_dict_post_hooks) == 1
    prune.l1_unstructured(layers[2], "bias", 0.5)
    assert hasattr(layers[2], "bias_orig")
    prune.in_place(layers, optimizer)
    SHAPE_OF["2.bias"] = (4,)
    assert "2.bias" in masks(layers)
    for _ in range(2):
        step(layers, optimizer)
    assert_zero(layers)


def test_gradients_that_overflow_and_clipping() -> None:
    layers = model()
    optimizer = torch.optim.SGD(layers.parameters(), 0.1)
    prune.in_place(layers, optimizer)
    loss_of(layers).backward()
    kept = masks(layers)
    for name, mask in kept.items():
        grad = layers.get_parameter(name).grad
        assert grad is not None
        grad[~mask] = torch.inf
    prune.mask_gradients(layers)
    norm = torch.nn.utils.clip_grad_norm_(layers.parameters(), 1.0)
    assert norm.isfinite()
    optimizer.step()
    assert_zero(layers)
    assert all(p.isfinite().all() for p in layers.parameters())


def test_gradient_scaler_accumulation_and_checkpointing() -> None:
    layers = model()
    optimizer = torch.optim.AdamW(layers.parameters(), 0.05)
    prune.in_place(layers, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(2):
        optimizer.zero_grad()
        for x in (X, 2 * X):
            out = checkpoint(layers, x, use_reentrant=False)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = (out - 1).square().sum() + layers(x).float().square().sum()
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(layers.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert_zero(layers)


@every_form
def test_pruning_again_keeps_the_form(form: dict[str, Any]) -> None:
    ours, ordinary = model(), model()
    optimizer = torch.optim.SGD(ours.parameters(), 0.1, momentum=0.9)
    step(ours, optimizer)
    ordinary.load_state_dict(ours.state_dict())
    ordinary(X)  # which makes the products that are ranked
    prune.in_place(ours, optimizer, **form)
    keys = list(ours.state_dict())
    for layers in (ours, ordinary):
        torch.manual_seed(2)
        prune.l1_unstructured(layers[0], "weight", 0.3)
        prune.random_unstructured(layers[0], "weight", 3)
        prune.ln_structured(layers[2], "weight", 1, 2, 0)
        prune.l1_unstructured(layers[0], "bias", 1, importance_scores=torch.arange(9.0))
        pairs = [(layers[0], "weight"), (layers[2], "weight")]
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.2)
    assert list(ours.state_dict()) == keys
    assert prune.is_pruned(ours)
    theirs = masks(ordinary)
    for name, mask in masks(ours).items():
        assert torch.equal(mask, theirs[name]), name
    assert_zero(ours)
    for name, mask in masks(ours).items():
        buffer = optimizer.state[ours.get_parameter(name)]["momentum_buffer"]
        assert not buffer[~mask].any()
    step(ours, optimizer)
    assert_zero(ours)


def test_a_method_with_scores_of_its_own() -> None:
    class Taylor(prune.Unstructured):
        def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
            assert t.grad is not None
            return (t * t.grad).abs()

    layers = prune.in_place(model())
    loss_of(layers).backward()
    before = int(masks(layers)["0.weight"].sum())
    Taylor.apply(layers[0], "weight", 5)
    assert int(masks(layers)["0.weight"].sum()) == before - 5
    assert_zero(layers)


@every_form
def test_restore(form: dict[str, Any]) -> None:
    layers, ordinary = model(), model()
    parameters = {id(p) for p in layers.parameters()}
    hooks = [list(m._forward_pre_hooks.values()) for m in layers.modules()]
    optimizer = torch.optim.SGD(layers.parameters(), 0.1)
    prune.in_place(layers, optimizer, **form)
    assert [len(m._forward_pre_hooks) for m in layers.modules()] == [0] * 4
    assert prune.restore(layers) is layers
    assert set(layers.state_dict()) == set(ordinary.state_dict())
    assert [list(m._forward_pre_hooks.values()) for m in layers.modules()] == hooks
    assert {id(p) for p in layers.parameters()} == parameters
    for name, mask in ordinary.named_buffers():
        assert torch.equal(layers.get_buffer(name), mask)
        assert layers.get_buffer(name).dtype == mask.dtype
    assert torch.equal(layers(X), ordinary(X))
    step(layers, optimizer)
    assert not layers[0]._load_state_dict_post_hooks
    prune.l1_unstructured(layers[0], "weight", 2)
    prune.remove(layers[0], "weight")
    prune.restore(layers)


def test_remove() -> None:
    layers = prune.in_place(model())
    weight = layers[0].weight
    value = weight.detach().clone()
    for layer, name in [(layers[0], "weight"), (layers[0], "bias"), (layers[2], "weight")]:
        prune.remove(layer, name)
    assert not prune.is_pruned(layers)
    assert layers[0].weight is weight
    assert torch.equal(weight, value)
    assert set(layers.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    loss_of(layers).backward()
    assert (weight.grad != 0).all()
    assert not layers[0]._load_state_dict_post_hooks


def test_state_dicts() -> None:
    layers, other = prune.in_place(model()), prune.in_place(model())
    with torch.no_grad():
        for p in layers.parameters():
            p.mul_(2)
    other.load_state_dict(layers.state_dict())
    assert torch.equal(other(X), layers(X))
    dense = {n: torch.ones_like(p) for n, p in layers.named_parameters()}
    layers.load_state_dict(dense, strict=False)
    assert_zero(layers)
    hidden = prune.in_place(model(), persistent=False)
    assert set(hidden.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert hidden[0].weight_mask.dtype == torch.bool
    bits = prune.in_place(model(), mask_dtype="bits")
    assert bits[0].weight_mask.shape == (9, 1)
    assert bits[0].weight_mask.dtype == torch.uint8


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(how: Callable[[Any], Any]) -> None:
    layers = model()
    optimizer = torch.optim.SGD(layers.parameters(), 0.1, weight_decay=0.1)
    prune.in_place(layers, optimizer)
    twin = how(layers)
    assert prune.is_pruned(twin)
    own = torch.optim.AdamW(twin.parameters())
    prune.in_place(twin, own)
    for _ in range(2):
        step(twin, own)
    assert_zero(twin)
    prune.l1_unstructured(twin[0], "weight", 3)
    assert_zero(twin)
    assert_zero(layers)
    prune.restore(twin)
    assert set(twin.state_dict()) == set(model().state_dict())
    twin.double()
    assert layers.double()(X.double()).dtype == torch.float64
    assert_zero(layers)


class CopiedByItsDict(nn.Linear):
    """As fx's GraphModule is pickled: what it holds is there before it."""

    def __reduce__(self) -> Any:
        return with_dict, (type(self), self.__dict__)


def with_dict(kind: type[nn.Module], attributes: dict[str, Any]) -> nn.Module:
    module = kind.__new__(kind)
    module.__dict__.update(attributes)
    return module


def through_a_file(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def without_an_optimizer(layers: nn.Module) -> None:
    loss_of(layers).backward()
    with torch.no_grad():
        for p in layers.parameters():
            p.sub_(0.1 * p.grad)  # type: ignore[operator]


@pytest.mark.parametrize("how", [copy.deepcopy, through_a_file])
@pytest.mark.parametrize("given", [True, False])
@every_form
def test_a_copy_is_kept_pruned(
    how: Callable[[Any], Any], given: bool, form: dict[str, Any]
) -> None:
    layers = model()
    optimizer = torch.optim.AdamW(layers.parameters())
    prune.in_place(layers, optimizer if given else None, **form)
    step(layers, optimizer)
    twin = how(how(layers))
    step(twin, torch.optim.AdamW(twin.parameters()))
    assert_zero(twin)
    twin = how(layers)
    without_an_optimizer(twin)
    assert_zero(twin)
    twin.load_state_dict({n: p + 1 for n, p in twin.named_parameters()}, strict=False)
    assert_zero(twin)
    together, own = how((layers, optimizer))  # with momentum of entries that are pruned now
    prune.l1_unstructured(together[0], "weight", 0.5)
    for _ in range(2):
        step(together, own)
    assert_zero(together)


def test_a_copy_of_an_rnn_is_kept_pruned() -> None:
    rnn = prune.in_place(prune.l1_unstructured(nn.LSTM(6, 4), "weight_ih_l0", 0.5))
    twin = pickle.loads(pickle.dumps(nn.Sequential(rnn)))[0]
    twin(X)[0].sum().backward()
    weight = twin.weight_ih_l0
    assert int((weight == 0).sum()) == weight.numel() // 2
    assert not weight.grad[weight == 0].any()
    assert weight.grad.any()


class Hashed(nn.Linear):
    def __hash__(self) -> int:
        return hash(self.in_features)


class Lean(nn.Linear):
    """Pickled without its weight."""

    def __getstate__(self) -> Any:
        return {**self.__dict__, "_parameters": {}}


COPIES = [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_may_become_anything(how: Callable[[Any], Any]) -> None:
    layers = prune.in_place(model())
    optimizer = torch.optim.AdamW(layers.parameters())
    changed, quantized, gone = how(layers), how(layers), how(layers)
    parametrizations.weight_norm(changed[0])
    quantized[0].weight = nn.Parameter(torch.ones(9, 6, dtype=torch.int8), requires_grad=False)
    gone[0].weight = None
    step(layers, optimizer)
    assert_zero(layers)
    for twin in (changed, quantized, gone):
        again = copy.deepcopy(twin) if twin is changed else how(twin)  # torch pickles none of them
        assert type(again[0]) is type(twin[0])
        step(layers, optimizer)
    assert_zero(layers)


@pytest.mark.parametrize("how", COPIES)
def test_after_in_place_a_copy_is_as_the_original(how: Callable[[Any], Any]) -> None:
    layer = prune.in_place(half_pruned())
    twin = copy.copy(layer)
    twin._parameters = {n: nn.Parameter(p.detach().clone()) for n, p in layer._parameters.items()}
    twin._buffers = dict(layer._buffers)
    prune.in_place(twin)
    again = how(twin)
    assert revived(again, torch.optim.AdamW(again.parameters())) == 0
    assert again.weight is not twin.weight and twin.weight is not layer.weight


def test_what_getstate_leaves_out_is_left_out() -> None:
    layer = prune.in_place(prune.l1_unstructured(Lean(64, 64), "weight", 0.5))
    assert len(pickle.dumps(layer)) < 64 * 64 * 2
    twin = pickle.loads(pickle.dumps(layer))
    twin._parameters = {n: nn.Parameter(p.detach().clone()) for n, p in layer._parameters.items()}
    assert torch.equal(twin.weight, layer.weight)
    optimizer = torch.optim.AdamW(twin.parameters())
    twin(torch.ones(2, 64)).square().sum().backward()
    optimizer.step()
    assert not twin.weight[~twin.weight_mask].any()


def test_a_copy_with_a_hash_of_its_own() -> None:
    layer = prune.in_place(prune.l1_unstructured(Hashed(6, 4), "weight", 0.5))
    with pytest.warns(UserWarning, match="call fastprune.in_place for the copy"):
        twin = copy.deepcopy(layer)
    assert torch.equal(twin(X), layer(X))


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_that_cannot_be_watched_says_so(how: Callable[[Any], Any]) -> None:
    layer = CopiedByItsDict(6, 4)
    prune.in_place(prune.l1_unstructured(layer, "weight", 0.5))
    with pytest.warns(UserWarning, match="call fastprune.in_place for the copy"):
        twin = how(layer)
    assert torch.equal(twin(X), layer(X))
    optimizer = torch.optim.AdamW(twin.parameters())
    prune.in_place(twin, optimizer)
    step(twin, optimizer)
    assert_zero(twin)


def test_attention_and_rnns() -> None:
    attention, rnn = nn.MultiheadAttention(6, 2), nn.LSTM(6, 4)
    kinds = [type(m) for m in attention.modules()]
    pairs: list[tuple[nn.Module, str]] = [
        (attention, "in_proj_weight"),
        (attention.out_proj, "weight"),
        (rnn, "weight_ih_l0"),
        (rnn, "weight_hh_l0"),
    ]
    for module, name in pairs:
        prune.l1_unstructured(module, name, 0.5)
    both = nn.ModuleList([attention, rnn])
    optimizer = torch.optim.SGD(both.parameters(), 0.1, momentum=0.9)
    prune.in_place(both, optimizer)
    assert [type(m) for m in attention.modules()] == kinds
    for _ in range(2):
        optimizer.zero_grad()
        (attention(X, X, X)[0].square().sum() + rnn(X)[0].square().sum()).backward()
        optimizer.step()
    for module, name in pairs:
        assert int((getattr(module, name) == 0).sum()) == getattr(module, name).numel() // 2
    assert all(a is getattr(rnn, n) for a, n in zip(rnn._flat_weights, rnn._flat_weights_names))  # noqa: B905
    outputs = attention(X, X, X)[0], rnn(X)[0]
    prune.restore(both)
    torch.testing.assert_close(attention(X, X, X)[0], outputs[0])
    torch.testing.assert_close(rnn(X)[0], outputs[1])
    assert attention.out_proj.weight is not attention.out_proj.weight


def revived(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> int:
    """How many pruned entries are not zero after some steps."""
    for _ in range(3):
        step(layer, optimizer)
    return int((layer.weight[~layer.weight_mask] != 0).sum())  # type: ignore[operator]


def half_pruned() -> nn.Linear:
    torch.manual_seed(0)
    return prune.l1_unstructured(nn.Linear(6, 9), "weight", 0.5)


def sgd(layer: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(layer.parameters(), 0.01, momentum=0.9)


def test_whichever_optimizer_steps() -> None:
    layer, other = half_pruned(), nn.Linear(6, 9)
    prune.in_place(layer, sgd(other))  # which does not hold the parameter
    assert revived(layer, sgd(layer)) == 0
    layer = half_pruned()
    first = sgd(layer)
    prune.in_place(layer, first)
    del first
    assert revived(layer, sgd(layer)) == 0


def test_frozen_and_replaced_parameters() -> None:
    layer = half_pruned()
    layer.weight_orig.requires_grad_(False)  # type: ignore[union-attr, operator]
    prune.in_place(layer)
    assert not layer.weight.requires_grad
    layer.weight.requires_grad_(True)
    loss_of(layer).backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad[~layer.weight_mask].any()  # type: ignore[operator]
    layer.load_state_dict({n: t.clone() for n, t in layer.state_dict().items()}, assign=True)
    loss_of(layer).backward()
    assert not layer.weight.grad[~layer.weight_mask].any()  # type: ignore[operator, index]
    layer.weight = nn.Parameter(torch.ones(9, 6))
    prune.in_place(layer)
    assert_zero(layer)
    loss_of(layer).backward()
    assert not layer.weight.grad[~layer.weight_mask].any()  # type: ignore[operator, index]


def test_state_of_the_optimizer_that_was_there_before() -> None:
    layer, ordinary = half_pruned(), half_pruned()
    optimizer, earlier = sgd(layer), sgd(ordinary)
    prune.identity(ordinary, "bias")
    for _ in range(2):
        loss = (ordinary.weight_orig - 1).square().sum()  # type: ignore[operator]
        earlier.zero_grad()
        (loss + loss_of(ordinary)).backward()
        earlier.step()
    prune.in_place(layer, optimizer)
    optimizer.load_state_dict(earlier.state_dict())
    assert revived(layer, optimizer) == 0

    layer = half_pruned()
    lbfgs = torch.optim.LBFGS(layer.parameters(), 0.1, max_iter=3)

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = loss_of(layer)
        loss.backward()
        return loss

    lbfgs.step(closure)  # type: ignore[arg-type]
    prune.l1_unstructured(layer, "weight", 10)
    prune.in_place(layer, lbfgs)
    lbfgs.step(closure)  # type: ignore[arg-type]
    assert_zero(layer)

    scalar = nn.Module()
    scalar.weight = nn.Parameter(torch.tensor(1.0))
    prune.l1_unstructured(scalar, "weight", 1)
    steps = torch.optim.SGD(scalar.parameters(), 0.1, momentum=0.9)
    scalar.weight_orig.grad = torch.tensor(1.0)  # type: ignore[union-attr]
    steps.step()
    prune.in_place(scalar, steps)
    scalar.weight.grad = torch.tensor(1.0)
    steps.step()
    assert scalar.weight == 0


def test_masks_that_are_not_binary_are_refused_here_too() -> None:
    layer = prune.in_place(half_pruned())
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="0 and 1 only"):
        prune.custom_from_mask(layer, "weight", torch.full((9, 6), 0.5))
    assert torch.equal(layer.weight, before)


def test_other_forms_know_this_one() -> None:
    layer = half_pruned()
    state = copy.deepcopy(layer.state_dict())
    prune.in_place(layer)
    with pytest.raises(TypeError, match="pruned in place"):
        prune.parametrized(layer, "weight", prune.Identity())
    with pytest.raises(RuntimeError, match="pruned in place"):
        prune.attach(layer, state)
    assert_zero(layer)
    dense = prune.dense_state_dict(layer)
    nn.Linear(6, 9).load_state_dict(dense)
    assert torch.equal(dense["weight"], layer.weight)
    with prune.cached(layer):
        assert torch.equal(layer(X), layer(X))
    layer.half()
    prune.restore(layer)
    assert layer.weight_mask.dtype == layer.weight_orig.dtype == torch.float16  # type: ignore[union-attr]


def test_a_parameter_that_is_gone_is_named() -> None:
    layer = half_pruned()
    optimizer = sgd(layer)
    prune.in_place(layer, optimizer)
    del layer.weight
    with pytest.raises(RuntimeError, match=r"expected weight of Linear.*pruned in place"):
        optimizer.step()


def test_an_optimizer_without_hooks_changes_nothing() -> None:
    class Bare(torch.optim.SGD):
        def __init__(self) -> None:
            pass

    layer = half_pruned()
    before = snapshot(layer)
    with pytest.raises(TypeError, match="got Bare"):
        prune.in_place(layer, Bare())
    assert_unchanged(layer, before)


class Holding(torch.optim.SGD):
    """Passes its steps on to the optimizer that it holds, as frameworks' wrappers do."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__([nn.Parameter(torch.zeros(1))], lr=0.1)
        self.optimizer = optimizer


@pytest.mark.parametrize(
    "name", ["accelerate.optimizer.AcceleratedOptimizer", "somewhere.Lookahead"]
)
def test_only_known_wrappers_are_taken_off(name: str) -> None:
    """`make frameworks` tries the real ones."""
    module, _, kind = name.rpartition(".")
    layer = nn.Linear(6, 9)
    inner = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    step(layer, inner)
    prune.l1_unstructured(layer, "weight", 0.5)
    made = type(kind, (Holding,), {"__module__": module, "__qualname__": kind})(inner)
    prune.in_place(layer, type("Derived", (type(made),), {})(made))
    pruned = ~layer.get_buffer("weight_mask")
    momentum = inner.state[layer.weight]["momentum_buffer"]
    assert bool(momentum[pruned].any()) == ("Lookahead" in name)


def test_tied_parameters_that_are_pruned_one_after_the_other() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    prune.l1_unstructured(first, "weight", 8)
    both = prune.in_place(nn.Sequential(first, second))
    prune.random_unstructured(second, "weight", 16)
    mask: Tensor = second.weight_mask  # type: ignore[assignment]
    assert not mask[~first.weight_mask].any()  # type: ignore[operator]
    with pytest.raises(ValueError, match="to have one mask"):
        prune.in_place(both)


def test_a_compiled_model_sees_ordinary_parameters() -> None:
    layers = model()
    optimizer = torch.optim.SGD(layers.parameters(), 0.1)
    prune.in_place(layers, optimizer)
    compiled = torch.compile(layers, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        step(compiled, optimizer)  # type: ignore[arg-type]
        assert_zero(layers)
    assert torch.equal(compiled(X), layers(X))


def test_errors_change_nothing() -> None:
    layers = model()

    class Doubled(prune.L1Unstructured):
        def apply_mask(self, module: nn.Module) -> Tensor:
            return 2 * super().apply_mask(module)

    def soft(layer: nn.Linear) -> None:
        prune.custom_from_mask(layer, "weight", torch.full((9, 6), 0.5))

    def own(layer: nn.Linear) -> None:
        Doubled.apply(layer, "weight", 1)

    def learned(layer: nn.Linear) -> None:
        prune.identity(layer, "weight").weight_mask.requires_grad_()  # type: ignore[union-attr, operator]

    def tied(layer: nn.Linear) -> None:
        other = nn.Linear(6, 9)
        other.weight = layer.weight
        layer.add_module("other", other)
        prune.l1_unstructured(layer, "weight", 1)
        prune.l1_unstructured(other, "weight", 2)

    for prepare, kind, message in [
        (soft, ValueError, "0 and 1 only"),
        (own, TypeError, "an apply_mask of its own"),
        (learned, ValueError, "to need no gradient"),
        (tied, ValueError, "to have one mask"),
    ]:
        wrong = nn.Linear(6, 9)
        prepare(wrong)
        both = nn.Sequential(layers[0], wrong)
        before = [snapshot(m) for m in (layers[0], wrong)]
        with pytest.raises(kind, match=message):
            prune.in_place(both)
        for module, state in zip((layers[0], wrong), before, strict=True):
            assert_unchanged(module, state)
    with pytest.raises(ValueError, match=r"torch\.bool or"):
        prune.in_place(layers, mask_dtype=torch.float32)
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer, got list"):
        prune.in_place(layers, [])  # type: ignore[arg-type]
    with prune.cached(layers), pytest.raises(RuntimeError, match="outside of cached"):
        prune.in_place(layers)


class FirstEntries(prune.BasePruningMethod):
    """A method from scratch, which no operator decides."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[:5] = 0
        return mask


def test_a_failure_of_a_global_pruning_loses_no_value() -> None:
    layers = prune.in_place(model())
    before = [snapshot(layers[0]), layers[0].weight.detach().clone(), masks(layers)]

    class Broken(nn.Linear):
        def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    pairs = [(layers[0], "weight"), (Broken(2, 2), "weight")]
    with pytest.raises(KeyboardInterrupt):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=5)
    assert_unchanged(layers[0], before[0])  # type: ignore[arg-type]
    assert torch.equal(layers[0].weight, before[1])  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):  # one transaction for each layer in another
        prune.global_unstructured([(layers[0], "weight"), *pairs[1:]], FirstEntries)
    assert torch.equal(layers[0].weight, before[1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="should be smaller"):
        prune.l1_unstructured(layers[0], "weight", 1000)
    assert torch.equal(layers[0].weight, before[1])  # type: ignore[arg-type]


def test_tied_parameters_with_one_mask() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    for layer in (first, second):
        prune.l1_unstructured(layer, "weight", 0.5)
    both = nn.Sequential(first, second)
    optimizer = torch.optim.SGD(both.parameters(), 0.01, momentum=0.9)
    prune.in_place(both, optimizer)
    assert first.weight is second.weight
    for _ in range(2):
        step(both, optimizer)
    assert int((first.weight == 0).sum()) == 18


def test_integer_parameters_stay_pruned() -> None:
    """They get no gradient that could be masked."""
    module = nn.Module()
    module.codes = nn.Parameter(torch.arange(1, 9), requires_grad=False)
    module.scale = nn.Parameter(torch.ones(8))
    prune.custom_from_mask(module, "codes", torch.tensor([0, 1] * 4))
    prune.custom_from_mask(module, "scale", torch.tensor([1.0, 0.0] * 4))
    prune.in_place(module)
    assert module.codes.tolist() == [0, 2, 0, 4, 0, 6, 0, 8]
    (module.codes * module.scale).sum().backward()
    assert module.scale.grad is not None
    module.load_state_dict({**module.state_dict(), "codes": torch.arange(8)})
    assert module.codes.tolist() == [0, 1, 0, 3, 0, 5, 0, 7]
