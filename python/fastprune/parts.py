"""Selection over parts: tensors of several dtypes or devices, with one budget over all of them.

Each part sweeps its own tensors, once (csrc/args/topk_part.h). Parts agree on the interval to sweep
from samples, and on the threshold from counts: small histograms that an :class:`Exchange` adds up,
digit by digit. Ties are pruned in the order of their places, which are those in the list of all
tensors, so the masks are those of one operator over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor

from . import _C, ops
from .ops.arguments import as_scalar

_Kind = TypeVar("_Kind", bound=Hashable)

_FORMATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
#: Keys of the sample of all parts together.
SAMPLE = 1 << 15
#: Half the width of the interval, in standard deviations of the threshold's rank in the sample.
_SIGMAS = 4.0
#: Above this share of the sample a key is swept alone, as its entries would not fit the candidates.
_HEAVY = 1 / 128
#: Histograms have 2 ** BIN_BITS bins: kPartBins in csrc/args/topk_part.h.
BIN_BITS = 11


def common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that all of them are promoted to."""
    dtype = tensors[0].dtype
    for t in tensors:
        if t.dtype != dtype:
            dtype = torch.promote_types(dtype, t.dtype)
    return dtype


def are_parts(scores: Sequence[Tensor]) -> bool:
    """Whether these are of several dtypes or devices, and can be selected from as they are."""
    dtype, device = scores[0].dtype, scores[0].device
    return any(s.dtype != dtype or s.device != device for s in scores) and all(
        s.dtype in _FORMATS and _has_parts(s) and _C.is_plain(None, s) for s in scores
    )


def _has_parts(scores: Tensor) -> bool:
    """Whether there is a part for the device. One on CUDA waits for it, which a capture cannot."""
    return scores.is_cpu or (scores.is_cuda and not torch.cuda.is_current_stream_capturing())


def topk_masks(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    amount: int | float,
    *,
    dtypes: Sequence[torch.dtype],
    active_only: bool,
    largest: bool,
) -> list[Tensor]:
    """:func:`fastprune.ops.topk_masks` of scores and masks of several dtypes and devices.

    Args:
        scores: of which ``are_parts`` is true.
        masks: old mask or None for each.
        amount: as there.
        dtypes: of each new mask where there is no old one.
        active_only: as there.
        largest: as there.

    Returns:
        The new masks.
    """
    numbers = by_kind(
        (score.device, score.dtype, dtype if mask is None else mask.dtype)
        for score, mask, dtype in zip(scores, masks, dtypes, strict=True)
    )
    firsts = [0, *accumulate(score.numel() for score in scores)]
    keys = common_dtype(scores)
    made = [
        Part(
            [scores[i] for i in each],
            [masks[i] for i in each],
            [torch.tensor([firsts[i]], device="cpu") for i in each],
            keys=keys,
            active_only=active_only,
            largest=largest,
            dtype=mask_dtype,
        )
        for (*_, mask_dtype), each in numbers.items()
    ]
    return in_order(numbers, select(made, amount, firsts[-1], keys))


def by_kind(kinds: Iterable[_Kind]) -> dict[_Kind, list[int]]:
    """The numbers of the things of each kind."""
    numbers: dict[_Kind, list[int]] = {}
    for i, kind in enumerate(kinds):
        numbers.setdefault(kind, []).append(i)
    return numbers


def in_order(numbers: Mapping[Any, Sequence[int]], of_kinds: Iterable[Sequence[Any]]) -> list[Any]:
    """What there is for the things of each kind, in the order of their numbers."""
    found: dict[int, Any] = {}
    for each, of_kind in zip(numbers.values(), of_kinds, strict=True):
        found.update(zip(each, of_kind, strict=True))
    return [found[i] for i in range(len(found))]


class Exchange:
    """What parts tell each other; here nothing, as all of them are in this process."""

    def gather(self, keys: Tensor, slots: int) -> tuple[Tensor, int]:
        """The samples of all processes, and of how many entries they are."""
        return keys, slots

    def sum(self, counts: Tensor) -> Tensor:
        """The sum over all processes; int64 on the CPU."""
        return counts


class Counting(Protocol):
    """A part, or what stands for one: entries that are counted."""

    counts: bool


_Counting = TypeVar("_Counting", bound=Counting)


class Part:
    """Tensors of one device, one dtype, and one dtype of masks.

    Args:
        scores: what to rank.
        masks: old mask or None for each.
        places: for each tensor the place of its first entry, and unless its entries have
            consecutive places, for each dim what each index adds; int64 on the CPU.
        keys: the dtype to which the scores of all parts promote.
        active_only: as in :func:`fastprune.ops.topk_masks`.
        largest: as there.
        dtype: as there.
        counts: whether its entries count; not those that another process counts.
    """

    def __init__(
        self,
        scores: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        places: Sequence[Tensor],
        *,
        keys: torch.dtype,
        active_only: bool = True,
        largest: bool = False,
        dtype: torch.dtype | None = None,
        counts: bool = True,
    ) -> None:
        self.native = ops.topk_part(
            scores, masks, keys, active_only=active_only, largest=largest, dtype=dtype
        )
        self.places = list(places)
        self.counts = counts


def select(
    parts: Sequence[Part],
    amount: int | float,
    total: int,
    keys: torch.dtype,
    exchange: Exchange | None = None,
) -> list[list[Tensor]]:
    """Masks that prune ``amount`` of the entries of all parts together.

    Args:
        parts: of this process.
        amount: an int is a number of entries, a float a fraction of the active ones.
        total: entries of the parts of all processes.
        keys: the dtype to which the scores of all parts promote.
        exchange: with other processes.

    Returns:
        The new masks of each part.

    Raises:
        ValueError: the amount exceeds the active entries.
    """
    exchange = exchange or Exchange()
    amount = as_scalar(amount)
    top = _C._max_key(_name(keys))
    lo, pivot, hi = _interval(parts, amount, total, top, exchange)
    overflows = 1
    while overflows:
        swept = [part.native.sweep(lo, pivot, hi) for part in parts]
        counts = [torch.tensor([*each, not fits], device="cpu") for *each, fits in swept]
        active, below, inside, overflows = _total(parts, counts, 4, exchange).tolist()
        if overflows:  # an end is probably the key of very many entries; one key is not stored
            pivot = hi = lo
    count: int = _C._budget(amount, active) if isinstance(amount, float) else amount
    upstream._validate_pruning_amount(count, active)
    stored = below < count <= below + inside and lo < hi
    if count == 0:
        return _finish(parts, 0, [(0, 0)] * len(parts), stored)
    if count <= below:  # the interval missed the threshold
        lo, hi, start, under = 0, lo - 1, 0, [0 for _ in parts]
    elif count <= below + inside:
        start, under = below, [b for _, b, _, _ in swept]
    else:
        lo, hi, start = hi + 1, top, below + inside
        under = [b + i for _, b, i, _ in swept]
    threshold, less, equal = radix_select(
        parts,
        (lo, hi),
        count - start,
        lambda part, first, shift: part.native.histogram(first, shift, stored),
        exchange,
    )
    under = [u + each for u, each in zip(under, less.each, strict=True)]
    due = equal.each
    ties = count - start - less.total
    if ties < equal.total:
        _, before, at = radix_select(
            parts,
            (0, total - 1),
            ties,
            lambda part, first, shift: part.native.tie_histogram(
                threshold, first, shift, stored, part.places
            ),
            exchange,
        )
        due = [b + a for b, a in zip(before.each, at.each, strict=True)]
    return _finish(parts, threshold, list(zip(under, due, strict=True)), stored)


class _Count(NamedTuple):
    total: int
    each: list[int]  # of the parts of this process


def radix_select(
    parts: Sequence[_Counting],
    interval: tuple[int, int],
    rank: int,
    histogram: Callable[[_Counting, int, int], Tensor],
    exchange: Exchange,
) -> tuple[int, _Count, _Count]:
    """The value of a rank, counted from 1, among the values of all parts in an interval.

    Returns:
        The value, how many are below it in the interval, and how many equal it.
    """
    lo, hi = interval
    less, equal = _Count(0, [0] * len(parts)), _Count(0, [])
    shift = 1
    while shift > 0:
        shift = max(0, (hi - lo).bit_length() - BIN_BITS)
        bins = [histogram(part, lo, shift) for part in parts]
        sums = _total(parts, bins, 1 << BIN_BITS, exchange)
        at = int(torch.searchsorted(sums.cumsum(0), rank - less.total))
        each = [n + int(b[:at].sum()) for n, b in zip(less.each, bins, strict=True)]
        less = _Count(less.total + int(sums[:at].sum()), each)
        equal = _Count(int(sums[at]), [int(b[at]) for b in bins])
        lo += at << shift
        hi = min(hi, lo + (1 << shift) - 1)
    return lo, less, equal


def _total(
    parts: Sequence[Counting], counts: Sequence[Tensor], numbers: int, exchange: Exchange
) -> Tensor:
    """The sum of what the parts of all processes count; of this process there may be none."""
    mine = [count for part, count in zip(parts, counts, strict=True) if part.counts]
    zero = torch.zeros(numbers, dtype=torch.int64, device="cpu")
    return exchange.sum(sum(mine, start=zero))


def _finish(
    parts: Sequence[Part], threshold: int, counts: list[tuple[int, int]], stored: bool
) -> list[list[Tensor]]:
    """The masks, given for each part its entries below the threshold, and its ties to prune."""
    for part, (below, ties) in zip(parts, counts, strict=True):
        part.native.fixup(threshold, below, ties, stored)
    return [part.native.masks() for part in parts]


def _interval(
    parts: Sequence[Part], amount: int | float, total: int, top: int, exchange: Exchange
) -> tuple[int, int, int]:
    """Where a sample says that the threshold is: an interval of keys, and the likeliest in it."""
    stretch = max(1, total // SAMPLE)
    samples = [part.native.sample(stretch) for part in parts if part.counts]
    none = torch.empty(0, dtype=torch.int64, device="cpu")
    keys = torch.cat([none, *(keys for keys, _ in samples)])
    keys, slots = exchange.gather(keys, sum(slots for _, slots in samples))
    if len(keys) == 0:
        return 0, top, top
    keys = keys.sort().values
    low, middle, high = _C._sample_ranks(amount, total, max(1.0, total / slots), len(keys), _SIGMAS)
    lo = int(keys[low]) if 0 <= low < len(keys) else 0
    hi = int(keys[high]) if high < len(keys) else top
    pivot = int(keys[middle]) if middle < len(keys) else hi
    if low >= len(keys):  # more than there seem to be
        lo = int(keys[-1])
    equal = int((keys == pivot).sum())
    if equal > _HEAVY * len(keys) and len(keys) > 1 / _HEAVY:
        return pivot, pivot, pivot
    return lo, pivot, hi


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
