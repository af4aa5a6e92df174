"""What methods share that decide within groups of one tensor: runs of entries, or rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _C
from .patterns import Pattern, Selection, are_plain
from .scored import Score, Scored, has_score


class Groups(Pattern):
    """Groups of the entries of one tensor, each decided by itself."""

    def __init__(self) -> None:
        super().__init__("global")  # upstream's container passes whole tensors, with their old mask

    def masks(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        factors: Sequence[Tensor],
        is_signed: bool,
        dtype: torch.dtype | None,
    ) -> Sequence[Tensor]:
        """New masks, by an operator."""
        raise NotImplementedError

    def prune(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor],
        factors: Sequence[Tensor],
        is_signed: bool,
    ) -> Selection:
        """New masks and products, by an operator."""
        raise NotImplementedError

    def by_sorting(self, method: Any, values: Tensor, old: Tensor) -> Tensor:
        """The new mask by stable sorts of ``values``, for tensors that the operators do not take.

        Lowest first; ``old`` is the old mask.
        """
        raise NotImplementedError

    def decide(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        likes: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor] | None,
        active_only: bool,
    ) -> Selection:
        is_signed = has_score(method)
        factor = method.factor
        ranks = [r.double() if _is_integer(r) else r for r in ranks]
        native = are_plain(masks, ranks) and not any(t.is_complex() for t in (*ranks, *likes))
        if not native or (factor is not None and not _C.is_plain(None, factor)):
            by_sorting = [
                self.by_sorting(
                    method,
                    ranked_values(rank, factor, is_signed),
                    torch.ones_like(like) if mask is None else mask,
                )
                for rank, like, mask in zip(ranks, likes, masks, strict=True)
            ]
            return by_sorting, None
        factors = () if factor is None else (factor,) * len(ranks)
        if all(mask is None for mask in masks):
            masks = ()
        alike = all(r.dtype == like.dtype for r, like in zip(ranks, likes, strict=True))
        if ts is not None and (masks or alike) and not any(map(_is_integer, ts)):
            return self.prune(method, ranks, masks, ts, factors, is_signed)
        dtype = None if masks else likes[0].dtype
        return self.masks(method, ranks, masks, factors, is_signed, dtype), None


class Factored(Scored):
    """What methods with a factor, or a score, have in common."""

    def __init__(self, factor: Tensor | None, score: Score | None) -> None:
        self.factor = factor
        self.score = score
        if factor is not None and has_score(self):
            raise TypeError("expected a factor, which multiplies magnitudes, or a score, got both")

    @classmethod
    def rank(
        cls,
        method: Any,
        ts: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        return super().rank(method, ts, masks, active_only) if has_score(method) else ts


def lowest(values: Tensor, active: Tensor, due: Tensor) -> Tensor:
    """Which of the active entries are the ``due`` lowest, along the last dim; by stable sorts."""
    order = values.argsort(dim=-1, stable=True)
    inactive_last = (~active).gather(-1, order).int().argsort(dim=-1, stable=True)
    place = order.gather(-1, inactive_last).argsort(-1)
    return active & (place < due)


def _is_integer(t: Tensor) -> bool:
    return not (t.is_floating_point() or t.is_complex())


def ranked_values(rank: Tensor, factor: Tensor | None, is_signed: bool) -> Tensor:
    """What an operator ranks, as a tensor."""
    if factor is not None:
        wide = torch.float64 if rank.dtype == torch.float64 else torch.float32
        return rank.abs().to(wide) * factor.abs().to(wide)
    return rank if is_signed else rank.abs()
