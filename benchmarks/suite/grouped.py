"""N:M and budgets by row: what is decided within groups of one tensor, as the operators do it.
Blocks, and units of several tensors: what is decided about groups, as the functions do it, since it
takes three operators.

Beside them, in the place of upstream, which has none of these, the composition that others use:
topk and scatter for N:M, a product with all 90 patterns for 2:4 both ways, as apex has it, for rows
a sort of all scores and a scatter, as Wanda has it, and for blocks norms, topk, and the mask of
blocks repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

import fastprune
from harness.records import FASTPRUNE, UPSTREAM
from harness.timing import Contender
from suite.cases import CENTRE, LARGE, QUICK, Case
from suite.checks import check_equal
from suite.data import half_mask, make_data
from suite.workload import (
    Family,
    Modules,
    Workload,
    check_products,
    clones,
    floor_of,
    masks_of,
    on_modules,
    products,
)

Pair = tuple[Tensor, Tensor]

#: n, m and the dim of a variant, whose name may go on.
_RULES = {"2:4": (2, 4, 1), "2:4-first-dim": (2, 4, 0), "8:16": (8, 16, 1)}

#: The block of a variant.
_BLOCKS = {"16x16": (16, 16), "4x4": (4, 4), "1x4": (1, 4)}

#: Of the variant with tied units, as an attention layer has them: the dims of its four weights.
_TIED = (0, 0, 0, 1)
_HEADS = 16


#: One budget over the tensor, by topk_prune.
_ENTRIES = "entries-factor"

#: 2:4 in rows and columns.
_BOTH = "2:4-both"


def _each(centre: Case) -> Iterator[Case]:
    yield replace(centre, shapes=(QUICK,), quick=True)
    yield replace(centre, shapes=(LARGE,))
    yield replace(centre, shapes=(LARGE,), dtype="bfloat16")


def _nm_cases(device: str) -> Iterator[Case]:
    for variant in (*_RULES, "2:4-factor", "2:4-half-pruned", _BOTH):
        yield from _each(Case("nm", variant, device))


def _row_cases(device: str) -> Iterator[Case]:
    for variant in ("rows", "rows-factor", "rows-half-pruned", "columns", _ENTRIES):
        yield from _each(Case("rows", variant, device))


def _block_cases(device: str) -> Iterator[Case]:
    for variant in _BLOCKS:
        yield from _each(Case("blocks", variant, device))
    four = Case("blocks", "tied", device, shapes=(CENTRE,) * len(_TIED))
    yield four
    yield replace(four, dtype="bfloat16")


@dataclass(frozen=True)
class _Data:
    """The weight, the factor of its columns and the old mask, where the variant has these."""

    weight: Tensor
    factor: Tensor | None
    old: Tensor | None

    def scores(self) -> Tensor:
        scores = self.weight.abs()
        if self.factor is not None:
            scores = self.weight.float().abs() * self.factor
        return scores if self.old is None else scores.masked_fill(self.old == 0, -1)  # go first

    def masks(self) -> list[Tensor]:
        return [] if self.old is None else [self.old]

    def factors(self) -> list[Tensor]:
        return [] if self.factor is None else [self.factor]

    def multiplied(self, mask: Tensor) -> Pair:
        """The mask upon the old one, and its product."""
        mask = mask if self.old is None else mask * self.old
        return mask, self.weight * mask


def _data(case: Case) -> _Data:
    (weight,) = make_data(case)
    factor = torch.rand(weight.shape[1], device=weight.device)
    return _Data(
        weight,
        factor if case.variant.endswith("factor") else None,
        half_mask(weight) if case.variant.endswith("half-pruned") else None,
    )


def _workload(
    case: Case,
    data: _Data,
    ours: Callable[[], Pair],
    theirs: Callable[[], Pair],
    expected: Callable[[], Pair],
) -> Workload:
    weight, old = data.weight, data.old
    bytes_moved = (3 if old is None else 4) * weight.nbytes
    floor = clones([weight]) if old is None else products([weight], [old])

    def check() -> None:
        for a, b in zip(ours(), expected(), strict=True):
            check_equal(a, b, case.variant)

    contenders = [
        Contender(FASTPRUNE, lambda _: ours()),
        Contender(UPSTREAM, lambda _: theirs()),
        floor_of(case, bytes_moved, floor),
    ]
    return Workload(contenders, bytes_moved, check)


def _build_both(case: Case) -> Workload:
    data = _data(case)
    weight = data.weight
    rows = [row for row in itertools.product((0.0, 1.0), repeat=4) if sum(row) == 2]
    squares = torch.tensor(list(itertools.product(rows, repeat=4)), dtype=torch.float64)
    patterns = squares[(squares.sum(1) == 2).all(1)].flatten(1).to(weight.device)

    def ours() -> Pair:
        (mask,), (product,) = fastprune.ops.nm_prune([weight], [], [weight], 2, 4, 1, both=True)
        return mask, product

    def by(dtype: torch.dtype) -> Pair:
        cut = weight.abs().view(weight.shape[0] // 4, 4, -1, 4).transpose(1, 2)
        sums = cut.reshape(-1, 16).to(dtype) @ patterns.T.to(dtype)
        kept = patterns.to(weight.dtype)[sums.argmax(1)].view(cut.shape)
        return data.multiplied(kept.transpose(1, 2).reshape(weight.shape))

    # Sums of so few numbers lose no bit in float64, whatever their order is.
    return _workload(case, data, ours, lambda: by(torch.float32), lambda: by(torch.float64))


def _build_nm(case: Case) -> Workload:
    if case.variant == _BOTH:
        return _build_both(case)
    data = _data(case)
    n, m, dim = _RULES.get(case.variant, _RULES["2:4"])

    def ours() -> Pair:
        (mask,), (product,) = fastprune.ops.nm_prune(
            [data.weight], data.masks(), [data.weight], n, m, dim, data.factors()
        )
        return mask, product

    def keeping(chosen: Callable[[Tensor], Tensor]) -> Pair:
        runs = data.scores().movedim(dim, -1).unflatten(-1, (-1, m))
        mask = torch.zeros_like(runs, dtype=data.weight.dtype).scatter_(-1, chosen(runs), 1)
        return data.multiplied(mask.flatten(-2).movedim(-1, dim).contiguous())

    def theirs() -> Pair:
        return keeping(lambda runs: runs.topk(n, dim=-1).indices)

    def expected() -> Pair:  # topk has another order among equals
        return keeping(lambda runs: runs.sort(dim=-1, stable=True).indices[..., m - n :])

    return _workload(case, data, ours, theirs, expected)


def _build_entries(case: Case) -> Workload:
    data = _data(case)
    due = round(case.amount * data.weight.numel())

    def ours() -> Pair:
        (mask,), (product,) = fastprune.ops.topk_prune(
            [data.weight], [], [data.weight], case.amount, data.factors()
        )
        return mask, product

    def without(lowest: Tensor) -> Pair:
        mask = torch.ones_like(data.weight)
        mask.view(-1)[lowest] = 0
        return data.multiplied(mask)

    def theirs() -> Pair:
        return without(data.scores().view(-1).topk(due, largest=False).indices)

    def expected() -> Pair:  # topk has another order among equals
        return without(data.scores().view(-1).sort(stable=True).indices[:due])

    return _workload(case, data, ours, theirs, expected)


def _build_rows(case: Case) -> Workload:
    if case.variant == _ENTRIES:
        return _build_entries(case)
    data = _data(case)
    dim = 1 if case.variant == "columns" else 0

    def ours() -> Pair:
        (mask,), (product,) = fastprune.ops.row_prune(
            [data.weight],
            data.masks(),
            [data.weight],
            case.amount,
            dim,
            data.factors(),
            absolute=data.old is not None,
        )
        return mask, product

    def theirs() -> Pair:
        order = data.scores().sort(dim=1 - dim, stable=True).indices
        due = round(case.amount * order.shape[1 - dim])
        mask = torch.ones_like(data.weight)
        return data.multiplied(mask.scatter_(1 - dim, order.narrow(1 - dim, 0, due), 0))

    return _workload(case, data, ours, theirs, theirs)


@dataclass(frozen=True)
class _Cut:
    """A weight cut into blocks, each of which is a unit."""

    weight: Tensor
    block: tuple[int, int]

    def blocks(self) -> Tensor:
        """Of shape [down, height, across, width]."""
        height, width = self.block
        return self.weight.unflatten(1, (-1, width)).unflatten(0, (-1, height))

    def norms(self) -> Tensor:
        """In one reduction."""
        return torch.linalg.vector_norm(self.blocks(), dim=(1, 3))

    def pooled(self) -> Tensor:
        """Means of squares, as torchao has them: faster than the norms for some blocks."""
        squares = (self.weight * self.weight).unsqueeze(0)
        return torch.nn.functional.avg_pool2d(squares, self.block)

    def multiplied(self, pruned: Tensor) -> Pair:
        """The mask without the units of these indices, and its product."""
        height, width = self.block
        down, across = (n // b for n, b in zip(self.weight.shape, self.block, strict=True))
        units = self.weight.new_ones(down * across).scatter_(0, pruned, 0).view(down, across)
        mask = units.repeat_interleave(height, 0).repeat_interleave(width, 1)
        return mask, self.weight * mask


def _cut(case: Case, weights: list[Tensor]) -> list[_Cut]:
    """The weights of a case; the first units of all of them are one, and so are all others."""
    if case.variant != "tied":
        return [_Cut(weight, _BLOCKS[case.variant]) for weight in weights]
    rows, cols = case.shapes[0]
    heads = {0: (rows // _HEADS, cols), 1: (rows, cols // _HEADS)}
    return [_Cut(weight, heads[dim]) for weight, dim in zip(weights, _TIED, strict=True)]


def _build_blocks(case: Case) -> Workload:
    weights = make_data(case)
    cuts = _cut(case, weights)

    def prune(_: ModuleType, modules: Modules) -> None:
        if case.variant == "tied":
            size = case.shapes[0][0] // _HEADS
            tied = [(module, "weight", dim) for module, dim in zip(modules, _TIED, strict=True)]
            fastprune.tied_structured(tied, case.amount, size)
        else:
            (module,) = modules
            fastprune.block_structured(module, "weight", case.amount, _BLOCKS[case.variant])

    def composed(norms: Callable[[_Cut], Tensor]) -> list[Pair]:
        scores = torch.stack([norms(cut).flatten() for cut in cuts]).sum(0)
        pruned = scores.topk(round(case.amount * len(scores)), largest=False).indices
        return [cut.multiplied(pruned) for cut in cuts]

    def expected() -> list[Pair]:  # in float64, and topk has another order among equals
        means = [cut.blocks().double().square().mean((1, 3)).sqrt().flatten() for cut in cuts]
        scores = torch.stack(means).sum(0)
        pruned = scores.sort(stable=True).indices[: round(case.amount * len(scores))]
        return [cut.multiplied(pruned) for cut in cuts]

    ours, _ = on_modules(weights, [None] * len(weights), prune)

    def check() -> None:
        modules = ours.once()
        for mask, (due, _) in zip(masks_of(modules), expected(), strict=True):
            check_equal(mask, due, case.variant)
        check_products(modules, weights)

    # Read once; norms and product read a weight that no cache holds twice.
    bytes_moved = 3 * case.itemsize * case.numel
    contenders = [
        ours,
        Contender(UPSTREAM, lambda _: composed(_Cut.norms)),
        floor_of(case, bytes_moved, clones(weights)),
    ]
    if case.variant != "tied":  # a sum of norms, not of squares
        contenders.append(Contender("avg_pool2d", lambda _: composed(_Cut.pooled)))
    return Workload(contenders, bytes_moved, check)


NM = Family(_nm_cases, _build_nm)
ROWS = Family(_row_cases, _build_rows)
BLOCKS = Family(_block_cases, _build_blocks)
