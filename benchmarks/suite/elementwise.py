"""The elementwise family: the product of a tensor and a mask, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

import fastprune
from harness.records import FASTPRUNE, UPSTREAM
from harness.timing import Contender
from suite.cases import DTYPES, LARGE, QUICK, SMALL, Case, by_size, sizes_of
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
