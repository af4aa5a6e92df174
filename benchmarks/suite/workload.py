"""What a family makes of a case: the contenders, the bytes that must move, and a check."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune
from harness.records import FASTPRUNE, FLOOR, UPSTREAM
from harness.timing import Contender
from suite.cases import Case
from suite.checks import check_equal

LIBRARIES: dict[str, ModuleType] = {FASTPRUNE: fastprune, UPSTREAM: upstream}

Modules = list[nn.Module]
Masks = Sequence[Tensor | None]


@dataclass(frozen=True)
class Workload:
    """A case, ready to run.

    Attributes:
        contenders: fastprune first.
        bytes: that must move: read scores and old mask, write new mask and product.
        check: raises WrongResult if fastprune's result is wrong.
    """

    contenders: list[Contender]
    bytes: int
    check: Callable[[], None]


@dataclass(frozen=True)
class Family:
    """Cases of one kind, which share a table.

    Attributes:
        cases: those for a device.
        build: makes the data of a case and what works on them; raises ImportError where the data
            come with a package that is not installed.
    """

    cases: Callable[[str], Iterator[Case]]
    build: Callable[[Case], Workload]


def _module(weight: nn.Parameter) -> nn.Module:
    module = nn.Module()
    module.register_parameter("weight", weight)
    return module


def parameters(weights: Sequence[Tensor]) -> list[nn.Parameter]:
    return [nn.Parameter(weight) for weight in weights]


def on_modules(
    weights: Sequence[Tensor], masks: Masks, prune: Callable[[ModuleType, Modules], object]
) -> list[Contender]:
    """Each library prunes fresh modules, which hold the same weights and, where there is a mask,
    have been pruned by it before. Each has Parameters of its own: a shared one would be tied.
    """

    def contender(name: str, library: ModuleType) -> Contender:
        def setup() -> Modules:
            modules = [_module(parameter) for parameter in parameters(weights)]
            for module, mask in zip(modules, masks, strict=True):
                if mask is not None:
                    library.custom_from_mask(module, "weight", mask)
            return modules

        def run(modules: Modules) -> Modules:
            prune(library, modules)
            return modules

        return Contender(name, run, setup)

    return [contender(name, library) for name, library in LIBRARIES.items()]


def masks_of(modules: Modules) -> list[Tensor]:
    return [module.get_buffer("weight_mask") for module in modules]


def check_products(modules: Modules, weights: Sequence[Tensor]) -> None:
    for module, weight in zip(modules, weights, strict=True):
        product = module.weight
        assert isinstance(product, Tensor)
        expected = module.get_buffer("weight_mask").to(weight.dtype) * weight
        check_equal(product, expected, "the pruned tensor")


# The floor


def floor_of(case: Case, bytes_moved: int, work: Callable[[], object]) -> Contender:
    """What fastprune is measured against: on the CPU this work, which moves the bytes and no more;
    on a GPU the time of these bytes at the rate of a large copy.
    """
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


def clones(weights: Sequence[Tensor]) -> Callable[[], object]:
    return lambda: [weight.clone() for weight in weights]


def products(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> Callable[[], object]:
    return lambda: [weight * mask for weight, mask in zip(weights, masks, strict=True)]
