"""Every CUDA kernel, on little data and on all of its paths.

compute-sanitizer watches them on a GPU (verify_gpu.py), the race detector without one (make races).
Run by itself, this compares the results on a GPU with those on the CPU, bit for bit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fastprune
from fastprune.packing import packed

ALL_AGREE = "kernel_cases: all results agree with the CPU"
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

Results = Iterator[Tensor]


@dataclass(frozen=True)
class Sizes:
    """What takes all paths, with the constants of a policy.h.

    Attributes:
        lists: sizes of tensors, of lists that are selected from together.
        shapes: of tensors whose channels are selected, with their dim.
        equal: of a tensor of equal entries, for one dtype: more tiles than a block takes at once.
        row: of a row whose keys a block's registers do not hold.
        large: of a tensor of which each block of a GPU sweeps more than a batch.
    """

    lists: Sequence[Sequence[int]]
    shapes: Sequence[tuple[Sequence[int], int]]
    equal: int = 0
    row: int = 700
    large: int = 0


#: As shipped: one block; the last block of the sweep; all blocks, with a sample.
SHIPPED = Sizes(
    lists=((100,), (1, 31, 4096, 4097, 5000), (70_001,), (1_200_000,)),
    shapes=(
        ((4096, 512), 0),  # long rows
        ((600, 4096), -1),  # columns
        ((9000, 8), 0),  # more channels than every block selects among
        ((33, 70), 0),
        ((5, 9, 11), 1),
        ((64, 3, 40, 3), 2),  # strips
        ((3, 20_001), 0),  # few channels that blocks share
        ((2000, 6), 1),
    ),
    row=17_000,
)
#: With what would take too long on the host: up to 180 multiprocessors have more than a batch each.
ON_A_GPU = replace(SHIPPED, large=24_000_000)
#: With the small constants that the tests on the host have.
SMALL = Sizes(
    lists=((100,), (1, 31, 700), (33, 2000), (1, 31, 700, 1025, 3001)),
    shapes=(
        ((40, 64), 0),
        ((65, 40), -1),
        ((300, 8), 0),
        ((33, 70), 0),
        ((5, 9, 11), 1),
        ((4, 3, 40, 3), 2),
        ((3, 9001), 0),
        ((2000, 6), 1),
        ((64, 2100), -1),
        ((3, 5, 2100), 1),
        ((2, 20_001), 0),  # channels that blocks share
        ((1, 80_001), 0),  # with more chunks than are staged at once
    ),
    equal=140_000,
)


@dataclass(frozen=True)
class Target:
    """Where the kernels run.

    Attributes:
        ops: with the names and signatures of ``fastprune.ops``.
        device: of the tensors.
        force_fallback: makes selections start over without their sample.
    """

    ops: Any
    device: str
    force_fallback: Callable[[bool], None]


def on(device: str) -> Target:
    """The operators of fastprune on tensors of a device."""
    return Target(fastprune.ops, device, fastprune._C._force_fallback)


def _to(device: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.to(device) for t in tensors]


def topk(target: Target, sizes: Sizes, dtype: torch.dtype) -> Results:
    """Selection among the entries of lists: distinct and equal keys, old masks, both ends."""
    if sizes.equal and dtype == torch.float32:
        yield from target.ops.topk_masks([torch.ones(sizes.equal, device=target.device)], [], 0.97)
    for entries in sizes.lists:
        draws = torch.Generator().manual_seed(0)
        normal = [torch.randn(n, generator=draws).to(dtype) for n in entries]
        old = [(torch.rand(n, generator=draws) > 0.3).to(dtype) for n in entries]
        few = [t.mul(2).round() for t in normal]
        zeros = [t * (t > 0) for t in normal]
        for kind in (normal, few, zeros):
            data = _to(target.device, kind)
            yield from target.ops.topk_masks(data, [], 0.5)
            masks, products = target.ops.topk_prune(data, _to(target.device, old), data, 0.5)
            yield from [*masks, *products]
        data = _to(target.device, normal)
        yield from target.ops.topk_masks(data, [], sum(entries) // 3, largest=True)
        yield from target.ops.topk_masks(data, _to(target.device, [m.bool() for m in old]), 1)
        each = [0.5 if i % 2 else n // 3 for i, n in enumerate(entries)]
        yield from target.ops.topk_masks(data, _to(target.device, old), each, active_only=False)
        masks, products = target.ops.topk_prune(data, [], data, each)
        yield from [*masks, *products]
        factors = [torch.rand(n, generator=draws).to(target.device) for n in entries]
        masks, products = target.ops.topk_prune(data, [], data, 0.5, factors)
        yield from [*masks, *products]
        yield from target.ops.topk_masks(data, [], each, [None, *factors[1:]])
        target.force_fallback(True)
        try:
            for kind in (normal, few):
                yield from target.ops.topk_masks(_to(target.device, kind), [], 0.5)
        finally:
            target.force_fallback(False)
        for kind in (normal, few):
            yield from part(target, kind)
    yield from rows(target, sizes, dtype)


def large(target: Target, sizes: Sizes, dtype: torch.dtype) -> Results:
    """Whole steps of the sweep; sorted, a batch has more candidates than are staged."""
    if not sizes.large:
        return
    draws = torch.Generator().manual_seed(0)
    normal = torch.randn(sizes.large, generator=draws).to(dtype)
    old = (torch.rand(sizes.large, generator=draws) > 0.3).to(dtype).to(target.device)
    for kind in (normal, normal.sort().values):
        data = kind.to(target.device)
        yield from target.ops.topk_masks([data], [], 0.5)
        masks, products = target.ops.topk_prune([data], [old], [data], 0.5)
        yield from [*masks, *products]


def part(target: Target, scores: Sequence[Tensor]) -> Results:
    """The phases of a part of a selection, with a threshold inside of the interval and outside."""
    keys = torch.cat([t.double().abs().view(torch.int64) for t in scores]).sort().values
    # As few entries between as a sample leaves, so that there is room for them.
    lo, at, hi = (int(keys[len(keys) * percent // 100]) for percent in (49, 50, 51))
    places = [torch.tensor([0]) for _ in scores]
    for interval in ((lo, at, hi), (at, at, at)):
        for threshold in (at, int(keys[0])):
            stored = lo <= threshold
            native = target.ops.topk_part(_to(target.device, scores), [], torch.float64)
            native.sample(3)
            *counts, _ = native.sweep(*interval)
            yield torch.tensor(counts)
            yield native.histogram(interval[0], 40, stored)
            yield native.tie_histogram(threshold, 0, 3, stored, places)
            below, ties = int((keys < threshold).sum()), int((keys == threshold).sum())
            native.fixup(threshold, below, (ties + 1) // 2, stored)
            yield from native.masks()


def nm(target: Target, sizes: Sizes, dtype: torch.dtype) -> Results:
    """N:M: whole runs and remainders, along rows and columns, old masks, factors, both orders."""
    ops = target.ops
    for shape, dim, n, m in (
        ((70, 64), 1, 2, 4),  # vectors
        ((9, 70), 1, 2, 4),
        ((40, 33), 0, 3, 8),
        ((20, 76), 1, 8, 16),  # long runs, of vectors
        ((5, 130, 3), 1, 20, 64),
    ):
        draws = torch.Generator().manual_seed(0)
        t = torch.randn(shape, generator=draws).to(dtype).to(target.device)
        old = (torch.rand(shape, generator=draws) > 0.3).to(dtype).to(target.device)
        factor = torch.rand(shape[-1], generator=draws).to(target.device)
        yield from ops.nm_masks([t], [old.bool()], n, m, dim)
        yield from ops.nm_masks([t.mul(2).round()], [], n, m, dim, is_signed=True)
        for factors in ([], [factor], [factor.to(dtype)], [factor.double()]):
            masks, products = ops.nm_prune([t], [old], [t], n, m, dim, factors)
            yield from [*masks, *products]
        masks, products = ops.nm_prune([t], [], [old], n, m, dim)
        yield from [*masks, *products]
    yield from both_ways(target, dtype)


def both_ways(target: Target, dtype: torch.dtype) -> Results:
    """2:4 in rows and columns: vectors and single entries, factors, both orders."""
    ops = target.ops
    for shape in ((12, 132), (8, 12, 3)):
        draws = torch.Generator().manual_seed(0)
        t = torch.randn(shape, generator=draws).to(dtype).to(target.device)
        factor = torch.rand(shape[-1], generator=draws).to(target.device)
        for is_signed in (False, True):
            rounded = [t.mul(2).round()]
            yield from ops.nm_masks(rounded, [], 2, 4, 1, is_signed=is_signed, both=True)
        for factors in ([], [factor], [factor.to(dtype)], [factor.double()]):
            masks, products = ops.nm_prune([t], [], [t], 2, 4, 1, factors, both=True)
            yield from [*masks, *products]
        masks, products = ops.nm_prune([t], [], [t.flip(0)], 2, 4, 0, both=True)
        yield from [*masks, *products]


def rows(target: Target, sizes: Sizes, dtype: torch.dtype) -> Results:
    """Rows that are contiguous and that are not, ties, old masks, factors, both orders."""
    ops = target.ops
    for shape, dim in (((3, sizes.row), 0), ((3, 300), 0), ((300, 9), 1), ((3, 40, 5), 1)):
        draws = torch.Generator().manual_seed(0)
        t = torch.randn(shape, generator=draws).to(dtype).to(target.device)
        old = (torch.rand(shape, generator=draws) > 0.3).to(dtype).to(target.device)
        factor = torch.rand(shape[-1], generator=draws).to(target.device)
        yield from ops.row_masks([t], [old.bool()], 0.5, dim)
        yield from ops.row_masks([t.mul(2).round()], [], 0.3, dim, is_signed=True)
        for factors in ([], [factor], [factor.to(dtype)], [factor.double()]):
            masks, products = ops.row_prune([t], [old], [t], 0.6, dim, factors, absolute=True)
            yield from [*masks, *products]
        masks, products = ops.row_prune([t], [old], [old], 2, dim)
        yield from [*masks, *products]


def blocks(target: Target, sizes: Sizes, dtype: torch.dtype) -> Results:
    """Norms of blocks narrower and wider than a warp, and masks of them, edges included."""
    ops = target.ops
    draws = torch.Generator().manual_seed(0)
    shapes = ((70, 64), (9, 70), (40, 33, 3), (130,))
    ts = [torch.randn(shape, generator=draws).to(dtype).to(target.device) for shape in shapes]
    for block in ((1, 4), (4, 4), (16, 40), (200, 3)):
        for p in (2.0, 3.0, 1.0, float("inf")):
            norms = ops.block_norms(ts * 5, block, p)  # more than one launch
            yield from norms
        kept = [n > float(n.cpu().median()) for n in norms[: len(ts)]]
        old = [t > 0 for t in ts]
        yield from ops.block_masks(kept, old, ts, block)
        for masks in ([], [m.to(dtype) for m in old]):
            new, products = ops.block_prune(kept, masks, ts, block)
            yield from [*new, *products]


def channels(target: Target, sizes: Sizes, dtype: torch.dtype) -> Results:
    """Norms of channels, and selection among them."""
    for shape, dim in sizes.shapes:
        draws = torch.Generator().manual_seed(0)
        t = torch.randn(tuple(shape), generator=draws).to(dtype).to(target.device)
        old = (torch.rand(tuple(shape), generator=draws) > 0.5).to(dtype).to(target.device)
        old.movedim(dim, 0)[1::3] = 0
        for n in (2.0, 1.0, 3.0, float("inf")):
            yield target.ops.channel_norms(t, n, dim)
        norms = target.ops.channel_norms(t, 2.0, dim)
        yield target.ops.channel_mask(norms, t, None, 0.5, dim)
        yield target.ops.channel_mask(norms.round(), t, old.bool(), 1, dim)
        yield from target.ops.channel_prune(norms, t, old, 0.5, dim)


def elementwise(target: Target, sizes: Sizes, dtype: torch.dtype) -> Results:
    """Products, masks in place and combined masks, of whole vectors and of odd ends."""
    ops = target.ops
    for entries in sizes.lists:
        draws = torch.Generator().manual_seed(0)
        ts = _to(target.device, [torch.randn(n, generator=draws).to(dtype) for n in entries])
        kept = _to(target.device, [torch.rand(n, generator=draws) > 0.3 for n in entries])
        factors = [mask.to(dtype) for mask in kept]
        for masks in (kept, factors):
            yield from ops.masked_muls(ts, masks)
            yield ops.masked_mul(ts[0], masks[0])
            yield ops.masked_mul(ts[-1][1:], masks[-1][1:])  # not aligned
            yield from ops.masked_muls_([t.clone() for t in ts], masks)
        yield from ops.masked_muls_([t.clone() for t in ts], [packed(mask) for mask in kept])
        rows = ts[-1].clone().view(-1, 1).expand(-1, 3).contiguous()  # rows that fill no bytes
        yield from ops.masked_muls_([rows], [packed(rows > 0)])
        yield ops.combine_masks(factors[-1], kept[-1])


#: Folders of csrc/cuda; in the end what a sanitizer takes longest for.
FAMILIES: dict[str, Callable[[Target, Sizes, torch.dtype], Results]] = {
    "topk": topk,
    "nm": nm,
    "blocks": blocks,
    "channels": channels,
    "elementwise": elementwise,
    "large": large,
}


def results(
    target: Target, sizes: Sizes, families: Sequence[str] = (*FAMILIES,)
) -> Iterator[Tensor]:
    """What every operator makes of the same inputs, one call after the other."""
    for family in families:
        for dtype in DTYPES:
            yield from FAMILIES[family](target, sizes, dtype)


def differences(target: Target, sizes: Sizes, family: str, dtype: torch.dtype) -> Iterator[str]:
    """What differs from the CPU, so that one difference does not hide the cases after it."""
    run = FAMILIES[family]
    pairs = zip(run(target, sizes, dtype), run(on("cpu"), sizes, dtype), strict=True)
    for number, (ours, reference) in enumerate(pairs):
        try:
            torch.testing.assert_close(ours.cpu(), reference, rtol=0, atol=0, equal_nan=True)
        except AssertionError as error:
            yield f"{family} of {dtype}, result {number}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="on less data")
    names = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    parser.add_argument("--dtype", choices=names, help="of the scores; all if not given")
    options = parser.parse_args()
    sizes = SMALL if options.small else ON_A_GPU if options.device == "cuda" else SHIPPED
    target = on(options.device)
    found = 0
    for family in FAMILIES:
        for dtype in [names[options.dtype]] if options.dtype else DTYPES:
            print(f"{family} of {dtype}", flush=True)  # so that a log shows where it was stopped
            for difference in differences(target, sizes, family, dtype):
                found += 1
                print(difference, file=sys.stderr, flush=True)
    if found:
        sys.exit(f"kernel_cases: {found} results differ from those of the CPU")
    print(ALL_AGREE)


if __name__ == "__main__":
    main()
