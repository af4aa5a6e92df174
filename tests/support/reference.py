"""Reference implementations of the operators: sort everything, take the first k.

Slow, for any tensors. docs/design.md says the same in words. Results are on the CPU; a selection
sorts where the scores are, as sorting millions of entries many times is most of a test's time.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from support.compare import INTEGER_OF_WIDTH


def rank_keys(t: Tensor) -> Tensor:
    """int64 keys of the shape of ``t`` that order by magnitude; NaNs tie above infinity."""
    magnitude = (1 << (8 * t.element_size() - 1)) - 1
    t = t.detach().contiguous()
    keys = t.view(INTEGER_OF_WIDTH[t.element_size()]).to(torch.int64) & magnitude
    return torch.where(t.isnan(), magnitude, keys)


def count(amount: float, active: int) -> int:
    """The number to prune: an int is a count, a float a fraction, rounded half to even."""
    return amount if isinstance(amount, int) else round(amount * active)


def topk_masks(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    amount: float | Sequence[float],
    factors: Sequence[Tensor | None] = (),
    *,
    active_only: bool = True,
    largest: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    if not scores:
        return []
    masks = masks or [None] * len(scores)
    if isinstance(amount, Sequence):
        options: dict[str, Any] = {"active_only": active_only, "largest": largest}
        options["dtype"] = next((m.dtype for m in masks if m is not None), dtype)
        by = factors or [None] * len(scores)
        return [
            topk_masks([s], [m] if m is not None else [], a, [f], **options)[0]
            for s, m, a, f in zip(scores, masks, amount, by, strict=True)
        ]
    device = scores[0].device
    old_dtype = next((m.dtype for m in masks if m is not None), dtype or scores[0].dtype)
    old = [
        torch.ones(s.shape, dtype=old_dtype, device=device) if m is None else m.to(device)
        for s, m in zip(scores, masks, strict=True)
    ]
    mask = torch.cat([m.reshape(-1) for m in old])
    if any(f is not None for f in factors):
        by = [torch.ones(()) if f is None else f for f in factors]
        each = [_keys(s, f, False) for s, f in zip(scores, by, strict=True)]
        keys = torch.cat([of_one.to(device).reshape(-1) for of_one in each])
    else:
        keys = torch.cat([rank_keys(s).reshape(-1) for s in scores])
    everywhere = torch.arange(len(mask), device=device)
    candidates = everywhere[mask == 1] if active_only else everywhere
    keys = keys[candidates]
    order = torch.argsort(-keys if largest else keys, stable=True)
    mask[candidates[order[: count(amount, len(candidates))]]] = 0
    parts = mask.cpu().split([s.numel() for s in scores])
    return [part.view(s.shape) for part, s in zip(parts, scores, strict=True)]


def nm_masks(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    n: int,
    m: int,
    dim: int,
    factors: Sequence[Tensor | None] = (),
    *,
    is_signed: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Run by run, entry by entry."""
    new = []
    for i, score in enumerate(scores):
        old = masks[i] if masks else None
        mask = torch.ones(score.shape, dtype=dtype or score.dtype) if old is None else old.clone()
        mask = mask.contiguous()
        keys = _keys(score, factors[i] if factors else None, is_signed)
        key_rows, rows = keys.movedim(dim, -1), mask.movedim(dim, -1)
        for index in np.ndindex(*rows.shape[:-1]):
            for begin in range(0, rows.shape[-1], m):
                row, key_row = rows[index][begin : begin + m], key_rows[index][begin : begin + m]
                due = len(row) - min(len(row), n) - int((row == 0).sum())
                active = [j for j in range(len(row)) if row[j] == 1]
                for j in sorted(active, key=lambda j: int(key_row[j]))[: max(0, due)]:
                    row[j] = 0
        new.append(mask)
    return new


def row_masks(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    amount: int | float,
    dim: int,
    factors: Sequence[Tensor | None] = (),
    *,
    absolute: bool = False,
    is_signed: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Row by row, by a stable sort."""
    new = []
    for i, score in enumerate(scores):
        old = masks[i] if masks else None
        mask = torch.ones(score.shape, dtype=dtype or score.dtype) if old is None else old.clone()
        size = score.numel() // max(1, score.shape[dim])
        rows = mask.movedim(dim, 0).reshape(score.shape[dim], size)
        keys = _keys(score, factors[i] if factors else None, is_signed)
        key_rows = keys.movedim(dim, 0).reshape(rows.shape)
        pruned = torch.zeros(rows.shape, dtype=torch.bool)
        for r in range(len(rows)):
            active = (rows[r] == 1).nonzero().flatten()
            if absolute:
                due = round(amount * rows.shape[1]) - int((rows[r] == 0).sum())
            else:
                due = count(amount, len(active))
            order = key_rows[r][active].argsort(stable=True)
            pruned[r, active[order[: max(0, due)]]] = True
        there = pruned.view(mask.movedim(dim, 0).shape).movedim(0, dim)
        new.append(mask.masked_fill(there, 0).contiguous())
    return new


def block_norms(ts: Sequence[Tensor], block: Sequence[int], p: float = 2.0) -> list[Tensor]:
    """By definition, summed in the order of block_grid.h: columns, lanes, halves."""
    return [_block_norms(t, block, p) for t in ts]


def _matrix(t: Tensor, block: Sequence[int]) -> tuple[Tensor, int, int]:
    """A tensor as the matrix that is cut, and how many rows and columns a block has."""
    rows, cols = [*t.shape[:2], 1, 1][:2]
    if t.numel() == 0:
        return t.cpu().reshape(rows, 0 if rows else cols), block[0], block[1]
    matrix = t.detach().cpu().contiguous().reshape(rows, -1)
    return matrix, min(block[0], rows), min(block[1], cols) * (matrix.shape[1] // cols)


def _block_norms(t: Tensor, block: Sequence[int], p: float) -> Tensor:
    rows, cols = [*t.shape[:2], 1, 1][:2]
    norms = torch.empty(-(-rows // block[0]), -(-cols // block[1]), dtype=torch.float64)
    matrix, height, width = _matrix(t, block)
    for i, j in np.ndindex(*norms.shape):
        part = matrix[i * height : (i + 1) * height, j * width : (j + 1) * width].double().abs()
        if p == float("inf"):
            norms[i, j] = part.max()
        elif p == float("-inf"):
            norms[i, j] = part.min()
        else:
            terms = (part != 0).double() if p == 0 else part * part if p == 2 else part**p
            columns = torch.zeros(part.shape[1], dtype=torch.float64)
            for row in terms:
                columns = columns + row
            lanes = torch.zeros(32, dtype=torch.float64)
            for first in range(0, len(columns), 32):
                some = columns[first : first + 32]
                lanes[: len(some)] += some
            while len(lanes) > 1:
                lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
            mean = lanes[0] / part.numel()
            mean = float(mean)  # torch's sqrt may be 1 bit off
            norms[i, j] = mean if p in (0, 1) else math.sqrt(mean) if p == 2 else mean ** (1 / p)
    return norms


def block_masks(
    units: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    likes: Sequence[Tensor],
    block: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    new = []
    for i, (unit, like) in enumerate(zip(units, likes, strict=True)):
        old = masks[i] if masks else None
        mask = torch.ones(like.shape, dtype=dtype or like.dtype) if old is None else old.cpu()
        matrix, height, width = _matrix(mask, block)
        kept = unit.cpu().repeat_interleave(height, 0).repeat_interleave(width, 1)
        kept = kept[: matrix.shape[0], : matrix.shape[1]]
        new.append(matrix.masked_fill(~kept, 0).reshape(like.shape))
    return new


def _keys(score: Tensor, factor: Tensor | None, is_signed: bool) -> Tensor:
    values = score.detach().cpu()
    if factor is not None:
        wide = torch.float64 if score.dtype == torch.float64 else torch.float32
        values = values.to(wide).abs() * factor.to(wide).abs()
    return signed_keys(values) if is_signed else rank_keys(values)


def signed_keys(t: Tensor) -> Tensor:
    """int64 keys that order by value; NaNs tie above infinity."""
    keys = rank_keys(t)
    return torch.where(t.signbit() & ~t.isnan(), -keys, keys)


def channel_norms(t: Tensor, p: float, dim: int) -> Tensor:
    """By definition, summed in the order of selection.h: lanes, halves, chunks."""
    x = t.detach().cpu().double().movedim(dim, 0).flatten(1).abs()
    if p == float("inf"):
        return x.amax(1) if x.shape[1] else x.new_zeros(len(x))
    if p == float("-inf"):
        return x.amin(1) if x.shape[1] else x.new_full((len(x),), float("inf"))
    if p == 0:
        return (x != 0).sum(1).double()
    if p == 1:
        return _ordered_sum(x)
    if p == 2:
        return torch.from_numpy(np.sqrt(_ordered_sum(x * x).numpy()))  # torch's may be 1 bit off
    return _ordered_sum(x**p) ** (1 / p)


def _ordered_sum(x: Tensor, chunk: int = 1024, lanes: int = 32) -> Tensor:
    """Row sums: element j of a chunk goes to lane j % 32; lanes fold in halves; chunks add up."""
    chunks = max(1, -(-x.shape[1] // chunk))
    padded = torch.nn.functional.pad(x, (0, chunks * chunk - x.shape[1]))
    steps = padded.view(len(x), chunks, chunk // lanes, lanes)
    sums = steps.new_zeros(len(x), chunks, lanes)
    for step in range(chunk // lanes):
        sums = sums + steps[:, :, step]
    while lanes > 1:
        lanes //= 2
        sums = sums[:, :, :lanes] + sums[:, :, lanes : 2 * lanes]
    total = x.new_zeros(len(x))
    for index in range(chunks):
        total = total + sums[:, index, 0]
    return total


def channel_mask(
    scores: Tensor,
    like: Tensor,
    mask: Tensor | None,
    amount: float,
    dim: int,
    *,
    active_only: bool = True,
) -> Tensor:
    old = torch.ones(like.shape, dtype=like.dtype) if mask is None else mask.cpu().contiguous()
    channels = range(like.shape[dim])
    if mask is not None and active_only:
        channels = [c for c in channels if old.select(dim, c).ne(0).any()]
    keys = rank_keys(scores.double()).tolist()
    keep = torch.ones(like.shape[dim], dtype=old.dtype)
    for channel in sorted(channels, key=lambda c: keys[c])[: count(amount, len(channels))]:
        keep[channel] = 0
    shape = [1] * like.dim()
    shape[dim] = -1
    return old * keep.view(shape)


def combine_masks(old_mask: Tensor, new_mask: Tensor) -> Tensor:
    return old_mask * new_mask.to(old_mask.dtype)


def masked_mul(t: Tensor, mask: Tensor) -> Tensor:
    return mask.to(t.dtype) * t


def unpacked(bits: Tensor, shape: Sequence[int]) -> Tensor:
    rows = shape[0] if len(shape) > 1 else 1
    cols = int(np.prod(shape[1:] if len(shape) > 1 else shape))
    entries = np.unpackbits(bits.cpu().numpy(), axis=1, count=cols, bitorder="little")
    return torch.from_numpy(entries).view(rows, cols).bool().reshape(tuple(shape))


def masked_muls_(ts: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """What becomes of ``ts``."""
    return [_masked(t.cpu(), mask.cpu()) for t, mask in zip(ts, masks, strict=True)]


def _masked(t: Tensor, mask: Tensor) -> Tensor:
    rows = t.shape[0] if t.dim() > 1 else 1
    cols = int(np.prod(t.shape[1:] if t.dim() > 1 else t.shape))
    if mask.dtype == torch.uint8 and mask.shape == (rows, -(-cols // 8)):
        mask = unpacked(mask, t.shape)
    return t.where(mask, 0) if mask.dtype == torch.bool else masked_mul(t, mask)
