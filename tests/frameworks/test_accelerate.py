"""Models and optimizers that accelerate has prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastprune as prune
from frameworks.page import run_snippet

accelerate = pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402

ACCUMULATED = 2


@pytest.fixture(autouse=True)
def _no_state_of_others() -> Iterator[None]:
    """Accelerators share state in a process, whose options must not differ."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def net() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 12, generator=generator)
    y = torch.randint(4, (32,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def prune_it(model: nn.Module) -> None:
    pairs = [(m, "weight") for m in layers(model)]
    prune.global_unstructured(pairs, prune.L1Unstructured, sparsity=0.75)


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def train(accelerator: Any, model: nn.Module, optimizer: Any, data: Any, *, ours: bool) -> None:
    for x, y in data:
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, x, y))
            if accelerator.sync_gradients:
                if ours:
                    prune.mask_gradients(model)
                accelerator.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()


def train_plainly(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The same without accelerate."""
    for i, (x, y) in enumerate(loader()):
        (loss_of(model, x, y) / ACCUMULATED).backward()
        if i % ACCUMULATED == 1:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()


def products(model: nn.Module) -> list[Tensor]:
    return [layer.weight.detach().clone() for layer in layers(model)]


def assert_close(model: nn.Module, other: nn.Module) -> None:
    model(torch.zeros(1, 12)), other(torch.zeros(1, 12))  # products of the last weights
    for a, b in zip(products(model), products(other), strict=True):
        assert torch.equal(a == 0, b == 0)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def accelerator(**options: Any) -> Any:
    return accelerate.Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED, **options)


@pytest.mark.parametrize("prepared_first", [False, True])
@pytest.mark.parametrize("form", ["hooks", "in place", "in place, without the optimizer"])
def test_trains_as_a_plain_loop(form: str, prepared_first: bool) -> None:
    def pruned(model: nn.Module, optimizer: Any) -> None:
        prune_it(model)
        if form == "in place":
            prune.in_place(model, optimizer)
        elif form != "hooks":
            prune.in_place(model)

    expected = net()
    prune_it(expected)
    train_plainly(expected, adam(expected))

    made = accelerator()
    model = net()
    optimizer: Any = adam(model)
    if not prepared_first:
        pruned(model, optimizer)
    model, optimizer, data = made.prepare(model, optimizer, loader())
    if prepared_first:
        pruned(model, optimizer)
    train(made, model, optimizer, data, ours=form == "in place")
    assert sum(int((w == 0).sum()) for w in products(model)) == round(0.75 * 256)
    assert_close(model, expected)


def test_state_of_the_optimizer_inside_is_zero() -> None:
    made = accelerator()
    model = net()
    model, optimizer, data = made.prepare(model, adam(model), loader())
    train(made, model, optimizer, data, ours=False)
    prune_it(model)
    prune.in_place(model, optimizer)
    for layer in layers(model):
        state = optimizer.optimizer.state[layer.weight]
        kept = layer.get_buffer("weight_mask")
        for t in (state["exp_avg"], state["exp_avg_sq"]):
            assert not t[~kept].any() and t[kept].any()
    train(made, model, optimizer, data, ours=True)
    for layer in layers(model):
        assert torch.equal(layer.weight != 0, layer.get_buffer("weight_mask"))


@pytest.mark.parametrize("form", ["hooks", "in place"])
def test_state_is_saved_and_loaded(form: str, tmp_path: Path) -> None:
    def prepare(made: Any, attach: dict[str, Tensor] | None = None) -> tuple[Any, Any, Any]:
        model = net()
        optimizer = adam(model)
        if attach is not None and form == "hooks":
            prune.attach(model, attach)
        else:
            prune_it(model)
        if form == "in place":
            prune.in_place(model, optimizer)
        prepared: tuple[Any, Any, Any] = made.prepare(model, optimizer, loader())
        return prepared

    made = accelerator()
    model, optimizer, data = prepare(made)
    train(made, model, optimizer, data, ours=True)
    made.save_state(tmp_path / "state")
    saved = {name: t.clone() for name, t in model.state_dict().items()}
    train(made, model, optimizer, data, ours=True)

    again = accelerator()
    other, optimizer, data = prepare(again, saved)
    again.load_state(tmp_path / "state")
    for name, t in other.state_dict().items():
        assert torch.equal(t, saved[name]), name
    train(again, other, optimizer, data, ours=True)
    for name, t in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], t), name


def test_saved_model_has_plain_names(tmp_path: Path) -> None:
    made = accelerator()
    model = net()
    model, optimizer = made.prepare(model, adam(model))
    prune_it(model)
    prune.in_place(model, optimizer, persistent=False)
    made.save_model(model, tmp_path)
    state = pytest.importorskip("safetensors.torch").load_file(tmp_path / "model.safetensors")
    assert sorted(state) == sorted(net().state_dict())
    assert sum(int((state[f"{i}.weight"] == 0).sum()) for i in (0, 2)) == round(0.75 * 256)


def test_mixed_precision() -> None:
    made = accelerator(mixed_precision="bf16")
    model = net()
    model, optimizer, data = made.prepare(model, adam(model), loader())
    prune_it(model)
    prune.in_place(model, optimizer)
    train(made, model, optimizer, data, ours=True)
    for layer in layers(model):
        assert torch.equal(layer.weight != 0, layer.get_buffer("weight_mask"))


def test_wrapper_around_no_optimizer() -> None:
    """As DeepSpeed's, whose steps run no hooks."""
    made = accelerator()
    model = net()
    optimizer = made.prepare(adam(model))
    optimizer.optimizer = object()
    with pytest.raises(TypeError, match="Optimizer, got object in a AcceleratedOptimizer"):
        prune.in_place(model, optimizer)


def test_example() -> None:
    model = net()
    names = {"model": model, "optimizer": adam(model), "loader": loader()}
    before = products(model)
    run_snippet("accelerate", names)
    weights = products(names["model"])
    assert sum(int((w == 0).sum()) for w in weights) == round(0.9 * 256)
    first = layers(names["model"])[0].get_buffer("weight_mask")
    assert torch.equal(weights[0] != 0, first)
    assert not torch.equal(weights[0][first], before[0][first])
