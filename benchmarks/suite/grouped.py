"""N:M and budgets by row: what is decided within groups of one tensor, as the operators do it.

Beside them, in the place of upstream, which has neither, the composition that others use: topk and
scatter for N:M, and for rows a sort of all scores and a scatter, as Wanda has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

import fastprune
from harness.records import FASTPRUNE, UPSTREAM
from harness.timing import Contender
from suite.cases import LARGE, QUICK, Case
from suite.checks import check_equal
from suite.data import half_mask, make_data
from suite.workload import Family, Workload, clones, floor_of, products

Pair = tuple[Tensor, Tensor]

#: n, m and the dim of a variant, whose name may go on.
_RULES = {"2:4": (2, 4, 1), "2:4-first-dim": (2, 4, 0), "8:16": (8, 16, 1)}


def _each(centre: Case) -> Iterator[Case]:
    yield replace(centre, shapes=(QUICK,), quick=True)
    yield replace(centre, shapes=(LARGE,))
    yield replace(centre, shapes=(LARGE,), dtype="bfloat16")


def _nm_cases(device: str) -> Iterator[Case]:
    for variant in (*_RULES, "2:4-factor", "2:4-half-pruned"):
        yield from _each(Case("nm", variant, device))


def _row_cases(device: str) -> Iterator[Case]:
    for variant in ("rows", "rows-factor", "rows-half-pruned", "columns"):
        yield from _each(Case("rows", variant, device))


def _workload(
    case: Case, old: Tensor | None, ours: Callable[[], Pair], theirs: Callable[[], Pair]
) -> Workload:
    (weight,) = make_data(case)
    contenders = [
        Contender(FASTPRUNE, lambda _: ours()),
        Contender(UPSTREAM, lambda _: theirs()),
    ]
    bytes_moved = (3 if old is None else 4) * case.itemsize * case.numel
    floor = clones([weight]) if old is None else products([weight], [old])

    def check() -> None:
        for a, b in zip(ours(), theirs(), strict=True):
            check_equal(a, b, case.variant)

    return Workload([*contenders, floor_of(case, bytes_moved, floor)], bytes_moved, check)


def _inputs(case: Case) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The weight, the factor of its columns, and the old mask."""
    (weight,) = make_data(case)
    factor = torch.rand(weight.shape[1], device=weight.device)
    old = half_mask(weight) if case.variant.endswith("half-pruned") else None
    return weight, factor if case.variant.endswith("factor") else None, old


def _scores(weight: Tensor, factor: Tensor | None, old: Tensor | None) -> Tensor:
    scores = weight.abs() if factor is None else weight.float().abs() * factor
    return scores if old is None else scores.masked_fill(old == 0, -1)  # what is pruned, first


def _build_nm(case: Case) -> Workload:
    weight, factor, old = _inputs(case)
    n, m, dim = _RULES.get(case.variant, _RULES["2:4"])
    factors = [] if factor is None else [factor]
    masks = [] if old is None else [old]

    def ours() -> Pair:
        (mask,), (product,) = fastprune.ops.nm_prune([weight], masks, [weight], n, m, dim, factors)
        return mask, product

    def theirs() -> Pair:
        runs = _scores(weight, factor, old).movedim(dim, -1).unflatten(-1, (-1, m))
        order = runs.sort(dim=-1, stable=True).indices  # topk has another order among equals
        mask = torch.ones_like(runs, dtype=weight.dtype).scatter_(-1, order[..., : m - n], 0)
        mask = mask.flatten(-2).movedim(-1, dim).contiguous()
        mask = mask if old is None else mask * old
        return mask, weight * mask

    def by_topk() -> Pair:
        runs = _scores(weight, factor, old).movedim(dim, -1).unflatten(-1, (-1, m))
        kept = runs.topk(n, dim=-1).indices
        mask = torch.zeros_like(runs, dtype=weight.dtype).scatter_(-1, kept, 1)
        mask = mask.flatten(-2).movedim(-1, dim).contiguous()
        mask = mask if old is None else mask * old
        return mask, weight * mask

    workload = _workload(case, old, ours, theirs)
    timed = [c for c in workload.contenders if c.name != UPSTREAM]
    timed.insert(1, Contender(UPSTREAM, lambda _: by_topk()))
    return replace(workload, contenders=timed)


def _build_rows(case: Case) -> Workload:
    weight, factor, old = _inputs(case)
    dim = 1 if case.variant == "columns" else 0
    factors = [] if factor is None else [factor]
    masks = [] if old is None else [old]

    def ours() -> Pair:
        (mask,), (product,) = fastprune.ops.row_prune(
            [weight], masks, [weight], case.amount, dim, factors, absolute=old is not None
        )
        return mask, product

    def theirs() -> Pair:
        scores = _scores(weight, factor, old)
        order = scores.sort(dim=1 - dim, stable=True).indices
        due = round(case.amount * weight.shape[1 - dim])
        mask = torch.ones_like(weight).scatter_(1 - dim, order.narrow(1 - dim, 0, due), 0)
        mask = mask if old is None else mask * old
        return mask, weight * mask

    return _workload(case, old, ours, theirs)


NM = Family(_nm_cases, _build_nm)
ROWS = Family(_row_cases, _build_rows)
