"""prune.cached: products made on entry, no hook inside, nothing cached outside."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parametrize

import fastprune as prune
from fastprune.caching import Cached

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 4))
    prune.l1_unstructured(layers[0], "weight", 0.5)
    prune.l1_unstructured(layers[0], "weight", 0.5)
    prune.l1_unstructured(layers[0], "bias", 0.5)
    upstream.l1_unstructured(layers[2], "weight", 0.5)
    return layers


def product(layer: Any, name: str = "weight") -> Tensor:
    result: Tensor = getattr(layer, name + "_orig") * getattr(layer, name + "_mask")
    return result


def hooks(module: nn.Module) -> list[list[Any]]:
    return [list(m._forward_pre_hooks.items()) for m in module.modules()]


def test_outputs_and_no_hook_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = model()
    before, expected = hooks(layers), layers(X)
    with prune.cached(layers):
        assert hooks(layers) == [[]] * 5
        monkeypatch.setattr(prune.BasePruningMethod, "__call__", None)
        monkeypatch.setattr(upstream.BasePruningMethod, "__call__", None)
        assert torch.equal(layers(X), expected)
        assert layers[0].weight is layers[0].weight
        monkeypatch.undo()
        assert prune.is_pruned(layers)
    assert hooks(layers) == before


def test_products_are_made_on_entry_and_nothing_is_cached_outside() -> None:
    layers = model()
    layers(X)
    layers[0].weight_orig.data.mul_(3)
    with prune.cached(layers), torch.no_grad():
        assert torch.equal(layers[0].weight, product(layers[0]))
        inside = layers(X)
    layers[0].weight_orig.data.mul_(3)
    assert not torch.equal(layers(X), inside)
    assert torch.equal(layers[0].weight, product(layers[0]))


def test_pruning_again_removing_and_loading_inside() -> None:
    layers, other = model(), model()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    with prune.cached(layers):
        prune.l1_unstructured(layers[0], "weight", 3)
        assert hooks(layers) == [[]] * 5
        assert torch.equal(layers[0].weight, product(layers[0]))
        prune.global_unstructured(
            [(layers[0], "weight"), (layers[2], "weight")], prune.L1Unstructured, amount=0.2
        )
        assert hooks(layers) == [[]] * 5
        for layer in (layers[0], layers[2]):
            assert torch.equal(layer.weight, product(layer))
        layers.load_state_dict(other.state_dict())
        assert torch.equal(layers[0].weight, product(other[0]))
        assert torch.equal(layers(X), other(X))
        prune.remove(layers[0], "weight")
        assert isinstance(layers[0].weight, nn.Parameter)
        assert torch.equal(layers(X), other(X))
        prune.remove(layers[2], "weight")
    assert [len(m._forward_pre_hooks) for m in layers.modules()] == [0, 1, 0, 0, 0]
    assert torch.equal(layers(X), other(X))
    prune.remove(layers[0], "bias")
    assert not prune.is_pruned(layers)


def test_pruned_for_the_first_time_inside() -> None:
    layers = model()
    with prune.cached(layers):
        prune.l1_unstructured(layers[3], "weight", 0.5)
        layers[3].weight_orig.data.mul_(2)
        layers(X)
        assert torch.equal(layers[3].weight, product(layers[3]))
    layers[3].weight_orig.data.mul_(2)
    layers(X)
    assert torch.equal(layers[3].weight, product(layers[3]))


def test_nested_and_entered_again() -> None:
    layers = model()
    before = hooks(layers)
    context = prune.cached(layers)
    with context, prune.cached(layers[0]), context:
        with prune.cached(layers):
            prune.l1_unstructured(layers[0], "weight", 1)
        assert hooks(layers) == [[]] * 5
    assert [len(h) for h in hooks(layers)] == [len(h) for h in before]
    layers[0].weight_orig.data.mul_(2)
    with context:
        assert torch.equal(layers[0].weight, product(layers[0]))
    layers[0].weight_orig.data.mul_(2)
    layers(X)
    assert torch.equal(layers[0].weight, product(layers[0]))


def test_a_part_that_is_left_before_the_whole() -> None:
    layers = model()
    whole, part = prune.cached(layers), prune.cached(layers[0])
    part.__enter__()
    whole.__enter__()
    part.__exit__(None, None, None)
    assert hooks(layers) == [[]] * 5
    whole.__exit__(None, None, None)
    assert [len(h) for h in hooks(layers)] == [0, 2, 0, 1, 0]


def test_exceptions() -> None:
    layers = model()
    before, state = hooks(layers), copy.deepcopy(layers.state_dict())
    with pytest.raises(KeyboardInterrupt), prune.cached(layers):
        raise KeyboardInterrupt
    assert hooks(layers) == before
    with prune.cached(layers):
        for wrong in (
            lambda: prune.l1_unstructured(layers[0], "weight", 1000),
            lambda: prune.remove(layers[0], "nothing"),
            lambda: prune.global_unstructured(
                [(layers[0], "weight"), (layers[3], "nothing")], prune.L1Unstructured, amount=1
            ),
        ):
            with pytest.raises((ValueError, AttributeError)):
                wrong()
            assert hooks(layers) == [[]] * 5
            assert torch.equal(layers[0].weight, product(layers[0]))
    assert hooks(layers) == before
    assert list(layers.state_dict()) == list(state)
    for key, value in state.items():
        assert torch.equal(layers.state_dict()[key], value)


def test_a_failure_on_entry_restores_all_modules() -> None:
    layers = model()
    before = hooks(layers)
    mask = layers[2].weight_mask
    del layers[2].weight_mask
    with pytest.raises(AttributeError), prune.cached(layers):
        pass
    assert hooks(layers) == before
    assert not any(isinstance(m, Cached) for m in layers.modules())
    layers[2].register_buffer("weight_mask", mask)
    with prune.cached(layers):
        assert hooks(layers) == [[]] * 5


def test_hooks_of_others_run_in_their_order() -> None:
    seen: list[str] = []
    layer = nn.Linear(8, 8)
    layer.register_forward_pre_hook(lambda m, i: seen.append("first"))
    prune.l1_unstructured(layer, "weight", 0.5)
    handle = layer.register_forward_pre_hook(lambda m, i: seen.append("last"))
    order = list(layer._forward_pre_hooks)
    with prune.cached(layer):
        inside = layer.register_forward_pre_hook(lambda m, i: seen.append("inside"))
        layer(X)
        handle.remove()
        layer(X)
    assert seen == ["first", "last", "inside", "first", "inside"]
    assert list(layer._forward_pre_hooks) == [*order[:2], inside.id]
    inside.remove()
    assert list(layer._forward_pre_hooks) == order[:2]


def test_threads() -> None:
    layers = model()
    expected = layers(X).detach()
    before = hooks(layers)
    wrong: list[Any] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        for _ in range(50):
            with prune.cached(layers), torch.no_grad():
                if not torch.equal(layers(X), expected):
                    wrong.append("output")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert hooks(layers) == before


def test_graphs() -> None:
    layers = model()
    (layers(X).square().sum() + layers(2 * X).square().sum()).backward()
    expected = {n: p.grad for n, p in layers.named_parameters()}
    layers.zero_grad()
    with prune.cached(layers):
        (layers(X).square().sum() + layers(2 * X).square().sum()).backward()
        for n, p in layers.named_parameters():
            torch.testing.assert_close(p.grad, expected[n])
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            layers(X).sum().backward()
    layers(X).sum().backward()


def test_nothing_is_held() -> None:
    layers = model()
    with prune.cached(layers):
        pass
    dead = weakref.ref(layers[0])
    del layers
    gc.collect()
    assert dead() is None


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "pickle, protocol 0": lambda module: pickle.loads(pickle.dumps(module, 0)),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_inside_are_pruned_modules(how: str) -> None:
    layers = model()
    prune.remove(layers[2], "weight")  # upstream's hooks do not let a graph be copied
    layers.append(nn.MultiheadAttention(4, 2).out_proj)
    prune.l1_unstructured(layers[4], "weight", 0.5)
    expected = layers(X)
    with prune.cached(layers):
        assert repr(layers) == repr(model().append(nn.MultiheadAttention(4, 2).out_proj))
        twin = COPIES[how](layers)
        assert list(twin.state_dict()) == list(layers.state_dict())
        assert torch.equal(twin(X), expected)
        for i in (0, 4):
            twin[i].weight_orig.data.mul_(2)
        twin(X)
        for i in (0, 4):
            assert torch.equal(twin[i].weight, product(twin[i]))
        assert hooks(layers) == [[]] * 6
    assert [len(h) for h in hooks(twin)] == [len(h) for h in hooks(layers)]
    assert [type(m) for m in twin.modules()] == [type(m) for m in layers.modules()]
    twin.load_state_dict(layers.state_dict())
    assert torch.equal(twin(X), expected)
    assert not twin[0]._load_state_dict_post_hooks
    prune.remove(twin[4], "weight")


def test_attention_rnns_and_parametrizations() -> None:
    attention, rnn = nn.MultiheadAttention(8, 2), nn.LSTM(8, 4)
    for module, name in [
        (attention, "in_proj_weight"),
        (attention.out_proj, "weight"),
        (rnn, "weight_ih_l0"),
        (rnn, "weight_hh_l0"),
    ]:
        prune.l1_unstructured(module, name, 0.5)
    prune.parametrized(rnn, "bias_ih_l0", prune.L1Unstructured(0.5))
    both = nn.ModuleList([attention, rnn]).eval()
    with torch.no_grad():
        expected = attention(X, X, X)[0], rnn(X)[0]
        with prune.cached(both):
            assert attention.out_proj.weight is attention.out_proj.weight
            assert torch.equal(attention(X, X, X)[0], expected[0])
            assert torch.equal(rnn(X)[0], expected[1])
        attention.out_proj.weight_orig.mul_(2)  # type: ignore[union-attr, operator]
        rnn.weight_ih_l0_orig.mul_(2)  # type: ignore[union-attr, operator]
        assert not torch.equal(attention(X, X, X)[0], expected[0])
        assert not torch.equal(rnn(X)[0], expected[1])
        assert torch.equal(attention.out_proj.weight, product(attention.out_proj))


def test_compiled_once_for_each_state() -> None:
    torch._dynamo.reset()
    layers = model()
    count = CompileCounter()
    compiled = torch.compile(layers, backend=count, fullgraph=True)
    with torch.no_grad():
        expected = layers(X)
        for _ in range(3):
            assert torch.equal(compiled(X), expected)
            with prune.cached(layers):
                assert torch.equal(compiled(X), expected)
                assert torch.equal(compiled(X), expected)
        assert count.frame_count == 2
        layers[0].weight_orig.mul_(2)
        assert torch.equal(compiled(X), layers(X))
        assert not torch.equal(compiled(X), expected)


# ---- modules whose classes do more ----


class Tagged(nn.Linear):
    def __init_subclass__(cls, *, tag: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)


class Ours(Tagged, tag="x"):
    pass


class Frozen(nn.Linear):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":
            raise AttributeError("frozen")
        super().__setattr__(name, value)


class Copying(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        result = type(self).__new__(type(self))
        memo[id(self)] = result
        result.__dict__ = copy.deepcopy(self.__dict__, memo)
        return result


@pytest.mark.parametrize("kind", [Ours, Frozen, Copying])
def test_classes_of_users(kind: type[nn.Linear]) -> None:
    layer = prune.l1_unstructured(kind(8, 8), "weight", 0.5)
    with torch.no_grad(), prune.cached(layer):
        expected = layer(X)
        assert isinstance(layer, kind)
        twin = copy.deepcopy(layer)
        fresh = type(layer)(8, 8)
        prune.l1_unstructured(fresh, "weight", 0.5)
    assert type(layer) is type(twin) is kind
    assert len(layer._forward_pre_hooks) == len(twin._forward_pre_hooks) == 1
    with torch.no_grad():
        assert torch.equal(twin(X), expected)
        twin.weight_orig.zero_()  # type: ignore[union-attr, operator]
        assert not torch.equal(twin(X), expected)


def test_a_parametrization_of_torchs_comes_and_goes_inside() -> None:
    layers = model()
    before = [len(layer._forward_pre_hooks) for layer in layers]
    with prune.cached(layers):
        parametrize.register_parametrization(layers[3], "weight", nn.Identity())
        parametrize.register_parametrization(layers[0], "bias_orig", nn.Identity())
        twin = copy.deepcopy(layers[3])
    assert [len(layer._forward_pre_hooks) for layer in layers] == before
    parametrize.remove_parametrizations(layers[0], "bias_orig")
    parametrize.remove_parametrizations(layers[3], "weight")
    assert [type(m) for m in layers.modules()] == [type(m) for m in model().modules()]
    assert parametrize.is_parametrized(twin)
    with prune.cached(layers):
        prune.remove(layers[0], "weight")
        prune.remove(layers[0], "bias")
        prune.remove(layers[2], "weight")
        assert not prune.is_pruned(layers)


def test_failures_inside_leave_containers_alone() -> None:
    class Failing(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            raise RuntimeError("on purpose")

    layers = model()
    (container, _) = layers[0]._forward_pre_hooks.values()
    with prune.cached(layers):
        with pytest.raises(RuntimeError, match="on purpose"):
            Failing.apply(layers[0], "weight")
        with pytest.raises(AttributeError):
            prune.global_unstructured(
                [(layers[0], "weight"), (nn.Linear(2, 2), "nothing")],
                prune.L1Unstructured,
                amount=1,
            )
    assert next(iter(layers[0]._forward_pre_hooks.values())) is container
    assert len(container) == 2  # type: ignore[arg-type]


def test_another_dtype_inside_and_replicas() -> None:
    layers = model()
    with torch.no_grad(), prune.cached(layers):
        layers.double()
        assert layers(X.double()).dtype == torch.float64
        replica = layers[0]._replicate_for_data_parallel()
        assert len(replica._forward_pre_hooks) == 2
        assert type(replica) is nn.Linear
        assert hooks(layers) == [[]] * 5


def test_a_scripted_module_is_not_pruned() -> None:
    assert not prune.is_pruned(nn.Sequential(torch.jit.script(nn.Linear(2, 2))))
    layers = model().append(torch.jit.script(nn.Linear(4, 4)))
    assert prune.is_pruned(layers)
    with torch.no_grad():
        expected = layers(X)
        with prune.cached(layers):
            assert torch.equal(layers(X), expected)


def test_state_dicts_inside() -> None:
    layers = model()
    expected = prune.dense_state_dict(layers)
    with prune.cached(layers):
        dense = prune.dense_state_dict(layers)
    assert list(dense) == list(expected)
    assert all(torch.equal(dense[key], expected[key]) for key in dense)
