"""The public API on every device: the masks of the CPU, and of upstream where it draws numbers."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import nn

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


def test_copies_move_between_devices(device: str) -> None:
    module = fastprune.l1_unstructured(nn.Linear(6, 4), "weight", 0.5)
    x = torch.randn(3, 6)
    expected = module(x)
    twin = copy.deepcopy(module).to(device)
    torch.testing.assert_close(twin(x.to(device)).cpu(), expected)
    assert twin.weight.device.type == device
