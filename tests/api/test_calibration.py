"""input_norms: the norms of inputs, against the formula of Wanda's paper."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastprune as prune


def of_wanda(batches: list[Tensor]) -> Tensor:
    """Its running mean, batch by batch, as its authors compute it."""
    mean, seen = torch.zeros(batches[0].shape[-1], dtype=torch.float64), 0
    for batch in batches:
        batch = batch.double()
        count = batch.shape[0] if batch.dim() > 2 else 1
        mean = mean * seen / (seen + count)
        seen += count
        mean = mean + batch.reshape(-1, batch.shape[-1]).norm(dim=0) ** 2 / seen
    return mean.sqrt()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_linear(dtype: torch.dtype) -> None:
    layer = nn.Linear(8, 4, dtype=dtype)
    batches = [torch.randn(shape).to(dtype) for shape in ((3, 5, 8), (2, 700, 8), (7, 8), (8,))]
    with prune.input_norms([layer]) as norms:
        for batch in batches:
            layer(batch)
    layer(batches[0])  # not seen
    assert norms[layer].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert norms[layer].shape == (1, 8)
    torch.testing.assert_close(norms[layer][0].double(), of_wanda(batches), rtol=1e-5, atol=0)


CONVOLUTIONS: list[tuple[type[Any], dict[str, Any]]] = [
    (nn.Conv2d, {}),
    (nn.Conv2d, {"stride": 2, "padding": 1}),
    (nn.Conv2d, {"stride": (1, 2), "dilation": (2, 1), "groups": 2}),
    (nn.Conv2d, {"padding": "same", "groups": 4}),
    (nn.Conv2d, {"padding": 2, "padding_mode": "reflect"}),
    (nn.Conv1d, {"stride": 3, "padding": 1, "groups": 2}),
    (nn.Conv1d, {"padding": 2, "padding_mode": "circular"}),
]


@pytest.mark.parametrize(("kind", "options"), CONVOLUTIONS)
def test_convolutions(kind: type[Any], options: dict[str, Any]) -> None:
    """What each entry of the kernel is multiplied with: the gradients of the squares say it."""
    layer = kind(4, 8, 3, **options).double()
    x = torch.randn(2, 4, *(9, 10)[: layer.weight.dim() - 2]).double()
    with prune.input_norms(layer) as norms:
        layer(x[:1])
        layer(x[1])  # without a dim for sequences
    ones = kind(4, 8, 3, **options, bias=False).double()
    ones(x**2).sum().backward()  # d/dw of Σ w x² is Σ x²
    expected = (ones.weight.grad / 2).sqrt()
    torch.testing.assert_close(norms[layer].expand_as(layer.weight), expected)


def test_conv1d_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    module = types.ModuleType("transformers.pytorch_utils")
    module.Conv1D = Conv1D  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", module)
    layer, x = Conv1D(), torch.randn(3, 5, 8)
    with prune.input_norms([layer]) as norms:
        layer(x=x)
    assert norms[layer].shape == (8, 1)
    torch.testing.assert_close(norms[layer][:, 0].double(), of_wanda([x]))


def test_a_model() -> None:
    model = nn.Sequential(
        nn.Linear(8, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)), nn.Linear(1, 1)
    )
    model.forward = lambda x: model[2](model[1](model[0](x)))  # type: ignore[method-assign]
    with prune.input_norms(model) as norms:
        assert len(norms) == 0
        model(torch.randn(3, 8))
        assert set(norms) == {model[0], model[2][0]}
    assert not any(m._forward_pre_hooks for m in model.modules())
    for layer, factor in norms.items():
        prune.row_unstructured(layer, "weight", 0.5, factor=factor)
        assert prune.is_pruned(layer)


def test_a_pruned_layer_and_inputs_by_name() -> None:
    layer, x = prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.5), torch.randn(3, 8)
    with prune.input_norms([layer, layer]) as norms:
        layer(input=x)
    torch.testing.assert_close(norms[layer][0].double(), of_wanda([x]))
    assert not norms[layer].requires_grad


def test_errors_leave_no_hook() -> None:
    layer = nn.Linear(2, 2)
    with (
        pytest.raises(TypeError, match="got Embedding"),
        prune.input_norms([layer, nn.Embedding(2, 2)]),
    ):
        pass
    assert not layer._forward_pre_hooks
    with pytest.raises(ZeroDivisionError), prune.input_norms([layer]):
        raise ZeroDivisionError
    assert not layer._forward_pre_hooks
