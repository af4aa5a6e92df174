"""The memory of a product is used again only where nobody can see that it is."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune

WIDTH = 2900  # 32 MiB, where fresh memory begins to cost


def pruned(width: int = WIDTH, library: Any = fastprune) -> nn.Linear:
    layer = nn.Linear(width, width, bias=False, device="meta")
    layer.weight = nn.Parameter(torch.linspace(-1, 1, width * width).view(width, width))
    library.identity(layer, "weight")
    layer.weight_mask.view(-1)[::2] = 0
    return layer


def product_of(layer: nn.Module) -> Tensor:
    return layer.weight_orig.detach() * layer.weight_mask  # type: ignore[operator, union-attr]


def refresh(layer: nn.Module) -> None:
    """What a forward does first, with the weights of a step later."""
    with torch.no_grad():
        layer.weight_orig.add_(1)  # type: ignore[operator, union-attr]
    (hook,) = layer._forward_pre_hooks.values()
    hook(layer, ())


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_memory_is_used_again(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        layer = pruned()
        refresh(layer)
        address = layer.weight.data_ptr()
        for _ in range(2):
            refresh(layer)
            assert layer.weight.data_ptr() == address
            assert torch.equal(layer.weight, product_of(layer))
            assert layer.weight.requires_grad == grad
            assert layer.weight._version == 0


def test_memory_is_used_again_in_training() -> None:
    layer, theirs = pruned(), pruned(library=upstream)
    x = torch.ones(1, WIDTH)
    addresses = set()
    for _ in range(3):
        layer(x).square().sum().backward()
        theirs(x).square().sum().backward()
        addresses.add(layer.weight.data_ptr())
        assert torch.equal(layer.weight_orig.grad, theirs.weight_orig.grad)  # type: ignore[arg-type]
        for model in (layer, theirs):
            with torch.no_grad():
                model.weight_orig.sub_(model.weight_orig.grad, alpha=1e-6)  # type: ignore[operator, union-attr, arg-type]
    assert len(addresses) == 1
    assert torch.equal(layer.weight_orig, theirs.weight_orig)  # type: ignore[arg-type]


HOLDERS: dict[str, Callable[[nn.Module], Any]] = {
    "reference": lambda m: m.weight,
    "view": lambda m: m.weight[1],
    "detached": lambda m: m.weight.detach(),
    "data": lambda m: m.weight.data,
    "storage": lambda m: m.weight.untyped_storage(),
    "numpy": lambda m: m.weight.detach().numpy(),
    "dlpack": lambda m: torch.utils.dlpack.to_dlpack(m.weight.detach()),
    "attributes": lambda m: dict(m.__dict__),
    "copied module": copy.copy,
    "list": lambda m: [m.weight],
    "closure": lambda m: (lambda w: lambda: w)(m.weight),
    "graph": lambda m: m.weight.square(),
    "parameter": lambda m: nn.Parameter(m.weight.detach()),
}


def seen_through(holder: str, held: Any) -> Tensor:
    """A copy of what is seen through it."""
    if holder == "storage":
        return torch.tensor([], dtype=torch.float32).set_(held).clone()
    if holder == "dlpack":
        return torch.from_dlpack(held).clone()
    if holder == "numpy":
        return torch.from_numpy(held.copy())
    if holder == "attributes":
        held = held["weight"]
    if holder == "copied module":
        held = held.weight
    if holder == "list":
        held = held[0]
    if holder == "closure":
        held = held()
    if holder == "graph":  # the saved weight
        held = held.grad_fn._saved_self
    copied: Tensor = held.detach().clone()
    return copied


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_somebody_holds_does_not_change(holder: str) -> None:
    layer = pruned()
    refresh(layer)
    before = product_of(layer)
    held = HOLDERS[holder](layer)
    refresh(layer)
    seen = seen_through(holder, held)
    expected = before[1] if holder == "view" else before
    assert torch.equal(seen.view(-1), expected.view(-1))
    assert torch.equal(layer.weight, product_of(layer))


def test_weights_shared_across_time_steps() -> None:
    grads = []
    for library in (fastprune, upstream):
        layer = pruned(library=library)
        x = torch.ones(1, WIDTH, requires_grad=True)
        first = layer(x)
        with torch.no_grad():
            layer.weight_orig.add_(1)  # type: ignore[operator, union-attr]
        (first.sum() + layer(x).sum()).backward()  # each with the weight of its time
        grads.append((x.grad, layer.weight_orig.grad))
    for ours, theirs in zip(*grads, strict=True):
        assert torch.equal(ours, theirs)


def test_modes_and_conversions_between_forwards() -> None:
    layer = pruned()
    x = torch.ones(1, WIDTH)
    with torch.inference_mode():
        layer(x)
        assert layer.weight.is_inference()
    layer(x).sum().backward()  # cannot be had in memory of an inference tensor
    with torch.inference_mode():
        layer(x)
        layer(x)
        assert layer.weight.is_inference()
        assert torch.equal(layer.weight, product_of(layer))
    layer.double()
    assert layer(x.double()).dtype == torch.float64
    layer.float()
    layer.weight_orig.data = layer.weight_orig.data.t()  # type: ignore[union-attr]
    layer(x)
    assert torch.equal(layer.weight, product_of(layer))
    assert layer.weight.stride() == (layer.weight_mask * layer.weight_orig).stride()  # type: ignore[operator]


def test_hooks_of_a_product_end_with_it() -> None:
    layer = pruned()
    x = torch.ones(1, WIDTH)
    calls = []
    layer(x)
    layer.weight.register_hook(calls.append)
    layer.weight.retain_grad()
    layer(x).sum().backward()
    assert calls == []
    assert not layer.weight.retains_grad


def test_apply_mask_gives_memory_of_its_own() -> None:
    layer = pruned()
    refresh(layer)
    (hook,) = layer._forward_pre_hooks.values()
    assert hook.apply_mask(layer).data_ptr() != layer.weight.data_ptr()  # type: ignore[operator]


def test_an_overridden_apply_mask_is_asked() -> None:
    class Halved(fastprune.Identity):
        def apply_mask(self, module: nn.Module) -> Tensor:
            return super().apply_mask(module) / 2

    layer = pruned()
    fastprune.remove(layer, "weight")
    Halved.apply(layer, "weight")
    refresh(layer)
    refresh(layer)
    assert torch.equal(layer.weight, product_of(layer) / 2)


def test_profilers_see_the_product() -> None:
    layer = pruned()
    refresh(layer)
    with torch.profiler.profile() as profile:
        refresh(layer)
    assert "fastprune::masked_mul" in {event.key for event in profile.key_averages()}


def test_threads() -> None:
    """Each forward sees a product that is whole."""
    layer = pruned().requires_grad_(False)
    x = torch.ones(1, WIDTH)
    layer.weight_mask.fill_(1)
    outputs: list[Tensor] = []

    def work() -> None:
        outputs.extend(layer(x) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(2)]
    expected = torch.nn.functional.linear(x, product_of(layer))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 20
    for output in outputs:
        torch.testing.assert_close(output, expected)


# ---- where the last product's memory would not do, or somebody would see it change ----


def test_a_product_on_another_device() -> None:
    layer = nn.Linear(WIDTH, WIDTH, bias=False, device="meta")
    fastprune.identity(layer, "weight")
    layer.to_empty(device="cpu")
    layer.weight_orig.data.fill_(1)  # type: ignore[union-attr, operator]
    layer.weight_mask.fill_(1)
    refresh(layer)  # what .cpu() leaves of a model on a GPU is like it
    assert layer.weight.device.type == "cpu"
    assert torch.equal(layer.weight, product_of(layer))


def test_a_module_made_in_inference_mode() -> None:
    with torch.inference_mode():
        layer = pruned()
    x = torch.ones(1, WIDTH)
    for _ in range(3):
        assert layer(x).shape == (1, WIDTH)
        assert not layer.weight.is_inference()


def test_memory_that_is_part_of_more() -> None:
    layer = pruned()
    more = torch.empty(2 * WIDTH, WIDTH)
    layer.__dict__["weight"] = more[WIDTH:]
    del more
    refresh(layer)
    assert layer.weight.storage_offset() == 0
    assert layer.weight.untyped_storage().nbytes() == layer.weight.nbytes


def test_memory_that_was_freed_or_is_copied_on_write() -> None:
    layer = pruned()
    refresh(layer)
    torch.ops.inductor.resize_storage_bytes_(layer.weight.detach(), 0)
    refresh(layer)
    assert torch.equal(layer.weight, product_of(layer))
    lazy = torch._lazy_clone(layer.weight.detach())
    before = product_of(layer)
    refresh(layer)
    assert torch.equal(lazy, before)


@pytest.mark.parametrize("fails", [False, True], ids=["looks", "raises"])
def test_hooks_of_saved_tensors(fails: bool) -> None:
    """They run while the old product is still the module's."""
    layer = pruned()
    refresh(layer)
    before = product_of(layer)
    seen: list[Tensor] = []

    def pack(saved: Tensor) -> Tensor:
        seen.append(layer.weight)
        if fails:
            raise MemoryError
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        try:
            refresh(layer)
        except MemoryError:
            assert torch.equal(layer.weight, before)
        else:
            assert torch.equal(layer.weight, product_of(layer))
    assert torch.equal(seen[0], before)


def test_a_module_that_refuses_the_product() -> None:
    class Frozen(nn.Linear):
        frozen = False

        def __setattr__(self, name: str, value: Any) -> None:
            if name != "weight" or not self.frozen:
                super().__setattr__(name, value)

    layer = Frozen(WIDTH, WIDTH, bias=False)
    fastprune.identity(layer, "weight")
    refresh(layer)
    before = product_of(layer)
    layer.__dict__["frozen"] = True
    refresh(layer)
    assert torch.equal(layer.weight, before)
