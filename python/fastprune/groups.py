"""What methods share that decide within one tensor: its runs, rows or blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import _C
from .patterns import Pattern, Selection, are_plain
from .scored import Scored, has_score
from .scores import Score, check_factor, weighted


class Groups(Pattern):
    """Groups of the entries of one tensor. Each tensor of a list is decided by itself."""

    def __init__(self) -> None:
        super().__init__("global")  # upstream's container passes whole tensors, with their old mask

    def masks(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        dtype: torch.dtype | None,
    ) -> Sequence[Tensor]:
        """New masks, by an operator; of the dtype where there is no old one."""
        raise NotImplementedError

    def prune(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor],
    ) -> Selection:
        """New masks and their products with ``ts``, by an operator."""
        raise NotImplementedError

    def without_operators(self, method: Any, rank: Tensor, old: Tensor) -> Tensor:
        """The new mask built upon ``old``, for tensors that the operators do not take."""
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
        ranks = [r.double() if _is_integer(r) else r for r in ranks]
        native = are_plain(masks, ranks) and not any(t.is_complex() for t in (*ranks, *likes))
        factor = getattr(method, "factor", None)
        if not native or (factor is not None and not _C.is_plain(None, factor)):
            return [
                self.without_operators(
                    method, rank, torch.ones_like(like) if mask is None else mask
                )
                for rank, like, mask in zip(ranks, likes, masks, strict=True)
            ], None
        if all(mask is None for mask in masks):
            masks = ()
        alike = all(r.dtype == like.dtype for r, like in zip(ranks, likes, strict=True))
        if ts is not None and (masks or alike) and not any(map(_is_integer, ts)):
            return self.prune(method, ranks, masks, ts)
        return self.masks(method, ranks, masks, None if masks else likes[0].dtype), None


class RankedGroups(Groups):
    """Groups whose entries two operators rank by score or factor, and otherwise a stable sort."""

    #: The operators for masks alone, and for masks and products.
    operators: ClassVar[tuple[Callable[..., Any], Callable[..., Any]]]

    def rule(self, method: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the operators take between tensors and factors, and by keyword."""
        raise NotImplementedError

    def by_sorting(self, method: Any, values: Tensor, old: Tensor) -> Tensor:
        """The new mask by stable sorts of ``values``, lowest first."""
        raise NotImplementedError

    def masks(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        dtype: torch.dtype | None,
    ) -> Sequence[Tensor]:
        args, options = self._arguments(method, ranks)
        new: Sequence[Tensor] = self.operators[0](ranks, masks, *args, **options, dtype=dtype)
        return new

    def prune(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor],
    ) -> Selection:
        args, options = self._arguments(method, ranks)
        selection: Selection = self.operators[1](ranks, masks, ts, *args, **options)
        return selection

    def _arguments(
        self, method: Any, ranks: Sequence[Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, options = self.rule(method)
        factors = () if method.factor is None else (method.factor,) * len(ranks)
        return (*args, factors), {**options, "is_signed": has_score(method)}

    def without_operators(self, method: Any, rank: Tensor, old: Tensor) -> Tensor:
        return self.by_sorting(method, ranked_values(rank, method.factor, has_score(method)), old)


class MagnitudeOrScore(Scored):
    """What methods have in common that rank magnitudes unless they have a score."""

    @classmethod
    def rank(
        cls,
        method: Any,
        ts: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        return super().rank(method, ts, masks, active_only) if has_score(method) else ts


class Factored(MagnitudeOrScore):
    """What methods with a factor, or a score, have in common."""

    def __init__(self, factor: Tensor | None, score: Score | None) -> None:
        check_factor(factor)
        self.factor = factor
        self.score = score
        if factor is not None and has_score(self):
            raise TypeError("expected a factor, which multiplies magnitudes, or a score, got both")


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
        return weighted(rank, factor)
    return rank if is_signed else rank.abs()
