"""Pruned modules in use: transactions, copies, files, training, methods that users write."""

import copy
import gc
import io
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from fastprune import lookup, rollback
from fastprune.copying import homes
from fastprune.tying import holders
from support.inputs import name
from support.unchanged import assert_unchanged, snapshot

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def linear() -> nn.Module:
    return nn.Linear(4, 3)


def once() -> nn.Module:
    return prune.l1_unstructured(linear(), "weight", 2)


def twice() -> nn.Module:
    return prune.l1_unstructured(once(), "weight", 2)


def by_upstream() -> nn.Module:
    return upstream.l1_unstructured(linear(), "weight", 2)


def with_other_hooks() -> nn.Module:
    module = linear()
    module.register_forward_pre_hook(lambda m, i: None)
    prune.l1_unstructured(module, "bias", 1)
    prune.l1_unstructured(module, "weight", 2)
    module.register_forward_pre_hook(lambda m, i, k: None, with_kwargs=True)
    return module


# ---- transactions ----


class Failing(prune.BasePruningMethod):
    """Raises what it is given when asked for a mask."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        default_mask.fill_(7)
        raise self.error


class FailingLater(prune.L1Unstructured):
    """Gives a mask that cannot be applied."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return torch.ones(17, 19)


@pytest.mark.parametrize("make", [linear, once, twice, by_upstream, with_other_hooks])
@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_failing_method(make: Callable[[], nn.Module], error: BaseException) -> None:
    module = make()
    module(X)
    before = snapshot(module)
    with pytest.raises(type(error)):
        Failing.apply(module, "weight", error)
    assert_unchanged(module, before)
    module(X)
    prune.l1_unstructured(module, "weight", 1)


@pytest.mark.parametrize("library", [upstream, prune], ids=lambda m: m.__name__)
def test_a_subclass_that_passes_over_the_signature_of_its_parent(library: Any) -> None:
    class Named(library.LnStructured):  # type: ignore[misc]
        def __init__(self, amount: int, label: str) -> None:
            super().__init__(amount, 2, dim=0)
            self.label = label

        @classmethod
        def apply(cls, module: nn.Module, name: str, amount: int, label: str) -> Any:
            return super(library.LnStructured, cls).apply(module, name, amount=amount, label=label)

    module = linear()
    assert Named.apply(module, "weight", 1, "first").label == "first"
    assert (module.weight_mask == 0).sum() == 4


@pytest.mark.parametrize("size", [3, 700])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64], ids=name)
def test_a_mask_of_another_dtype_in_training(size: int, dtype: torch.dtype) -> None:
    """The kernel multiplies, and the backward takes the mask as it was in the forward."""

    def trained(library: Any) -> tuple[Any, ...]:
        class Positive(library.BasePruningMethod):  # type: ignore[misc]
            PRUNING_TYPE = "unstructured"

            def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
                return (t > 0).to(dtype)

        torch.manual_seed(0)
        module = nn.Linear(size, size, bias=False)
        Positive.apply(module, "weight")
        out = module(torch.ones(2, size)).square().sum()
        module.weight_mask.zero_()
        weight = module.weight_orig
        (first,) = torch.autograd.grad(out, weight, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), weight)
        return first, second, module

    *expected, _ = trained(upstream)
    *actual, module = trained(prune)
    assert actual[0].any()
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert prune._C.product_if_plain(module.weight_orig, module.weight_mask) is not None


class Around(nn.Module):
    """Shows a parameter of another module as its own, as what torch.compile returns does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def __getattr__(self, name: str) -> Any:
        return self.inner.weight if name == "weight" else super().__getattr__(name)


def test_a_parameter_of_another_module() -> None:
    module = Around()
    before = snapshot(module)
    with pytest.raises(KeyError, match="expected weight to be a parameter of Around, got one of"):
        prune.l1_unstructured(module, "weight", 2)
    with pytest.raises(KeyError, match="expected weight to be a parameter of Around, got one of"):
        prune.global_unstructured([(module, "weight")], prune.L1Unstructured, amount=2)
    assert_unchanged(module, before)


@pytest.mark.parametrize("make", [linear, once, twice, by_upstream, with_other_hooks])
def test_unusable_mask(make: Callable[[], nn.Module]) -> None:
    module = make()
    before = snapshot(module)
    with pytest.raises(Exception):  # noqa: B017 - which one is the method's business
        FailingLater.apply(module, "weight", 1)
    assert_unchanged(module, before)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_global_pruning_is_one_transaction(failing: int) -> None:
    layers = [once(), linear(), by_upstream()]
    pairs = [(layer, "weight") for layer in layers]
    befores = [snapshot(layer) for layer in layers]
    original = nn.Module.register_forward_pre_hook
    calls = 0

    def register(self: nn.Module, hook: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise KeyboardInterrupt
        return original(self, hook)

    with (
        mock.patch.object(nn.Module, "register_forward_pre_hook", register),
        pytest.raises(KeyboardInterrupt),
    ):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5)
    for layer, before in zip(layers, befores, strict=True):
        assert_unchanged(layer, before)


@pytest.mark.parametrize("method", [prune.L1Unstructured, prune.RandomUnstructured])
def test_global_pruning_leaves_products_as_the_hooks_make_them(method: Any) -> None:
    layers = [once(), linear(), by_upstream(), linear().half()]
    prune.global_unstructured([(layer, "weight") for layer in layers], method, amount=0.5)
    for layer in layers:
        assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)
        assert layer.weight_mask.dtype == layer.weight.dtype == layer.weight_orig.dtype
        layer.weight.float().sum().backward()
        assert torch.equal(layer.weight_orig.grad, layer.weight_mask)


def test_hooks_keep_their_order_and_number() -> None:
    module = with_other_hooks()

    def others() -> list[Any]:
        hooks = module._forward_pre_hooks.values()
        return [hook for hook in hooks if not isinstance(hook, prune.BasePruningMethod)]

    kept = others()
    for _ in range(3):
        prune.l1_unstructured(module, "weight", 1)
    hooks = list(module._forward_pre_hooks.values())
    assert len(hooks) == 4
    assert others() == kept
    assert len(hooks[-1]) == 4


@pytest.mark.parametrize("first", [False, True], ids=["unpruned", "pruned"])
def test_a_failure_leaves_flat_weights_in_order(first: bool) -> None:
    lstm, other = nn.LSTM(4, 3), linear()
    if first:
        prune.l1_unstructured(lstm, "weight_ih_l0", 2)
    before, kept = snapshot(lstm), list(lstm._flat_weights)
    register = nn.Module.register_forward_pre_hook

    def fails(self: nn.Module, hook: Any) -> Any:
        if self is other:
            raise KeyboardInterrupt
        return register(self, hook)

    with (
        mock.patch.object(nn.Module, "register_forward_pre_hook", fails),
        pytest.raises(KeyboardInterrupt),
    ):
        prune.global_unstructured(
            [(lstm, "weight_ih_l0"), (other, "weight")], prune.L1Unstructured, amount=3
        )
    assert_unchanged(lstm, before)
    assert all(a is b for a, b in zip(lstm._flat_weights, kept, strict=True))


# ---- copies and files ----

MOMENTS: dict[str, Callable[[], nn.Module]] = {}


def moment(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    MOMENTS[make.__name__] = make
    return make


@moment
def just_pruned() -> nn.Module:
    return once()


@moment
def pruned_twice() -> nn.Module:
    return twice()


@moment
def pruned_by_both() -> nn.Module:
    return prune.ln_structured(by_upstream(), "weight", 1, 2, 0)


@moment
def after_forward() -> nn.Module:
    module = twice()
    module(X)
    return module


@moment
def after_forward_without_grad() -> nn.Module:
    module = twice()
    with torch.no_grad():
        module(X)
    return module


@moment
def after_forward_in_inference_mode() -> nn.Module:
    module = twice()
    with torch.inference_mode():
        module(X)
    return module


@moment
def after_backward() -> nn.Module:
    module = prune.random_unstructured(twice(), "bias", 1)
    module(X).sum().backward()
    return module


@moment
def of_frozen_weights() -> nn.Module:
    return prune.l1_unstructured(linear().requires_grad_(False), "weight", 2)


@moment
def of_several_layers() -> nn.Module:
    model = nn.Sequential(linear(), nn.Linear(3, 4), nn.ReLU(), linear())
    pairs = [(model[i], t) for i in (0, 1, 3) for t in ("weight", "bias")]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5)
    model(X)
    return model


@moment
def of_custom_mask() -> nn.Module:
    return prune.custom_from_mask(once(), "weight", torch.ones(3, 4).tril())


def through_pickle(module: nn.Module) -> nn.Module:
    result: nn.Module = pickle.loads(pickle.dumps(module))
    return result


def through_torch_save(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    result: nn.Module = torch.load(file, weights_only=False)
    return result


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save])
@pytest.mark.parametrize("make", MOMENTS.values(), ids=MOMENTS)
def test_copies(make: Callable[[], nn.Module], duplicate: Callable[[nn.Module], nn.Module]) -> None:
    module = make()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():
        expected = module(X).clone()
    twin = duplicate(module)
    assert list(twin.state_dict()) == list(before)
    with torch.no_grad():
        assert torch.equal(twin(X), expected)
        for parameter in twin.parameters():
            parameter.add_(1)
        assert not torch.equal(twin(X), expected)
        assert torch.equal(module(X), expected)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
    # The twin is pruned on its own from here.
    layer, own = (m[0] if isinstance(m, nn.Sequential) else m for m in (twin, module))
    size = len(own._forward_pre_hooks)
    prune.l1_unstructured(layer, "weight", 1)
    assert layer.weight_mask.sum() == own.weight_mask.sum() - 1
    assert len(own._forward_pre_hooks) == size
    prune.remove(layer, "weight")
    assert "weight_orig" in dict(own.named_parameters())


@pytest.mark.parametrize("make", MOMENTS.values(), ids=MOMENTS)
def test_copy_can_be_copied_before_it_runs(make: Callable[[], nn.Module]) -> None:
    module = make()
    twin = copy.deepcopy(copy.deepcopy(module))
    assert torch.equal(twin(X), module(X))
    twin = copy.deepcopy(twin)
    assert torch.equal(twin(X), module(X))


def test_nothing_keeps_a_method_or_its_module_alive() -> None:
    modules = [twice() for _ in range(3)]
    copies = [copy.deepcopy(module) for module in modules]
    for module in copies:
        module(X)
    # By their own references: what other tests left behind may be collected at any moment.
    theirs = [home for home in homes.values() if home.module() in {*modules, *copies}]
    assert len({id(home.module()) for home in theirs}) == 6
    alive = [weakref.ref(module) for module in (*modules, *copies)]
    del modules, copies, module
    gc.collect()
    assert not any(ref() for ref in alive)
    assert not any(home() or home in homes.values() for home in theirs)


@pytest.mark.parametrize("make", MOMENTS.values(), ids=MOMENTS)
def test_freed_without_the_garbage_collector(make: Callable[[], nn.Module]) -> None:
    """As upstream's: with `del`, its memory is there for the next model."""
    gc.collect()
    gc.disable()
    try:
        module = make()
        out = module(X)
        if out.requires_grad:
            out.sum().backward()
        alive = [*map(weakref.ref, module.modules()), *map(weakref.ref, module.parameters())]
        del module, out
        assert all(ref() is None for ref in alive)
    finally:
        gc.enable()


def test_copy_of_a_model_that_shares_a_layer() -> None:
    layer = once()
    model = nn.ModuleList([layer, layer])
    model[0](X)
    twin = copy.deepcopy(model)
    assert twin[0] is twin[1]
    assert torch.equal(twin[0](X), layer(X))


@pytest.mark.parametrize("make", MOMENTS.values(), ids=MOMENTS)
def test_state_dict_round_trip(make: Callable[[], nn.Module]) -> None:
    module, other = make(), make()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert torch.equal(module(X), other(X))


def test_copy_trains_apart() -> None:
    module = after_backward()
    twin = copy.deepcopy(module)
    twin(X).sum().backward()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    before = module.weight_orig.detach().clone()
    optimizer.step()
    assert torch.equal(module.weight_orig, before)
    assert not torch.equal(twin.weight_orig, before)


# ---- training, inference ----


def test_training() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    y = X.sum(1, keepdim=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    prune.global_unstructured(
        ((layer, "weight") for layer in (model[0], model[2])), prune.L1Unstructured, amount=0.3
    )
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(X) - y).square().mean()
        loss.backward()
        for layer in (model[0], model[2]):
            gone = layer.weight_mask == 0
            assert (layer.weight_orig.grad[gone] == 0).all()
            assert layer.weight_orig.grad[~gone].any()
            assert (layer.weight[gone] == 0).all()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_prune_between_training_steps() -> None:
    module = linear()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(1, 5):
        prune.l1_unstructured(module, "weight", 2)
        optimizer.zero_grad()
        module(X).square().sum().backward()
        optimizer.step()
        assert module.weight_mask.sum() == 12 - 2 * step
        assert module.weight_orig.grad is not None


@pytest.mark.parametrize("again_in", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("ran_in", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("function", ["l1", "random", "ln", "random_ln", "custom", "global"])
def test_prune_again_after_forward(
    function: str, ran_in: Callable[[], Any], again_in: Callable[[], Any]
) -> None:
    module = once()
    before = int(module.weight_mask.sum())
    with ran_in():
        module(X)
    with again_in():
        {
            "l1": lambda: prune.l1_unstructured(module, "weight", 2),
            "random": lambda: prune.random_unstructured(module, "weight", 2),
            "ln": lambda: prune.ln_structured(module, "weight", 1, 2, 0),
            "random_ln": lambda: prune.random_structured(module, "weight", 1, 0),
            "custom": lambda: prune.custom_from_mask(module, "weight", torch.zeros(3, 4)),
            "global": lambda: prune.global_unstructured(
                [(module, "weight")], prune.L1Unstructured, amount=2
            ),
        }[function]()
        module(X)
    assert module.weight_mask.sum() < before
    if again_in is not torch.inference_mode:
        module(X).sum().backward()
        assert module.weight_orig.grad is not None


def test_inference_mode_gives_an_inference_tensor_and_no_more() -> None:
    module = once()
    with torch.inference_mode():
        module(X)
        assert module.weight.is_inference()
    module(X).sum().backward()
    assert not module.weight.is_inference()


def test_moving_and_converting() -> None:
    module = once().double()
    assert module.weight_mask.dtype == torch.float64
    module(X.double())
    assert module.weight.dtype == torch.float64
    module.half()
    module(X.half())
    prune.l1_unstructured(module, "weight", 2)
    assert module.weight_mask.dtype == torch.float16
    assert module.weight_mask.sum() == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=name)
def test_16_bit_modules(dtype: torch.dtype) -> None:
    for apply in (
        lambda m: prune.l1_unstructured(m, "weight", 0.5),
        lambda m: prune.random_unstructured(m, "weight", 0.5),
        lambda m: prune.ln_structured(m, "weight", 0.5, 2, 0),
        lambda m: prune.random_structured(m, "weight", 0.5, 0),
        lambda m: prune.custom_from_mask(m, "weight", torch.ones(4, 4).triu()),
    ):
        module = nn.Linear(4, 4).to(dtype)
        for _ in range(2):
            apply(module)
            assert module.weight.dtype == module.weight_mask.dtype == dtype
            assert torch.equal(module.weight == 0, module.weight_mask == 0)
        module(X.to(dtype)).sum().backward()


class Magnitude(prune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t.abs()


@pytest.mark.parametrize(
    "call",
    [
        lambda m: prune.l1_unstructured(m, "weight", 5, importance_scores=m.weight.detach().abs()),
        lambda m: prune.random_unstructured(m, "weight", 5),
        lambda m: Magnitude.apply(m, "weight", amount=5),
        lambda m: prune.ln_structured(m, "weight", 1, 2, 0, m.weight.detach().abs()),
        lambda m: prune.global_unstructured(
            [(m, "weight")],
            prune.L1Unstructured,
            {(m, "weight"): m.weight.detach().abs()},
            amount=5,
        ),
        lambda m: prune.local_unstructured(
            [(m, "weight")],
            prune.L1Unstructured,
            5,
            importance_scores={(m, "weight"): m.weight.detach().abs()},
        ),
        lambda m: prune.local_unstructured([(m, "weight")], Magnitude, 5),
    ],
    ids=["l1", "random", "scores", "ln", "global", "local", "local scores"],
)
def test_channels_last_with_dims_of_one_entry(call: Any) -> None:
    """Their strides say nothing, but a mask with others than its tensor is slower ever after."""
    module = nn.Conv2d(6, 8, 1).to(memory_format=torch.channels_last)
    assert module.weight.abs().stride() != module.weight.stride()
    for _ in range(2):
        call(module)
        assert module.weight_mask.stride() == module.weight_orig.stride()
        assert module.weight_mask._base is None
        assert prune._C.product_if_plain(module.weight_orig, module.weight_mask) is not None


def test_channels_last() -> None:
    plain = nn.Conv2d(8, 6, 3)
    for apply in (
        lambda m: prune.l1_unstructured(m, "weight", 0.5),
        lambda m: prune.random_unstructured(m, "weight", 0.5),
        lambda m: prune.ln_structured(m, "weight", 2, 2, 0),
        lambda m: prune.random_structured(m, "weight", 0.3, 1),
        lambda m: prune.custom_from_mask(m, "weight", torch.ones(6, 8, 3, 3).triu()),
        lambda m: prune.identity(m, "weight"),
        lambda m: prune.global_unstructured([(m, "weight")], prune.L1Unstructured, amount=0.5),
    ):
        contiguous = copy.deepcopy(plain)
        strided = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        for _ in range(3):
            for module in (contiguous, strided):
                torch.manual_seed(2)
                apply(module)
            assert torch.equal(strided.weight_mask, contiguous.weight_mask)
            assert torch.equal(strided.weight, contiguous.weight)
            assert strided.weight.stride() == strided.weight_orig.stride()
            assert strided.weight_mask.stride() == strided.weight_orig.stride()


@pytest.mark.parametrize("transpose", [True, False])
def test_weights_that_are_not_contiguous(transpose: bool) -> None:
    weight = torch.randn(4, 3).T if transpose else torch.randn(3, 8)[:, ::2]
    for apply in (
        lambda m: prune.l1_unstructured(m, "weight", 0.5),
        lambda m: prune.random_unstructured(m, "weight", 0.5),
        lambda m: prune.ln_structured(m, "weight", 1, 2, 0),
    ):
        module, plain = linear(), linear()
        module.weight = nn.Parameter(weight)
        plain.weight = nn.Parameter(weight.contiguous())
        for _ in range(2):
            for m in (module, plain):
                torch.manual_seed(2)
                apply(m)
            assert torch.equal(module.weight_mask, plain.weight_mask)
        module(X).sum().backward()


def test_structured_pruning_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = nn.Conv2d(6, 8, 3)
        for _ in range(2):
            prune.ln_structured(module, "weight", 1, 2, 0)
            prune.random_structured(module, "weight", 1, 1)
            prune.l1_unstructured(module, "weight", 0.1)


# ---- methods that users write ----


def user_method(base: type, kind: str) -> type:
    """A method that prunes the last quarter of the entries it is shown, or the last channel."""

    class UserMethod(base):  # type: ignore[misc]
        PRUNING_TYPE = kind
        dim = 0

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            assert t.shape == default_mask.shape
            mask = default_mask.clone()
            if kind == "structured":
                mask[-1] = 0
            else:
                mask.view(-1)[-(mask.numel() // 4) :] = 0
            return mask

    return UserMethod


@pytest.mark.parametrize("kind", ["unstructured", "structured", "global"])
@pytest.mark.parametrize(
    "base", [prune.BasePruningMethod, upstream.BasePruningMethod], ids=["ours", "upstreams"]
)
@pytest.mark.parametrize("make", [linear, once, twice, by_upstream])
def test_user_methods(make: Callable[[], nn.Module], base: type, kind: str) -> None:
    module = make()
    twin = linear()
    twin.weight = nn.Parameter(
        (module.weight_orig if hasattr(module, "weight_orig") else module.weight).detach().clone()
    )
    if hasattr(module, "weight_mask"):
        upstream.custom_from_mask(twin, "weight", module.weight_mask)
    method = user_method(base, kind)
    theirs = user_method(upstream.BasePruningMethod, kind)
    for _ in range(2):
        method.apply(module, "weight")
        theirs.apply(twin, "weight")
        assert torch.equal(module.weight_mask, twin.weight_mask)
        assert torch.equal(module.weight, twin.weight)
    prune.l1_unstructured(module, "weight", 1)
    upstream.l1_unstructured(twin, "weight", 1)
    assert torch.equal(module.weight_mask, twin.weight_mask)


def test_unknown_pruning_type() -> None:
    module = once()
    before = snapshot(module)
    with pytest.raises(ValueError, match="Unrecognized PRUNING_TYPE odd"):
        user_method(prune.BasePruningMethod, "odd").apply(module, "weight")
    assert_unchanged(module, before)


def test_structured_method_without_dim() -> None:
    method = user_method(prune.BasePruningMethod, "structured")
    del method.dim
    module = once()
    before = snapshot(module)
    with pytest.raises(AttributeError, match="dim"):
        method.apply(module, "weight")
    assert_unchanged(module, before)


class KeepFirst(prune.L1Unstructured):
    """An override that has nothing to do with magnitudes."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[self.amount :] = 0
        return mask


def test_override_in_a_container() -> None:
    module = prune.custom_from_mask(linear(), "weight", torch.ones(3, 4).triu())
    KeepFirst.apply(module, "weight", 2)
    assert module.weight_mask.nonzero().tolist() == [[0, 0], [0, 1]]


def test_override_globally() -> None:
    a, b = linear(), linear()
    prune.global_unstructured([(a, "weight"), (b, "weight")], KeepFirst, amount=14)
    assert a.weight_mask.sum() == 12
    assert b.weight_mask.nonzero().tolist() == [[0, 0], [0, 1]]


def test_upstream_method_globally() -> None:
    a, b = linear(), linear()
    twins = copy.deepcopy(a), copy.deepcopy(b)
    prune.global_unstructured([(a, "weight"), (b, "bias")], upstream.L1Unstructured, amount=6)
    upstream.global_unstructured(
        [(twins[0], "weight"), (twins[1], "bias")], upstream.L1Unstructured, amount=6
    )
    assert torch.equal(a.weight_mask, twins[0].weight_mask)
    assert torch.equal(b.bias_mask, twins[1].bias_mask)


@pytest.mark.parametrize("make", [linear, once])
def test_mocked_compute_mask(make: Callable[[], nn.Module]) -> None:
    module = make()
    shown = []

    def compute_mask(self: Any, t: Tensor, default_mask: Tensor) -> Tensor:
        shown.append(t.shape)
        return torch.zeros_like(default_mask)

    with mock.patch.object(prune.L1Unstructured, "compute_mask", compute_mask):
        prune.l1_unstructured(module, "weight", 1)
    assert shown == [(3, 4) if make is linear else (10,)]
    assert not module.weight_mask.any()


def test_mocked_with_a_magic_mock() -> None:
    module = linear()
    with mock.patch.object(prune.L1Unstructured, "compute_mask") as compute_mask:
        compute_mask.return_value = torch.zeros(3, 4)
        prune.l1_unstructured(module, "weight", 1)
    compute_mask.assert_called_once()
    assert not module.weight_mask.any()


# ---- containers by hand ----


def method_of(tensor: str, amount: float = 1) -> prune.L1Unstructured:
    method = prune.L1Unstructured(amount)
    method._tensor_name = tensor
    return method


def test_empty_container_takes_its_first_method() -> None:
    container = prune.PruningContainer()
    assert len(container) == 0
    first, second = method_of("weight"), method_of("weight", 2)
    container.add_pruning_method(first)
    container.add_pruning_method(second)
    assert container._tensor_name == "weight"
    assert list(container) == [first, second]
    assert container[0] is first
    assert container[-1] is second
    with pytest.raises(ValueError, match="weight"):
        container.add_pruning_method(method_of("bias"))


def test_container_of_several() -> None:
    container = prune.PruningContainer(method_of("weight"), method_of("weight", 3))
    mask = container.compute_mask(torch.arange(1.0, 7), torch.tensor([0.0, 1, 1, 1, 1, 1]))
    assert mask.tolist() == [0, 0, 0, 0, 1, 1]


def test_global_takes_a_generator_and_a_dict_view() -> None:
    model = nn.Sequential(linear(), nn.Linear(3, 5))
    prune.global_unstructured(((m, "weight") for m in model), prune.L1Unstructured, amount=10)
    assert sum((m.weight_mask == 0).sum() for m in model) == 10
    pairs = {(m, "weight"): None for m in model}
    prune.global_unstructured(pairs.keys(), prune.L1Unstructured, amount=7)
    assert sum((m.weight_mask == 0).sum() for m in model) == 17


def test_hook_runs_in_every_forward() -> None:
    module = once()
    with torch.no_grad():
        module.weight_orig.fill_(3)
        module.weight_mask.zero_()[0, 0] = 1
    module(X)
    assert module.weight.nonzero().tolist() == [[0, 0]]
    assert module.weight[0, 0] == 3


def test_method_on_no_module() -> None:
    with pytest.raises(AttributeError, match="has to be pruned"):
        prune.L1Unstructured(1).apply_mask(linear())


def test_global_pruning_remembers_a_module_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it has, not anew for each of its parameters."""
    asked: list[nn.Module] = []

    def pruning_hooks(module: nn.Module) -> Any:
        asked.append(module)
        return lookup.pruning_hooks(module)

    module = nn.ParameterList([torch.randn(5) for _ in range(9)])
    pairs = [(module, str(i)) for i in range(9)]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=9)
    monkeypatch.setattr(rollback, "pruning_hooks", pruning_hooks)
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=9)
    assert asked == [module]


def _masked_twice(library: Any, mask: Tensor) -> nn.Module:
    module = linear()
    for _ in range(2):
        library.custom_from_mask(module, "weight", mask)
    return module


def _pruned_globally(library: Any, times: int) -> nn.Module:
    module = linear()
    for _ in range(times):
        library.global_unstructured([(module, "weight")], library.L1Unstructured, amount=0.3)
    return module


def _attention(library: Any) -> nn.Module:
    module = nn.MultiheadAttention(4, 2)
    library.l1_unstructured(module.out_proj, "weight", 0.3)
    return module


def methods_in(model: nn.Module) -> list[Any]:
    hooks: list[Any] = [h for m in model.modules() for h in m._forward_pre_hooks.values()]
    return [method for hook in hooks for method in getattr(hook, "_pruning_methods", [hook])]


#: Modules that torch.load(weights_only=True) takes when it is told of their classes.
SAVED: dict[str, Callable[[Any], nn.Module]] = {
    "local": lambda library: library.l1_unstructured(linear(), "weight", 0.3),
    "given": lambda library: library.custom_from_mask(linear(), "weight", torch.eye(3, 4)),
    "given twice": lambda library: _masked_twice(library, torch.eye(3, 4)),
    "halves": lambda library: _masked_twice(library, torch.full((3, 4), 0.5)),
    "global": lambda library: _pruned_globally(library, 1),
    "global twice": lambda library: _pruned_globally(library, 2),
    "attention": _attention,
}


@pytest.mark.parametrize("library", [upstream, prune], ids=["upstream", "fastprune"])
@pytest.mark.parametrize("way", SAVED)
def test_loading_weights_only(way: str, library: Any) -> None:
    with torch.no_grad():
        module = SAVED[way](library)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    classes = [nn.Linear, nn.MultiheadAttention, type(nn.MultiheadAttention(4, 2).out_proj)]
    classes += [library.PruningContainer, library.CustomFromMask, library.L1Unstructured]
    with torch.serialization.safe_globals(classes):
        loaded = torch.load(file, weights_only=True)
    for key, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    for old, new in zip(methods_in(module), methods_in(loaded), strict=True):
        assert type(old) is type(new)
        if hasattr(old, "mask"):
            assert torch.equal(old.mask, new.mask)


@pytest.mark.parametrize("times", [1, 2])
def test_removed_methods_are_hooks_no_longer(times: int) -> None:
    """Of methods that a caller keeps, those of before are not looked through."""
    module, kept = linear(), []
    for _ in range(5):
        for _ in range(times):
            kept.append(prune.L1Unstructured.apply(module, "weight", 1))
        prune.remove(module, "weight")
    assert not [method for method in kept if id(method) in homes]
    assert not [m for h in kept for m in lookup.methods_of(h) if id(m) in homes]
    assert id(module.weight) not in holders


#: What upstream does with them; its `l1_unstructured` fails.
OF_INFERENCE: dict[str, Callable[[Any, nn.Module], Any]] = {
    "ln": lambda library, m: library.ln_structured(m, "weight", 1, 2, 0),
    "custom": lambda library, m: library.custom_from_mask(m, "weight", torch.eye(3, 4)),
    "global": lambda library, m: library.global_unstructured(
        [(m, "weight"), (m, "bias")], library.L1Unstructured, amount=0.5
    ),
}


@pytest.mark.parametrize("way", OF_INFERENCE)
def test_parameters_made_in_inference_mode(way: str) -> None:
    results = []
    for library in (upstream, prune):
        with torch.inference_mode():
            torch.manual_seed(0)
            module = linear()
        OF_INFERENCE[way](library, module)
        results.append(module)
    theirs, ours = results
    for tensor in ("weight", "bias"):
        a, b = getattr(ours, tensor), getattr(theirs, tensor)
        assert torch.equal(a, b) and a.requires_grad is b.requires_grad
        assert (a.grad_fn is None) is (b.grad_fn is None)
        assert a.is_inference() is b.is_inference()
