"""The topk family: selection among entries, as a mask alone and through the public functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType

import torch

from harness.records import UPSTREAM
from harness.timing import Contender
from suite.alternatives import alternatives
from suite.cases import SMALL, Case, Shape, by_size, selection, sizes_of
from suite.checks import check_selection
from suite.data import half_mask, make_data
from suite.workload import (
    LIBRARIES,
    Family,
    Masks,
    Modules,
    Workload,
    check_products,
    clones,
    floor_of,
    masks_of,
    on_modules,
    products,
)


def _local_cases(device: str) -> Iterator[Case]:
    yield from selection(Case("local", "dense", device, peak=True), sizes_of(device))
    for variant in ("many", "many-half-pruned"):  # by one call of local_unstructured
        yield Case("local", variant, device, shapes=100 * (SMALL,))


def _iterative_cases(device: str) -> Iterator[Case]:
    yield from selection(Case("iterative", "half-pruned", device, peak=True), sizes_of(device))


def _mask_cases(device: str) -> Iterator[Case]:
    yield from selection(Case("mask", "dense", device), sizes_of(device))
    yield from by_size(Case("mask", "half-pruned", device), sizes_of(device))


def _global_cases(device: str) -> Iterator[Case]:
    many: tuple[Shape, ...] = 100 * (SMALL,)
    wide: tuple[Shape, ...] = 64 * ((512, 512),)
    for variant in ("dense", "half-pruned"):
        centre = Case("global", variant, device)
        yield replace(centre, shapes=many, quick=True)
        yield replace(centre, shapes=1000 * ((32, 32),))
        yield replace(centre, shapes=wide, peak=True)
    dense = Case("global", "dense", device, shapes=wide)
    yield from (replace(dense, amount=amount) for amount in (0.05, 0.95))
    yield replace(dense, dtype="bfloat16")
    yield replace(dense, data="channels")
    if device == "cpu":
        yield Case("global", "mixed", device, shapes=wide, peak=True)


def _pruning(case: Case, prune: Callable[[ModuleType, Modules], object]) -> Workload:
    """Magnitude pruning by the public functions, of dense or half pruned modules."""
    weights = make_data(case)
    if case.variant == "mixed":  # every other one is of a narrower dtype
        weights[1::2] = [weight.bfloat16() for weight in weights[1::2]]
    dense = not case.variant.endswith("half-pruned")
    halves = [] if dense else [half_mask(weight) for weight in weights]
    masks: Masks = [None] * len(weights) if dense else halves
    contenders = on_modules(weights, masks, prune)
    bytes_moved = (3 if dense else 4) * sum(weight.nbytes for weight in weights)
    floor = clones(weights) if dense else products(weights, halves)

    def check() -> None:
        modules = contenders[0].once()
        new = masks_of(modules)
        if case.family == "global" or case.variant.endswith("-global"):
            check_selection(weights, masks, new, case.amount)
        else:
            for weight, old, mask in zip(weights, masks, new, strict=True):
                check_selection([weight], [old], [mask], case.amount)
        check_products(modules, weights)

    return Workload([*contenders, floor_of(case, bytes_moved, floor)], bytes_moved, check)


def build_local(case: Case) -> Workload:
    def prune(library: ModuleType, modules: Modules) -> None:
        if case.variant.startswith("many") and library is not LIBRARIES[UPSTREAM]:
            pairs = [(module, "weight") for module in modules]
            library.local_unstructured(pairs, library.L1Unstructured, case.amount)
            return
        for module in modules:
            library.l1_unstructured(module, "weight", case.amount)

    return _pruning(case, prune)


def build_global(case: Case) -> Workload:
    def prune(library: ModuleType, modules: Modules) -> None:
        pairs = [(module, "weight") for module in modules]
        library.global_unstructured(pairs, library.L1Unstructured, amount=case.amount)

    return _pruning(case, prune)


def _build_mask(case: Case) -> Workload:
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
    floor = clones([weight]) if old is None else products([weight], [old])
    others = alternatives(weight, round(case.amount * case.numel)) if dense else []

    def check() -> None:
        check_selection([weight], [old], [contenders[0].once()], case.amount)

    floors = floor_of(case, bytes_moved, floor)
    return Workload([*contenders, floors, *others], bytes_moved, check)


LOCAL = Family(_local_cases, build_local)
ITERATIVE = Family(_iterative_cases, build_local)
MASK = Family(_mask_cases, _build_mask)
GLOBAL = Family(_global_cases, build_global)
