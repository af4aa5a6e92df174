"""The public API on every device: the masks of the CPU, and of upstream where it draws numbers."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune
from support.inputs import FLOATS, name

CALLS: dict[str, Callable[[nn.Module], object]] = {
    "l1": lambda m: fastprune.l1_unstructured(m, "weight", 0.3),
    "ln": lambda m: fastprune.ln_structured(m, "weight", 0.3, 2, 0),
    "fro": lambda m: fastprune.ln_structured(m, "weight", 2, "fro", 1),
    "identity": lambda m: fastprune.identity(m, "weight"),
    "custom": lambda m: fastprune.custom_from_mask(
        m, "weight", torch.ones(8, 6, 3, 3, device=m.weight.device).triu()
    ),
    "global": lambda m: fastprune.global_unstructured(
        [(m, "weight"), (m, "bias")], fastprune.L1Unstructured, amount=0.4
    ),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("call", CALLS)
def test_same_bits_as_on_the_cpu(
    device: str, call: str, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    here = nn.Conv2d(6, 8, 3).to(dtype)
    there = copy.deepcopy(here).to(device=device, memory_format=memory_format)
    for again in (call, call, "l1", call):
        for module in (here, there):
            CALLS[again](module)
        for key, value in there.state_dict().items():
            assert value.device.type == device
            assert torch.equal(value.cpu(), here.state_dict()[key])
        assert torch.equal(there.weight.cpu(), here.weight)
    fastprune.remove(there, "weight")
    assert isinstance(there.weight, nn.Parameter)


@pytest.mark.parametrize("function", ["random_unstructured", "random_structured"])
def test_same_seed_same_mask_as_upstream(device: str, function: str) -> None:
    ours = nn.Conv2d(6, 8, 3).to(device)
    theirs = copy.deepcopy(ours)
    options = {"dim": 0} if function == "random_structured" else {}
    for _ in range(3):
        for package, module in ((fastprune, ours), (upstream, theirs)):
            torch.manual_seed(4)
            getattr(package, function)(module, "weight", amount=0.3, **options)
        assert torch.equal(ours.weight_mask, theirs.weight_mask)


def test_training_step(device: str) -> None:
    module = nn.Linear(6, 4).to(device)
    fastprune.l1_unstructured(module, "weight", 0.5)
    module(torch.randn(3, 6, device=device)).square().sum().backward()
    gradient = module.weight_orig.grad
    assert gradient is not None
    assert (gradient[module.weight_mask == 0] == 0).all()
    assert gradient[module.weight_mask == 1].all()


@pytest.mark.parametrize("mask_dtype", [torch.bool, "bits"], ids=str)
def test_training_in_place(device: str, mask_dtype: torch.dtype | str) -> None:
    module = nn.Linear(6, 4).to(device)
    fastprune.l1_unstructured(module, "weight", 0.5)
    pruned = module.weight_mask == 0
    optimizer = torch.optim.AdamW(module.parameters(), 0.1)
    fastprune.in_place(module, optimizer, mask_dtype=mask_dtype)
    for _ in range(2):
        module(torch.randn(3, 6, device=device)).square().sum().backward()
        optimizer.step()
        assert not module.weight[pruned].any()
        assert module.weight[~pruned].all()
    fastprune.restore(module)
    assert torch.equal(module.weight_mask == 0, pruned)


def test_cached(device: str) -> None:
    module = fastprune.l1_unstructured(nn.Linear(6, 4).to(device), "weight", 0.5)
    x = torch.randn(3, 6, device=device)
    expected = module(x)
    with torch.no_grad(), fastprune.cached(module):
        assert torch.equal(module(x), expected)


def test_products_after_loading(device: str) -> None:
    saved = fastprune.l1_unstructured(nn.Linear(6, 4).to(device), "weight", 0.5)
    fresh = fastprune.attach(nn.Linear(6, 4).to(device), saved.state_dict())
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh.weight, saved.weight)
    assert fresh.weight.device.type == device


def test_a_product_whose_memory_is_held_stays(device: str) -> None:
    """Large enough for its memory to be used again, if nothing holds it."""
    module = nn.Linear(3000, 3000, bias=False, device=device)
    fastprune.l1_unstructured(module, "weight", 0.5)
    x = torch.ones(1, 3000, device=device)
    with torch.no_grad():
        module(x)
        held = module.weight
        kept = held.clone()
        module.weight_orig.add_(1)
        module(x)
        assert torch.equal(held, kept)
        assert torch.equal(module.weight, module.weight_orig * module.weight_mask)


def test_copies_move_between_devices(device: str) -> None:
    module = fastprune.l1_unstructured(nn.Linear(6, 4), "weight", 0.5)
    x = torch.randn(3, 6)
    expected = module(x)
    twin = copy.deepcopy(module).to(device)
    torch.testing.assert_close(twin(x.to(device)).cpu(), expected)
    assert twin.weight.device.type == device


class Mine(upstream.BasePruningMethod):
    """A method of a user, which upstream's container calls on one flat tensor."""

    PRUNING_TYPE = "unstructured"  # type: ignore[assignment]

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask[t < t.quantile(self.amount)] = 0
        return mask


class Signed(fastprune.Unstructured):
    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return t


@pytest.mark.parametrize(
    "method",
    [fastprune.L1Unstructured, fastprune.RandomUnstructured, Signed, Mine],
    ids=lambda m: m.__name__,
)
def test_one_budget_over_devices(device: str, method: Any) -> None:
    """Modules on the CPU and on another device, of two dtypes, some pruned before."""

    def model(device: str) -> list[tuple[nn.Module, str]]:
        torch.manual_seed(0)
        layers = [nn.Linear(30, 20), nn.Linear(20, 50).double(), nn.Linear(50, 9), nn.Linear(9, 5)]
        fastprune.l1_unstructured(layers[2], "weight", 0.3)
        pairs = [(layer, name) for layer in layers for name in ("weight", "bias")]
        for layer in layers[1:3]:
            layer.to(device)
        return pairs

    here, there = model("cpu"), model(device)
    scores = {here[0]: torch.rand(20, 30)}, {there[0]: torch.rand(20, 30).to(device)}
    scores[1][there[0]].copy_(scores[0][here[0]])  # on another device than its parameter
    for amount in (0.4, 0.2):
        for pairs, given in zip((here, there), scores, strict=True):
            torch.manual_seed(1)
            fastprune.global_unstructured(pairs, method, given, amount=amount)
        for (ours, n), (module, _) in zip(there, here, strict=True):
            weight = getattr(ours, n)
            assert weight.device == getattr(ours, f"{n}_orig").device
            torch.testing.assert_close(weight.cpu(), getattr(module, n), rtol=0, atol=0)
            mask = getattr(ours, f"{n}_mask")
            assert torch.equal(mask.cpu(), getattr(module, f"{n}_mask"))
