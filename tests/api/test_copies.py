"""Pruned models that are averaged, moved, converted, shared, and sent to another process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

import fastprune as prune
from support.children import forward_and_backward
from support.inputs import name

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def model() -> nn.Sequential:
    """Pruned, after a step: weights carry a graph, and values from before the step."""
    layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    prune.l1_unstructured(layers[0], "weight", 0.5)
    prune.ln_structured(layers[0], "weight", 1, 2, 0)
    prune.random_unstructured(layers[2], "weight", 0.3)
    step(layers)
    return layers


def step(layers: nn.Module) -> None:
    layers.zero_grad()
    layers(X).square().sum().backward()
    torch.optim.SGD(layers.parameters(), lr=0.1).step()


def dense_output(layers: nn.Module, x: Tensor = X) -> Tensor:
    """By hand, from originals and masks."""
    a, b = layers[0], layers[2]
    hidden = torch.tanh(nn.functional.linear(x, a.weight_orig * a.weight_mask, a.bias))
    return nn.functional.linear(hidden, b.weight_orig * b.weight_mask, b.bias)


# ---- averages ----


@pytest.mark.parametrize("how", [None, get_ema_avg_fn(0.5)], ids=["mean", "ema"])
def test_averaged_model_while_a_gradient_is_carried(how: Any) -> None:
    layers = model()
    averaged = AveragedModel(layers, avg_fn=how)
    seen = []
    for _ in range(3):
        step(layers)
        averaged.update_parameters(layers)
        seen.append([p.detach().clone() for p in layers.parameters()])
    expected = seen[0]
    for i, new in enumerate(seen[1:], start=2):
        share = 1 / i if how is None else 0.5
        expected = [old.lerp(p, share) for old, p in zip(expected, new, strict=True)]
    for ours, theirs in zip(averaged.module.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    for key, value in averaged.module.named_buffers():
        assert torch.equal(value, layers.get_buffer(key))
    assert torch.equal(averaged(X), dense_output(averaged.module))
    copied = copy.deepcopy(averaged)
    assert torch.equal(copied(X), averaged(X))


def test_an_average_that_takes_masks_too() -> None:
    layers = model()
    averaged = AveragedModel(layers, use_buffers=True)
    averaged.update_parameters(layers)
    prune.l1_unstructured(layers[0], "weight", 2)
    averaged.update_parameters(layers)
    both = averaged.module[0].weight_mask
    assert set(both.unique().tolist()) == {0.0, 0.5, 1.0}  # as torch averages any buffer
    assert torch.equal(averaged(X), dense_output(averaged.module))


def test_ema_by_data() -> None:
    layers = model()
    ema = copy.deepcopy(layers)
    expected = [p.detach().clone() for p in layers.parameters()]
    for _ in range(3):
        step(layers)
        for old, new in zip(ema.parameters(), layers.parameters(), strict=True):
            old.data.mul_(0.9).add_(new.data, alpha=0.1)
        expected = [
            old.mul(0.9).add(new.detach(), alpha=0.1)
            for old, new in zip(expected, layers.parameters(), strict=True)
        ]
    for ours, theirs in zip(ema.parameters(), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(ema(X), dense_output(ema))
    layers(X)
    assert not torch.equal(ema(X), layers(X))
    # Swapped in and out, as for an evaluation.
    kept = [p.data for p in layers.parameters()]
    for mine, average in zip(layers.parameters(), ema.parameters(), strict=True):
        mine.data = average.data
    assert torch.equal(layers(X), ema(X))
    for mine, data in zip(layers.parameters(), kept, strict=True):
        mine.data = data
    assert torch.equal(layers(X), dense_output(layers))


# ---- moves and conversions ----

MOVES: dict[str, tuple[Callable[[nn.Module], nn.Module], torch.dtype]] = {
    "half": (lambda m: m.half(), torch.float16),
    "bfloat16": (lambda m: m.bfloat16(), torch.bfloat16),
    "double": (lambda m: m.double(), torch.float64),
    "to a dtype and back": (lambda m: m.to(torch.float64).to(torch.float32), torch.float32),
    "cpu": (lambda m: m.cpu(), torch.float32),
    "share_memory": (lambda m: m.share_memory(), torch.float32),
}


@pytest.mark.parametrize("with_graph", [True, False], ids=["with a graph", "without"])
@pytest.mark.parametrize("move", MOVES)
def test_moved_and_copied(move: str, with_graph: bool) -> None:
    layers = model()
    if not with_graph:
        with torch.no_grad():
            layers(X)
    change, dtype = MOVES[move]
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    assert change(layers) is layers
    twin = copy.deepcopy(layers)
    x = X.to(dtype)
    for moved in (twin, layers, copy.deepcopy(twin)):
        for key, value in moved.state_dict().items():
            assert value.dtype == dtype
            assert torch.equal(value, before[key].to(dtype)), key
        out = moved(x)
        assert torch.equal(out, dense_output(moved, x))
        assert moved[0].weight.dtype == dtype
        moved.zero_grad()
        out.sum().backward()
        assert not moved[0].weight_orig.grad[moved[0].weight_mask == 0].any()
        assert moved[2].weight_orig.grad.any()
    prune.l1_unstructured(twin[0], "weight", 2)
    assert twin[0].weight_mask.sum() == layers[0].weight_mask.sum() - 2
    if move == "share_memory":
        assert layers[0].weight_mask.is_shared()
        assert layers[0].weight_orig.is_shared()


def test_to_meta_and_to_empty() -> None:
    source = model()
    layers = copy.deepcopy(source).to("meta")
    assert layers(X.to("meta")).is_meta
    twin = copy.deepcopy(layers)  # while the product is on the meta device
    for moved in (layers, twin):
        assert all(t.is_meta for t in moved.state_dict().values())
        moved.to_empty(device="cpu")
        moved.load_state_dict(source.state_dict())
        assert torch.equal(moved(X), dense_output(source))
        assert torch.equal(copy.deepcopy(moved)(X), dense_output(source))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=name)
def test_a_copy_between_a_conversion_and_a_forward(dtype: torch.dtype) -> None:
    layers = model().to(dtype)
    assert layers[0].weight.dtype == torch.float32  # until the next forward, as upstream
    twin = copy.deepcopy(layers)
    assert twin[0].weight.dtype == dtype
    assert torch.equal(twin[0].weight, layers[0].weight_orig * layers[0].weight_mask)


# ---- other processes ----


def test_in_another_process() -> None:
    layers = model().share_memory()
    with torch.no_grad():
        layers(X)  # torch sends no tensor with a graph to another process
    layers.zero_grad()
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    child = context.Process(target=forward_and_backward, args=(layers, X, answers))
    child.start()
    out, gradients, shared = answers.get()
    child.join()
    assert child.exitcode == 0
    expected = layers(X)
    expected.square().sum().backward()
    assert torch.equal(torch.tensor(out), expected)
    assert shared == [True, True]
    for theirs, parameter in zip(gradients, layers.parameters(), strict=True):
        assert torch.equal(torch.tensor(theirs), parameter.grad)


def test_torch_refuses_to_send_a_graph_to_another_process() -> None:
    layers = model()
    with pytest.raises(RuntimeError, match="non-leaf tensor which requires_grad"):
        ForkingPickler.dumps(layers)
    assert torch.equal(layers(X), dense_output(layers))
    assert ForkingPickler.dumps(copy.deepcopy(layers))  # whose products are detached
