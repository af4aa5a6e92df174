"""Masks given to a tensor before its last one: readable as upstream's, without piling up."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune

SHAPES = [(64, 48), (7, 5, 3, 3), (37,), ()]


def given(shape: tuple[int, ...], dtype: torch.dtype, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return (torch.rand(shape, generator=generator) < 0.8).to(dtype)


def module_with(shape: tuple[int, ...]) -> nn.Module:
    module = nn.Module()
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    module.weight = nn.Parameter(values)
    return module


def hook_of(module: nn.Module) -> Any:
    (hook,) = module._forward_pre_hooks.values()
    return hook


def held(hook: Any) -> int:
    """Bytes of all tensors that a container's methods keep, each memory counted once."""
    found: dict[int, int] = {}

    def visit(thing: object) -> None:
        if isinstance(thing, Tensor):
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        else:
            for value in getattr(thing, "__dict__", {}).values():
                visit(value)

    for method in hook._pruning_methods:
        visit(method)
    return sum(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_custom_masks_read_as_upstreams(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    def pruned(library: ModuleType) -> list[Any]:
        module = module_with(shape)
        for number in range(3):
            library.custom_from_mask(module, "weight", given(shape, dtype, number))
            library.l1_unstructured(module, "weight", 0)
        return [m.mask for m in hook_of(module) if isinstance(m, library.CustomFromMask)]

    ours, theirs = pruned(prune), pruned(upstream)
    assert len(ours) == len(theirs) == 3
    for mask, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mask, expected, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["hook", "parametrized", "in place"])
def test_custom_masks_take_a_bit_an_entry(form: str) -> None:
    module = module_with((64, 48))
    if form == "parametrized":
        prune.parametrized(module, "weight", prune.Identity())
    else:
        prune.identity(module, "weight")
    if form == "in place":
        prune.in_place(module)
    masks = [given((64, 48), torch.float32, number) for number in range(20)]
    for mask in masks:
        prune.custom_from_mask(module, "weight", mask)
    if form == "in place":
        prune.restore(module)
    if form == "parametrized":
        (masked,) = module.parametrizations["weight"]
        hook, last = masked.method, masked.mask
    else:
        hook, last = hook_of(module), module.weight_mask
    assert held(hook) == 64 * 48 * 4 + 19 * 64 * 48 // 8
    for method, mask in zip(hook[1:], masks, strict=True):
        assert torch.equal(method.mask, mask)
    assert torch.equal(last, torch.stack(masks).prod(0))


def test_masks_that_a_bit_cannot_hold_are_kept() -> None:
    module = module_with((8, 8))
    half = torch.full((8, 8), 0.5)
    learned = torch.ones(8, 8, requires_grad=True)
    nan = torch.ones(8, 8).index_fill(0, torch.tensor(0), float("nan"))
    masks = [half, learned * 1.0, nn.Parameter(torch.ones(8, 8)), nan, torch.ones(8, 8)]
    for mask in masks:
        prune.custom_from_mask(module, "weight", mask)
    for method, mask in zip(hook_of(module), masks, strict=True):
        assert method.mask is mask


def rounds_of(module: nn.Module, between: Callable[[], None] = lambda: None) -> list[Tensor]:
    masks = []
    for _ in range(5):
        prune.global_unstructured([(module, "weight")], prune.L1Unstructured, amount=0.1)
        masks.append(module.weight_mask.clone())
        between()
    return masks


class UserMethod(upstream.BasePruningMethod):  # type: ignore[misc]
    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask[: round(self.amount * len(t))] = 0
        return mask


def test_rounds_of_global_unstructured_keep_no_mask_of_their_own() -> None:
    module = module_with((64, 48))
    masks = rounds_of(module)
    hook = hook_of(module)
    buffer = module.weight_mask
    assert len(hook) == 5 and all(m.mask is buffer for m in hook)
    assert torch.equal(buffer, masks[-1])
    prune.custom_from_mask(module, "weight", given((64, 48), torch.float32, 1))
    assert held(hook) == 64 * 48 * 4 + 64 * 48 // 8  # packed once for all rounds
    assert all(torch.equal(m.mask, masks[-1]) for m in hook[:5])


def test_rounds_of_a_users_method_share_a_mask() -> None:
    module = module_with((64, 48))
    for i in range(1, 6):
        prune.global_unstructured([(module, "weight")], UserMethod, amount=0.1 * i)
    hook = hook_of(module)
    assert held(hook) == 64 * 48 * 4
    assert all(torch.equal(m.mask, module.weight_mask) for m in hook)


def test_other_methods_between_rounds() -> None:
    module = module_with((64, 48))
    rounds_of(module, lambda: prune.l1_unstructured(module, "weight", 10))  # type: ignore[arg-type, return-value]
    assert held(hook_of(module)) == 64 * 48 * 4
    number = iter(range(10))
    rounds_of(
        module,
        lambda: prune.custom_from_mask(  # type: ignore[arg-type, return-value]
            module, "weight", given((64, 48), torch.float32, next(number))
        ),
    )
    hook = hook_of(module)
    whole, packed = 64 * 48 * 4, 64 * 48 // 8
    assert held(hook) == whole + 9 * packed  # of 5 rounds and 5 masks the last alone is whole
    expected = [given((64, 48), torch.float32, n) for n in range(5)]
    for method, mask in zip(hook[11::2], expected, strict=True):
        assert torch.equal(method.mask, mask)


def test_a_round_that_fails_changes_nothing() -> None:
    module, other = module_with((64, 48)), nn.Linear(3, 3)
    rounds_of(module)
    hook = hook_of(module)
    before = [m.mask.clone() for m in hook]
    other.register_buffer("weight_mask", torch.ones(3, 3))  # so that registering it fails
    other.weight_orig = 1
    with pytest.raises(KeyError):
        prune.global_unstructured(
            [(module, "weight"), (other, "weight")], prune.L1Unstructured, amount=0.5
        )
    assert hook_of(module) is hook and len(hook) == 5
    assert all(torch.equal(m.mask, mask) for m, mask in zip(hook, before, strict=True))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies(copied: Callable[[nn.Module], nn.Module]) -> None:
    module = module_with((64, 48))
    masks = [given((64, 48), torch.float32, number) for number in range(3)]
    for mask in masks:
        prune.custom_from_mask(module, "weight", mask)
    rounds_of(module)
    module.weight = module.weight.detach()
    hook = hook_of(copied(module))
    assert held(hook) == 2 * 64 * 48 * 4 + 2 * 64 * 48 // 8
    for method, mask in zip(hook, masks, strict=False):
        assert torch.equal(method.mask, mask)
    assert all(torch.equal(m.mask, module.weight_mask) for m in hook[3:])


def test_the_mask_of_a_method_is_an_attribute() -> None:
    mask, other = torch.ones(2, 2), torch.zeros(2, 2)
    method = prune.CustomFromMask(mask)
    assert method.mask is mask and vars(method) == {"mask": mask}
    method.mask = other
    assert method.mask is other
    del method.mask
    assert not hasattr(method, "mask")
    old = prune.CustomFromMask.__new__(prune.CustomFromMask)
    old.__dict__.update({"mask": mask, "_tensor_name": "weight"})  # as pickle does
    assert old.mask is mask
