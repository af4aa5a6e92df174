"""The channels family: pruning by the norms of channels, as a mask alone and with the product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from harness.records import UPSTREAM
from harness.timing import Contender
from suite.cases import DTYPES, LARGE, Case, by_size, sizes_of
from suite.checks import check_channels
from suite.data import make_data
from suite.workload import (
    LIBRARIES,
    Family,
    Modules,
    Workload,
    check_products,
    clones,
    floor_of,
    masks_of,
    on_modules,
)


def _cases(device: str) -> Iterator[Case]:
    for variant in ("dim0", "last-dim"):
        centre = Case("structured", variant, device, peak=True)
        yield from by_size(centre, sizes_of(device))
        centre = replace(centre, peak=False)
        yield from (replace(centre, dtype=dtype) for dtype in DTYPES[1:])
        yield from (replace(centre, amount=amount) for amount in (0.05, 0.95))
        yield replace(centre, variant=f"mask-{variant}", shapes=(LARGE,))
        yield replace(centre, variant=f"cubes-{variant}")


def _build(case: Case) -> Workload:
    dim = 0 if case.variant.endswith("dim0") else -1
    if case.variant.startswith("mask-"):
        return _build_mask(case, dim)
    weights = make_data(case)
    order = 3 if case.variant.startswith("cubes-") else 2

    def prune(library: ModuleType, modules: Modules) -> None:
        for module in modules:
            library.ln_structured(module, "weight", case.amount, n=order, dim=dim)

    contenders = on_modules(weights, [None] * len(weights), prune)
    bytes_moved = 3 * case.itemsize * case.numel

    def check() -> None:
        modules = contenders[0].once()
        for weight, mask in zip(weights, masks_of(modules), strict=True):
            check_channels(_powers(weight, dim, order), mask, case.amount, dim)
        check_products(modules, weights)

    floor = floor_of(case, bytes_moved, clones(weights))
    return Workload([*contenders, floor], bytes_moved, check)


def _powers(weight: Tensor, dim: int, order: int = 2) -> Tensor:
    """For each channel the sum of the powers of magnitudes."""
    return weight.movedim(dim, 0).flatten(1).double().abs().pow(order).sum(dim=1)


def _build_mask(case: Case, dim: int) -> Workload:
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
        check_channels(_powers(weight, dim), contenders[0].once(), case.amount, dim)

    floor = floor_of(case, bytes_moved, clones([weight]))
    return Workload([*contenders, floor], bytes_moved, check)


STRUCTURED = Family(_cases, _build)
