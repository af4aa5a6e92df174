"""The elementwise family: products of tensors and masks, forward and backward; masks in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

import fastprune
from fastprune.packing import packed
from harness.records import FASTPRUNE, UPSTREAM
from harness.timing import Contender
from suite.cases import DTYPES, LARGE, QUICK, SMALL, Case, Shape, by_size, sizes_of
from suite.checks import check_equal
from suite.data import half_mask, make_data
from suite.workload import Family, Workload, floor_of, products


def _cases(device: str) -> Iterator[Case]:
    for variant in ("forward", "backward"):
        centre = Case("masked_mul", variant, device)
        yield from by_size(centre, sizes_of(device))
        yield from (replace(centre, dtype=dtype) for dtype in DTYPES[1:])
    yield from by_size(Case("masked_mul", "forward-bool-mask", device), (SMALL, QUICK, LARGE))


def _upstream_mul(t: Tensor, mask: Tensor) -> Tensor:
    return mask.to(dtype=t.dtype) * t


def _build(case: Case) -> Workload:
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
    floor = floor_of(case, bytes_moved, products([factor], [mask.to(t.dtype)]))
    return Workload([ours, theirs, floor], bytes_moved, check)


MASKED_MUL = Family(_cases, _build)


def _in_place_cases(device: str) -> Iterator[Case]:
    many: tuple[Shape, ...] = 100 * (SMALL,)
    wide: tuple[Shape, ...] = 64 * ((512, 512),)
    for variant in ("bool", "packed"):
        centre = Case("masked_muls_", variant, device)
        yield replace(centre, shapes=many, quick=True)
        yield replace(centre, shapes=wide)
        yield replace(centre, shapes=wide, dtype="bfloat16")


def _build_in_place(case: Case) -> Workload:
    """Half pruned tensors, as gradients and optimizer states are after every step.

    What the operator replaces: float masks to multiply by, all in one call of torch, and
    masks of bool to fill by, one by one. Repeated calls find pruned entries zero already, which
    makes no one's work less.
    """
    ts = make_data(case)
    factors = [half_mask(t) for t in ts]
    pruned = [factor == 0 for factor in factors]
    masks = [factor.bool() for factor in factors]
    if case.variant == "packed":
        masks = [packed(mask) for mask in masks]
    expected = [t.masked_fill(where, 0) for t, where in zip(ts, pruned, strict=True)]

    def fill() -> None:
        for t, where in zip(ts, pruned, strict=True):
            t.masked_fill_(where, 0)

    ours = Contender(FASTPRUNE, lambda _: fastprune.ops.masked_muls_(ts, masks))
    theirs = Contender(UPSTREAM, lambda _: torch._foreach_mul_(ts, factors))
    filled = Contender("masked_fill_", lambda _: fill())
    bytes_moved = 2 * case.itemsize * case.numel + sum(mask.nbytes for mask in masks)

    def check() -> None:
        copies = [t.clone() for t in ts]
        fastprune.ops.masked_muls_(copies, masks)
        for t, wanted in zip(copies, expected, strict=True):
            check_equal(t, wanted, case.variant)

    # Reads and writes the tensors; the bytes of the masks are not in it.
    floor = floor_of(case, bytes_moved, lambda: torch._foreach_mul_(ts, 1.0))
    return Workload([ours, theirs, floor, filled], bytes_moved, check)


MASKED_MULS_IN_PLACE = Family(_in_place_cases, _build_in_place)
