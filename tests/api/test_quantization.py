"""torch.ao.quantization of pruned models gives what it gives after ``remove``."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastprune as prune
from support.unchanged import assert_unchanged, snapshot

ao = pytest.importorskip("torch.ao.quantization", reason="this torch is without it")
fx = pytest.importorskip("torch.ao.quantization.quantize_fx", reason="this torch is without it")
ENGINES = [e for e in ("fbgemm", "qnnpack") if e in torch.backends.quantized.supported_engines]


@pytest.fixture(autouse=True)
def _engine() -> Iterator[None]:
    if not ENGINES:
        pytest.skip("this torch has no quantized kernels")
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, ENGINES[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        yield
    torch.backends.quantized.engine = before


class Recurrent(nn.Module):
    """An RNN of which only the output counts."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(x)[0]
        return out


def stubbed(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(ao.QuantStub(), *layers, ao.DeQuantStub())


def convolutions() -> nn.Sequential:
    return stubbed(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Flatten(2),
        nn.Conv1d(4, 4, 3),
        nn.Flatten(),
        nn.Linear(56, 5),
    )


IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0))


def prune_all(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name in [n for n, p in module.named_parameters(recurse=False) if p.dim() > 1]:
            prune.ln_structured(module, name, 1, 2, 0)
            prune.l1_unstructured(module, name, 0.5)


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    """Pruned, and after a step without a forward: ``weight`` has a graph and old values."""
    prune_all(model)
    out = model(x)
    (out[0] if isinstance(out, tuple) else out).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    return model


def removed(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    for module in twin.modules():
        for hook in list(module._forward_pre_hooks.values()):
            prune.remove(module, hook._tensor_name)
    assert not prune.is_pruned(twin)
    return twin


def dynamic(model: nn.Module, x: Tensor) -> nn.Module:
    kinds = {nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell}
    return ao.quantize_dynamic(model.eval(), kinds)


def static(model: nn.Module, x: Tensor) -> nn.Module:
    model.eval().qconfig = ao.get_default_qconfig(ENGINES[0])
    prepared = ao.prepare(model)
    prepared(x)
    return ao.convert(prepared)


def static_in_place(model: nn.Module, x: Tensor) -> nn.Module:
    model.eval().qconfig = ao.get_default_qconfig(ENGINES[0])
    ao.prepare(model, inplace=True)
    model(x)
    return ao.convert(model, inplace=True)


def by_graph(model: nn.Module, x: Tensor) -> nn.Module:
    mapping = ao.get_default_qconfig_mapping(ENGINES[0])
    prepared = fx.prepare_fx(model.eval(), mapping, (x,))
    prepared(x)
    return fx.convert_fx(prepared)


def by_graph_dynamic(model: nn.Module, x: Tensor) -> nn.Module:
    model(x)  # nothing is copied, so the pruned weight is that of the last forward
    mapping = ao.QConfigMapping().set_global(ao.default_dynamic_qconfig)
    return fx.convert_fx(fx.prepare_fx(model.eval(), mapping, (x,)))


CASES: dict[str, tuple[Any, Callable[[], nn.Module], Tensor]] = {
    "dynamic, Linear": (
        dynamic,
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        ROWS,
    ),
    "dynamic, LSTM": (dynamic, lambda: Recurrent(nn.LSTM(4, 3, 2, bidirectional=True)), SEQUENCES),
    "dynamic, GRU": (dynamic, lambda: Recurrent(nn.GRU(4, 3)), SEQUENCES),
    "dynamic, LSTMCell": (dynamic, lambda: Recurrent(nn.LSTMCell(4, 3)), ROWS),
    "static": (static, convolutions, IMAGES),
    "static, in place": (static_in_place, convolutions, IMAGES),
    "static, LSTM": (static, lambda: stubbed(Recurrent(nn.LSTM(4, 3))), SEQUENCES),
    "fx": (by_graph, convolutions, IMAGES),
    "fx, dynamic": (
        by_graph_dynamic,
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        ROWS,
    ),
}


@pytest.mark.parametrize("title", CASES)
def test_as_after_remove(title: str) -> None:
    quantize, make, x = CASES[title]
    model = trained(make(), x)
    expected = quantize(removed(model), x)
    quantized = quantize(model, x)
    for _ in range(2):
        assert torch.equal(quantized(x), expected(x))
    twin = copy.deepcopy(quantized)
    assert torch.equal(twin(x), expected(x))
    dense = prune.dense_state_dict(quantized)
    assert list(dense) == list(expected.state_dict())
    if title != "static, in place":  # the model that was quantized is pruned as before
        model.train()
        assert prune.is_pruned(model)
        assert torch.isfinite(model(x)).all()


def test_the_copy_has_the_product_of_now() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 3)), ROWS)
    before = snapshot(model[0])
    now = model[0].weight_orig * model[0].weight_mask
    assert not torch.equal(model[0].weight, now)  # the optimizer has changed the original
    twin = copy.deepcopy(model)
    assert torch.equal(twin[0].weight, now)
    assert twin[0].weight.is_leaf
    assert_unchanged(model[0], before)


def test_a_copy_of_a_module_without_its_mask() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 3)), ROWS)
    del model[0].weight_mask
    assert torch.equal(copy.deepcopy(model)[0].weight, model[0].weight)


def test_a_copy_of_a_module_whose_product_is_its_original() -> None:
    class Bare(prune.L1Unstructured):
        def apply_mask(self, module: nn.Module) -> Tensor:
            return 1 * module.weight_orig if torch.is_grad_enabled() else module.weight_orig

    model = nn.Linear(4, 3)
    Bare.apply(model, "weight", 2)
    twin = copy.deepcopy(model)
    twin.weight.zero_()
    assert model.weight_orig.all()


def test_quantized_training_of_pruned_modules() -> None:
    """``prepare_qat`` comes first: it moves Parameters, and a pruned weight is none."""
    model = stubbed(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    model.train().qconfig = ao.get_default_qat_qconfig(ENGINES[0])
    prepared = ao.prepare_qat(model)
    for layer in (prepared[1], prepared[4]):
        prune.l1_unstructured(layer, "weight", 0.5)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(IMAGES).square().sum().backward()
        optimizer.step()
    for layer in (prepared[1], prepared[4]):
        assert not layer.weight_orig.grad[layer.weight_mask == 0].any()
    expected = ao.convert(removed(prepared).eval())
    quantized = ao.convert(prepared.eval())
    assert torch.equal(quantized(IMAGES), expected(IMAGES))
    weight = quantized[4].weight().dequantize()
    assert not weight[prepared[4].weight_mask == 0].any()


def test_a_quantized_model_is_traced_compiled_and_pickled() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), ROWS)
    quantized = dynamic(model, ROWS)
    expected = dynamic(removed(model), ROWS)(ROWS)
    assert torch.equal(torch.jit.trace(quantized, ROWS)(ROWS), expected)
    assert torch.equal(torch.compile(quantized, backend="eager")(ROWS), expected)
    assert torch.equal(pickle.loads(pickle.dumps(quantized))(ROWS), expected)


def test_a_mask_that_is_missing_is_still_an_error() -> None:
    """Also in a module of training with quantization, which has its original."""
    model = nn.Sequential(nn.Linear(4, 3))
    model.train().qconfig = ao.get_default_qat_qconfig(ENGINES[0])
    for layer in (nn.Linear(4, 3), ao.prepare_qat(model)[0]):
        prune.l1_unstructured(layer, "weight", 0.5)
        del layer.weight_mask
        with pytest.raises(AttributeError, match="weight_mask"):
            layer(ROWS)
    layer = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
    del layer.weight_mask, layer.weight_orig
    with pytest.raises(AttributeError, match="weight_"):
        layer(ROWS)
