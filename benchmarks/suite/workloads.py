"""How a case becomes work: its data, everyone who does it, the bytes it moves, and a check."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune
from harness.records import FASTPRUNE, FLOOR, UPSTREAM
from harness.timing import Contender
from suite import models
from suite.cases import Case
from suite.checks import check_channels, check_equal, check_selection

SEED = 20
LIBRARIES: dict[str, ModuleType] = {FASTPRUNE: fastprune, UPSTREAM: upstream}

Modules = list[nn.Module]
Masks = Sequence[Tensor | None]


@dataclass(frozen=True)
class Workload:
    """A case, ready to run.

    Attributes:
        contenders: fastprune first.
        bytes: that must move: read scores and old mask, write new mask and product.
        check: raises WrongResult if fastprune's result is not what it must be.
    """

    contenders: list[Contender]
    bytes: int
    check: Callable[[], None]


def build(case: Case) -> Workload:
    """Make the data of a case and what works on them.

    Raises:
        ImportError: the data come with a package that is not installed.
    """
    return _BUILDERS[case.family](case)


# The data


def make_data(case: Case) -> list[Tensor]:
    """The tensors of a case: the same in every run on the same kind of device."""
    dtype: torch.dtype = getattr(torch, case.dtype)
    if case.data == "pretrained" and case.family == "model":
        return [weight.to(case.device, dtype) for weight in models.load_minilm()]
    generator = torch.Generator(case.device).manual_seed(SEED)
    make = functools.partial(_MAKERS[case.data], dtype=dtype, generator=generator)
    return [make(shape) for shape in case.shapes]


def _normal(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device=generator.device, generator=generator)


def _uniform(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, dtype=dtype, device=generator.device, generator=generator)


def _sorted(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal, from the lowest to the highest."""
    return _normal(shape, dtype, generator).flatten().sort().values.view(tuple(shape))


def _equal(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.full(tuple(shape), 0.5, dtype=dtype, device=generator.device)


def _zeros99(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """99% zeros, the rest normal."""
    rare = _uniform(shape, torch.float32, generator) < 0.01
    return _normal(shape, dtype, generator) * rare


def _few(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Eight distinct values."""
    eighths = torch.randint(1, 9, tuple(shape), device=generator.device, generator=generator)
    return (eighths / 8).to(dtype)


def _channels(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal, with a scale of its own for each row, from 10^-3 to 10^3."""
    exponents = _uniform((shape[0], *[1] * (len(shape) - 1)), torch.float32, generator) * 6 - 3
    return (_normal(shape, dtype, generator) * 10**exponents).to(dtype)


def _layers(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal, with the scale that a layer is initialised with: one over the root of its inputs."""
    inputs = int(np.prod(shape[1:]))
    return _normal(shape, dtype, generator).mul_(inputs**-0.5)


_MAKERS: dict[str, Callable[..., Tensor]] = {
    "normal": _normal,
    "uniform": _uniform,
    "sorted": _sorted,
    "equal": _equal,
    "zeros99": _zeros99,
    "few": _few,
    "channels": _channels,
    "layers": _layers,
    "pretrained": _layers,  # in the shape of another family
}


def half_mask(weight: Tensor) -> Tensor:
    """A mask without the smaller half of the entries, about; among equals a coin decides."""
    magnitude = weight.abs()
    sample = magnitude.flatten()[:: max(weight.numel() >> 16, 1)]
    middle = sample.float().median().to(weight.dtype)
    coin = torch.empty_like(weight).bernoulli_(0.5) == 1
    return ((magnitude > middle) | ((magnitude == middle) & coin)).to(weight.dtype)


# What everyone works on


def _module(weight: nn.Parameter) -> nn.Module:
    module = nn.Module()
    module.register_parameter("weight", weight)
    return module


def _parameters(weights: Sequence[Tensor]) -> list[nn.Parameter]:
    return [nn.Parameter(weight) for weight in weights]


def _on_modules(
    weights: Sequence[Tensor], masks: Masks, prune: Callable[[ModuleType, Modules], object]
) -> list[Contender]:
    """Each library prunes fresh modules, which hold the same weights and, where there is a mask,
    have been pruned by it before.
    """
    parameters = _parameters(weights)

    def contender(name: str, library: ModuleType) -> Contender:
        def setup() -> Modules:
            modules = [_module(parameter) for parameter in parameters]
            for module, mask in zip(modules, masks, strict=True):
                if mask is not None:
                    library.custom_from_mask(module, "weight", mask)
            return modules

        def run(modules: Modules) -> Modules:
            prune(library, modules)
            return modules

        return Contender(name, run, setup)

    return [contender(name, library) for name, library in LIBRARIES.items()]


def _masks_of(modules: Modules) -> list[Tensor]:
    return [module.get_buffer("weight_mask") for module in modules]


def _check_products(modules: Modules, weights: Sequence[Tensor]) -> None:
    for module, weight in zip(modules, weights, strict=True):
        product = module.weight
        assert isinstance(product, Tensor)
        expected = module.get_buffer("weight_mask").to(weight.dtype) * weight
        check_equal(product, expected, "the pruned tensor")


# The floor


def _floor(case: Case, bytes_moved: int, work: Callable[[], object]) -> Contender:
    """What nobody can beat: on the CPU this work, on a GPU the bytes at the speed of a copy."""
    if case.device == "cpu":
        return Contender(FLOOR, lambda _: work())
    source, target = _copy_buffers()
    scale = bytes_moved / (2 * source.nbytes)
    return Contender(FLOOR, lambda _: target.copy_(source), scale=scale)


@functools.cache
def _copy_buffers() -> tuple[Tensor, Tensor]:
    """A GiB each, less on a small device: large enough to reach the full bandwidth."""
    size = min(1 << 30, torch.cuda.mem_get_info()[0] // 16)
    source = torch.ones(size // 4, device="cuda")
    return source, torch.zeros_like(source)


def _clones(weights: Sequence[Tensor]) -> Callable[[], object]:
    return lambda: [weight.clone() for weight in weights]


def _products(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> Callable[[], object]:
    return lambda: [weight * mask for weight, mask in zip(weights, masks, strict=True)]


# The families


def _pruning(case: Case, prune: Callable[[ModuleType, Modules], object]) -> Workload:
    """Magnitude pruning by the public functions, of dense or half pruned modules."""
    weights = make_data(case)
    dense = case.variant != "half-pruned"
    halves = [] if dense else [half_mask(weight) for weight in weights]
    masks: Masks = [None] * len(weights) if dense else halves
    contenders = _on_modules(weights, masks, prune)
    bytes_moved = (3 if dense else 4) * case.itemsize * case.numel
    floor = _clones(weights) if dense else _products(weights, halves)

    def check() -> None:
        modules = contenders[0].once()
        new = _masks_of(modules)
        if case.family == "global" or case.variant.endswith("-global"):
            check_selection(weights, masks, new, case.amount)
        else:
            for weight, old, mask in zip(weights, masks, new, strict=True):
                check_selection([weight], [old], [mask], case.amount)
        _check_products(modules, weights)

    return Workload([*contenders, _floor(case, bytes_moved, floor)], bytes_moved, check)


def _local(case: Case) -> Workload:
    def prune(library: ModuleType, modules: Modules) -> None:
        for module in modules:
            library.l1_unstructured(module, "weight", case.amount)

    return _pruning(case, prune)


def _global(case: Case) -> Workload:
    def prune(library: ModuleType, modules: Modules) -> None:
        pairs = [(module, "weight") for module in modules]
        library.global_unstructured(pairs, library.L1Unstructured, amount=case.amount)

    return _pruning(case, prune)


def _model(case: Case) -> Workload:
    return _global(case) if case.variant.endswith("-global") else _local(case)


def _mask(case: Case) -> Workload:
    """The selection alone, without a module and without a product."""
    (weight,) = make_data(case)
    dense = case.variant == "dense"
    old = None if dense else half_mask(weight)

    def contender(name: str, library: ModuleType) -> Contender:
        method = library.L1Unstructured(case.amount)
        method._tensor_name = "weight"
        if old is not None:
            container = library.PruningContainer(method)
            # Upstream's container writes into the mask that it is given.
            return Contender(name, lambda mask: container.compute_mask(weight, mask), old.clone)
        # Upstream has no other way to say that nothing is pruned yet.
        ones = torch.ones_like(weight) if name == UPSTREAM else None
        return Contender(name, lambda _: method.compute_mask(weight, ones))

    contenders = [contender(name, library) for name, library in LIBRARIES.items()]
    bytes_moved = (2 if dense else 3) * case.itemsize * case.numel
    floor = _clones([weight]) if old is None else _products([weight], [old])
    others = _alternatives(weight, round(case.amount * case.numel)) if dense else []

    def check() -> None:
        check_selection([weight], [old], [contenders[0].once()], case.amount)

    floors = _floor(case, bytes_moved, floor)
    return Workload([*contenders, floors, *others], bytes_moved, check)


def _structured(case: Case) -> Workload:
    dim = 0 if case.variant.endswith("dim0") else -1
    if case.variant.startswith("mask-"):
        return _structured_mask(case, dim)
    weights = make_data(case)

    def prune(library: ModuleType, modules: Modules) -> None:
        for module in modules:
            library.ln_structured(module, "weight", case.amount, n=2, dim=dim)

    contenders = _on_modules(weights, [None] * len(weights), prune)
    bytes_moved = 3 * case.itemsize * case.numel

    def check() -> None:
        modules = contenders[0].once()
        for weight, mask in zip(weights, _masks_of(modules), strict=True):
            check_channels(_squares(weight, dim), mask, case.amount, dim)
        _check_products(modules, weights)

    floor = _floor(case, bytes_moved, _clones(weights))
    return Workload([*contenders, floor], bytes_moved, check)


def _squares(weight: Tensor, dim: int) -> Tensor:
    """For each channel the sum of squares."""
    return weight.movedim(dim, 0).flatten(1).double().square().sum(dim=1)


def _structured_mask(case: Case, dim: int) -> Workload:
    """The mask alone, without a module and without a product."""
    (weight,) = make_data(case)

    def contender(name: str, library: ModuleType) -> Contender:
        method = library.LnStructured(case.amount, 2, dim)
        # Upstream has no other way to say that nothing is pruned yet.
        ones = torch.ones_like(weight) if name == UPSTREAM else None
        return Contender(name, lambda _: method.compute_mask(weight, ones))

    contenders = [contender(name, library) for name, library in LIBRARIES.items()]
    bytes_moved = 2 * case.itemsize * case.numel

    def check() -> None:
        check_channels(_squares(weight, dim), contenders[0].once(), case.amount, dim)

    floor = _floor(case, bytes_moved, _clones([weight]))
    return Workload([*contenders, floor], bytes_moved, check)


def _random(case: Case) -> Workload:
    """Both libraries draw the same numbers, which are then what is ranked."""
    weights = make_data(case)
    structured = case.variant == "structured-dim0"

    def prune(library: ModuleType, modules: Modules) -> None:
        for module in modules:
            if structured:
                library.random_structured(module, "weight", case.amount, dim=0)
            else:
                library.random_unstructured(module, "weight", case.amount)

    contenders = _on_modules(weights, [None] * len(weights), prune)
    bytes_moved = (3 if structured else 4) * case.itemsize * case.numel

    def check() -> None:
        torch.manual_seed(SEED)
        modules = contenders[0].once()
        torch.manual_seed(SEED)
        for weight, mask in zip(weights, _masks_of(modules), strict=True):
            if structured:
                draws = torch.rand(len(weight)).double().to(weight.device)
                check_channels(draws, mask, case.amount, 0)
            else:
                draws = torch.rand_like(weight)
                check_selection([draws], [None], [mask], case.amount, largest=True)
        _check_products(modules, weights)

    floor = _floor(case, bytes_moved, _clones(weights))
    return Workload([*contenders, floor], bytes_moved, check)


def _custom(case: Case) -> Workload:
    weights = make_data(case)
    given = [half_mask(weight) for weight in weights]

    def prune(library: ModuleType, modules: Modules) -> None:
        for module, mask in zip(modules, given, strict=True):
            library.custom_from_mask(module, "weight", mask)

    contenders = _on_modules(weights, [None] * len(weights), prune)
    bytes_moved = 4 * case.itemsize * case.numel

    def check() -> None:
        modules = contenders[0].once()
        for mask, new in zip(given, _masks_of(modules), strict=True):
            check_equal(new, mask, "the mask")
        _check_products(modules, weights)

    floor = _floor(case, bytes_moved, _products(weights, given))
    return Workload([*contenders, floor], bytes_moved, check)


def _upstream_mul(t: Tensor, mask: Tensor) -> Tensor:
    return mask.to(dtype=t.dtype) * t


def _masked_mul(case: Case) -> Workload:
    (t,) = make_data(case)
    mask = half_mask(t)
    if case.variant == "forward-bool-mask":
        mask = mask.bool()
    backward = case.variant == "backward"
    grad = torch.ones_like(t)
    leaf = t.detach().requires_grad_()

    def contender(name: str, mul: Callable[[Tensor, Tensor], Tensor]) -> Contender:
        if backward:
            return Contender(
                name,
                lambda product: torch.autograd.grad(product, leaf, grad)[0],
                setup=lambda: mul(leaf, mask),
            )
        return Contender(name, lambda _: mul(t, mask))

    ours = contender(FASTPRUNE, fastprune.ops.masked_mul)
    theirs = contender(UPSTREAM, _upstream_mul)
    bytes_moved = (2 * case.itemsize + mask.element_size()) * case.numel
    factor = grad if backward else t

    def check() -> None:
        check_equal(ours.once(), _upstream_mul(factor, mask), case.variant)

    # In one dtype: torch multiplies by a bool mask more slowly than the bytes take.
    floor = _floor(case, bytes_moved, _products([factor], [mask.to(t.dtype)]))
    return Workload([ours, theirs, floor], bytes_moved, check)


def _hook(case: Case) -> Workload:
    """What a pruned layer does before each forward, alone or with the forward of eight inputs."""
    (weight,) = make_data(case)
    mask = half_mask(weight)
    (parameter,) = _parameters([weight])
    inputs = torch.ones(8, weight.shape[1], dtype=weight.dtype, device=weight.device)
    alone = case.variant == "hook"

    def contender(name: str, library: ModuleType) -> tuple[Contender, nn.Module]:
        layer = nn.Linear(1, 1, bias=False)
        layer.weight = parameter
        library.custom_from_mask(layer, "weight", mask)
        hook: Callable[..., Any] = next(iter(layer._forward_pre_hooks.values()))
        if alone:
            return Contender(name, lambda _: hook(layer, inputs)), layer
        return Contender(name, lambda _: layer(inputs)), layer

    (ours, layer), (theirs, _) = (contender(*item) for item in LIBRARIES.items())

    def floor() -> object:
        return weight * mask if alone else F.linear(inputs, weight * mask)

    def check() -> None:
        del layer.__dict__["weight"]  # so that what is found there is new
        ours.once()
        _check_products([layer], [weight])

    bytes_moved = (3 if alone else 4) * case.itemsize * case.numel
    return Workload([ours, theirs, _floor(case, bytes_moved, floor)], bytes_moved, check)


# Other ways to a mask


def _alternatives(weight: Tensor, k: int) -> list[Contender]:
    """What a user could write instead: each makes the mask that prunes the ``k`` smallest entries.

    Those that compare with a threshold prune all entries equal to it, which may be more.
    """
    ways: dict[str, Callable[[Tensor, int], Any]] = {
        "torch.kthvalue": _by_kthvalue,
        "torch.topk": _by_topk,
        "torch.sort": _by_sort,
    }
    if weight.device.type == "cpu":
        ways["numpy.partition"] = _by_numpy
    elif importlib.util.find_spec("cupy") is not None:
        ways["cupy.partition"] = _by_cupy
    return [
        Contender(name, lambda _, way=way: way(weight, k))  # type: ignore[misc]
        for name, way in ways.items()
    ]


def _by_kthvalue(weight: Tensor, k: int) -> Tensor:
    magnitude = weight.abs()
    return (magnitude > magnitude.flatten().kthvalue(k).values).to(weight.dtype)


def _by_topk(weight: Tensor, k: int) -> Tensor:
    mask = torch.ones_like(weight)
    indices = weight.abs().flatten().topk(k, largest=False, sorted=False).indices
    mask.view(-1).scatter_(0, indices, 0)
    return mask


def _by_sort(weight: Tensor, k: int) -> Tensor:
    mask = torch.ones_like(weight)
    indices = weight.abs().flatten().sort(stable=True).indices[:k]
    mask.view(-1).scatter_(0, indices, 0)
    return mask


def _by_numpy(weight: Tensor, k: int) -> Any:
    magnitude = np.abs(weight.numpy())
    threshold = np.partition(magnitude.ravel(), k - 1)[k - 1]
    return (magnitude > threshold).astype(magnitude.dtype)


def _by_cupy(weight: Tensor, k: int) -> Any:
    cupy = importlib.import_module("cupy")
    magnitude = cupy.abs(cupy.from_dlpack(weight))
    threshold = cupy.partition(magnitude.ravel(), k - 1)[k - 1]
    return (magnitude > threshold).astype(magnitude.dtype)


_BUILDERS: dict[str, Callable[[Case], Workload]] = {
    "local": _local,
    "iterative": _local,
    "mask": _mask,
    "structured": _structured,
    "random": _random,
    "custom": _custom,
    "global": _global,
    "masked_mul": _masked_mul,
    "hook": _hook,
    "model": _model,
}
