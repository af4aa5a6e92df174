"""The patterns: how entries are grouped, and which operator selects.

A pattern has no state of a method; it reads ``method.amount`` and ``method.dim``.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, TypeAlias

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor
from torch.compiler import is_compiling

from . import _C, ops, parts
from .scores import active_channels

#: New masks, and their products with the tensors if one operator computed both, else None.
Selection: TypeAlias = tuple[Sequence[Tensor], Sequence[Tensor] | None]


class Pattern:
    """How entries are grouped; of itself, for methods whose ``select`` decides."""

    def __init__(self, pruning_type: str) -> None:
        #: The ``PRUNING_TYPE`` it stands for.
        self.pruning_type = pruning_type

    def check(self, method: Any, ts: Sequence[Tensor]) -> None:
        """Raise what upstream raises before anything is ranked."""

    def rank_shape(self, method: Any, t: Tensor) -> torch.Size:
        """The shape of the ranks of ``t``."""
        return t.shape

    def units(self, method: Any, t: Tensor) -> int:
        """How many of what is counted ``t`` has."""
        return t.numel()

    def pruned(self, method: Any, mask: Tensor) -> Tensor:
        """How many of them a mask has pruned."""
        return (mask == 0).sum()

    def decide(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        likes: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor] | None,
        active_only: bool,
    ) -> Selection:
        """New masks shaped as ``likes``, by ``ranks``; the rest as in ``Native.select``."""
        raise NotImplementedError


class Entries(Pattern):
    """Single entries, ranked over all tensors of a list together.

    Where ``method.amount`` is a list, over each by itself.

    Args:
        largest: prune the largest first.
        signed: rank by value, -1 before 0, rather than by magnitude.
    """

    def __init__(self, *, largest: bool = False, signed: bool = False) -> None:
        super().__init__("unstructured")
        self.largest = largest
        self.signed = signed

    def decide(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        likes: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor] | None,
        active_only: bool,
        factors: Sequence[Tensor | None] = (),
    ) -> Selection:
        """As in ``Pattern``; magnitudes are multiplied with those of ``factors``, where there are
        any, of ranks of one dtype and device.
        """
        dtype = ranks[0].dtype
        if not self.signed and parts.are_parts(ranks):
            return parts.topk_masks(
                ranks,
                masks,
                method.amount,
                dtypes=[like.dtype for like in likes],
                active_only=active_only,
                largest=self.largest,
            ), None
        if any(rank.device != ranks[0].device for rank in ranks):
            return self._decide_on_first_device(method, ranks, likes, masks, active_only), None
        if len(ranks) > 1 or not dtype.is_floating_point:
            dtype = parts.common_dtype(ranks)
            if not dtype.is_floating_point:
                dtype = torch.float64
            ranks = [rank if rank.dtype == dtype else rank.to(dtype) for rank in ranks]
        if self.signed:
            if not are_plain(masks, ranks) or any(like.is_complex() for like in likes):
                return _lowest_by_sorting(method.amount, ranks, likes, masks, active_only), None
            if ts is not None and not are_plain([None] * len(ts), ts):
                ts = None
            negative = [rank < 0 for rank in ranks]
            if torch.stack([n.any() for n in negative]).any():
                amount = method.amount
                if not isinstance(amount, list):
                    return _lowest_signed(amount, ranks, negative, likes, masks, active_only), None
                each = zip(amount, ranks, negative, likes, masks, strict=True)
                lowest = [
                    _lowest_signed(a, [r], [n], [t], [m], active_only) for a, r, n, t, m in each
                ]
                return [mask for (mask,) in lowest], None
        new_dtype = None
        if masks[0] is None and (len(masks) == 1 or all(mask is None for mask in masks)):
            masks = ()  # much less work for the dispatcher than a list of None
            new_dtype = likes[0].dtype
        if ts is not None and not self.largest and (new_dtype is None or new_dtype == dtype):
            return ops.topk_prune(
                ranks, masks, ts, method.amount, active_only=active_only, factors=factors
            )
        new = ops.topk_masks(
            ranks,
            masks,
            method.amount,
            active_only=active_only,
            largest=self.largest,
            dtype=new_dtype,
            factors=factors,
        )
        return new, None

    def _decide_on_first_device(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        likes: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        """The new masks of tensors on several devices which no parts take: by copies of them."""
        device = ranks[0].device
        new, _ = self.decide(
            method,
            [rank.to(device) for rank in ranks],
            [torch.empty_like(like, device=device) for like in likes],
            [None if mask is None else mask.to(device) for mask in masks],
            None,
            active_only,
        )
        return [mask.to(like.device) for mask, like in zip(new, likes, strict=True)]


class Channels(Pattern):
    """Channels along ``method.dim``, with one rank for each; one budget a tensor.

    Args:
        signed: rank by value, -1 before 0, rather than by magnitude.
    """

    def __init__(self, *, signed: bool = False) -> None:
        super().__init__("structured")
        self.signed = signed

    def check(self, method: Any, ts: Sequence[Tensor]) -> None:
        for t in ts:
            upstream._validate_structured_pruning(t)
            upstream._validate_pruning_dim(t, method.dim)
            index(method.dim)  # a TypeError of a float
            if method.dim < -t.dim():
                raise IndexError(f"Invalid index {method.dim} for tensor of size {t.shape}")

    def rank_shape(self, method: Any, t: Tensor) -> torch.Size:
        return torch.Size([t.shape[method.dim]])

    def units(self, method: Any, t: Tensor) -> int:
        return t.shape[method.dim]

    def pruned(self, method: Any, mask: Tensor) -> Tensor:
        return (~active_channels(mask, method.dim)).sum()

    def amount(self, method: Any) -> int | float:
        """``method.amount``, as the operator takes it."""
        amount: int | float = method.amount
        # As upstream takes it, there alone.
        return 1 if amount is True and isinstance(method, upstream.LnStructured) else amount

    def decide(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        likes: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor] | None,
        active_only: bool,
    ) -> Selection:
        (rank,), (like,), (mask,) = ranks, likes, masks
        amount, dim = self.amount(method), method.dim
        if self.signed:
            rank = _ordinals(rank)
            if not are_plain(masks, likes):
                return (_lowest_channels(amount, dim, rank, like, mask, active_only),), None
        together = ts is not None and _is_alike(ts[0], like)
        if ts is not None and together and (mask is None or mask.dtype == like.dtype):
            new, product = ops.channel_prune(
                rank, ts[0], mask, amount, dim, active_only=active_only
            )
            return (new,), (product,)
        new = ops.channel_mask(rank, like, mask, amount, dim, active_only=active_only)
        # Upstream hands the default mask back as it is where there is nothing to prune.
        if upstream._compute_nparams_toprune(amount, like.shape[dim]) != 0:
            new = new.to(like.dtype)
        return (new,), None


def _is_alike(t: Tensor, like: Tensor) -> bool:
    return t is like or (t.dtype == like.dtype and t.stride() == like.stride())


def are_plain(masks: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> bool:
    """Whether the operators take old masks and tensors as they are."""
    pairs = zip(masks, tensors, strict=True)
    return not is_compiling() and all(_C.is_plain(mask, t) for mask, t in pairs)


def _active(
    tensors: Sequence[Tensor], masks: Sequence[Tensor | None], active_only: bool
) -> list[Tensor]:
    """Which entries of each tensor are ranked."""
    return [
        mask == 1 if active_only and mask is not None else torch.ones_like(t, dtype=torch.bool)
        for t, mask in zip(tensors, masks, strict=True)
    ]


def _count(amount: int | float, active: int) -> int:
    """How many of the active entries to prune."""
    count: int = upstream._compute_nparams_toprune(amount, active)
    upstream._validate_pruning_amount(count, active)
    return count


def _without(
    pruned: Sequence[Tensor], likes: Sequence[Tensor], masks: Sequence[Tensor | None]
) -> list[Tensor]:
    """The old masks, or ones, with zeros where ``pruned`` is True."""
    old = [torch.ones_like(t) if m is None else m for t, m in zip(likes, masks, strict=True)]
    return [mask.masked_fill(p, 0) for mask, p in zip(old, pruned, strict=True)]


def _lowest_signed(
    amount: int | float,
    ranks: Sequence[Tensor],
    negative: Sequence[Tensor],
    likes: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    active_only: bool,
) -> list[Tensor]:
    """The new masks where some ranks are negative: the operator ranks magnitudes.

    Negative entries go first, those of largest magnitude first, then the others. Their number is
    read back to the host.
    """
    active = _active(ranks, masks, active_only)
    negative = [n & a for n, a in zip(negative, active, strict=True)]
    total, below = (int(torch.stack([m.sum() for m in ms]).sum()) for ms in (active, negative))
    count = _count(amount, total)
    if count <= below:
        kept = ops.topk_masks(ranks, negative, count, largest=True)
        pruned = [n & ~k for n, k in zip(negative, kept, strict=True)]
    else:
        others = [a & ~n for a, n in zip(active, negative, strict=True)]
        kept = ops.topk_masks(ranks, others, count - below)
        pruned = [a & ~k for a, k in zip(active, kept, strict=True)]
    return _without(pruned, likes, masks)


def _lowest_by_sorting(
    amount: int | float,
    ranks: Sequence[Tensor],
    likes: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    active_only: bool,
) -> list[Tensor]:
    """The new masks by a stable sort, for tensors that the operators do not take."""
    flat = torch.cat([rank.reshape(-1) for rank in ranks])
    active = torch.cat([a.reshape(-1) for a in _active(ranks, masks, active_only)])
    places = active.nonzero().flatten()
    order = flat[places].argsort(stable=True)
    lowest = places[order[: _count(amount, len(places))]]
    pruned = torch.zeros_like(active).index_fill(0, lowest, True)
    parts = pruned.split([t.numel() for t in ranks])
    shaped = [part.view(t.shape) for part, t in zip(parts, ranks, strict=True)]
    return _without(shaped, likes, masks)


def _ordinals(rank: Tensor) -> Tensor:
    """0, 1, 2, … in the order of the values; equal ones in the order of their index."""
    order = rank.argsort(stable=True)
    numbers = torch.arange(len(order), dtype=torch.float64, device=rank.device)
    return torch.empty_like(numbers).scatter_(0, order, numbers)


def _lowest_channels(
    amount: int | float,
    dim: int,
    ordinals: Tensor,
    like: Tensor,
    mask: Tensor | None,
    active_only: bool,
) -> Tensor:
    """The new mask without the lowest channels, for tensors that the operators do not take."""
    old = torch.ones_like(like) if mask is None else mask
    active = active_channels(old, dim)
    if not active_only:
        active = torch.ones_like(active)
    places = active.nonzero().flatten()
    lowest = places[ordinals[places].argsort()[: _count(amount, len(places))]]
    return old.index_fill(dim, lowest, 0)
