"""``sparsity``, ``factor`` and ``score``: what methods take beyond upstream's arguments.

A method without them has upstream's attributes, and goes the short way of native.py. One with them
says that its ``PRUNING_TYPE`` is "global": upstream's container then passes the whole tensor and
its old mask, and so does ours. Of that it counts and ranks what is active, and nothing comes back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from . import _C
from .budgets import amount_left, check_budget
from .native import KIND, Native
from .patterns import Channels, Entries, Pattern, Selection, are_plain
from .scores import Score, check_factor, scored_by, weighted

#: Of an argument without which there has to be a keyword, and that may be None.
MISSING: Any = ...

#: The patterns that rank by value, and sort where the operators do not take a tensor.
_BY_VALUE: dict[type[Pattern], Pattern] = {
    Entries: Entries(signed=True),
    Channels: Channels(signed=True),
}


def keep(
    method: Any,
    amount: int | float | None,
    sparsity: float | None,
    factor: Tensor | Mapping[Any, Tensor] | None = None,
    score: Score | None = None,
) -> None:
    """Give a method what its constructor got by keyword, once that is checked."""
    check_budget(type(method).__name__, amount, sparsity)
    if factor is not None and score is not None:
        raise TypeError("expected a factor, which multiplies magnitudes, or a score, got both")
    if not isinstance(factor, Mapping):
        check_factor(factor)
    method.amount = amount
    for name, value in (("sparsity", sparsity), ("factor", factor), ("score", score)):
        if value is not None:
            setattr(method, name, value)
    if score is not None:
        method._ranks_original = True
    method.PRUNING_TYPE = ByKeywords.pattern.pruning_type
    setattr(method, KIND, ByKeywords)


def passed(
    sparsity: float | None = None,
    replace: bool = False,
    factor: Tensor | None = None,
    score: Score | None = None,
) -> dict[str, Any]:
    """The keywords that a call has; mostly none, which then costs nothing."""
    if sparsity is None and factor is None and score is None and not replace:
        return {}
    words = {"sparsity": sparsity, "factor": factor, "score": score, "replace": replace or None}
    return {word: value for word, value in words.items() if value is not None}


def has_keywords(method: Any) -> bool:
    """Whether ``keep`` gave it any."""
    return getattr(method, "__dict__", {}).get(KIND) is ByKeywords


def said(method: Any) -> str:
    """The names of a method's keywords, for errors."""
    names = ("sparsity", "factor", "score")
    return ", ".join(f"{name}=" for name in names if getattr(method, name, None) is not None)


class ByKeywords(Native):
    """What selects for a method with keywords, in the place of its class."""

    pattern = Pattern("global")

    def accepts(self, mask: Tensor | None, *tensors: Tensor) -> bool:
        return True  # it sorts where the operators do not take a tensor

    @classmethod
    def select(
        cls,
        method: Any,
        scores: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor] | None = None,
        *,
        active_only: bool,
    ) -> Selection:
        kind = _kind_without(method)
        pattern: Any = kind.pattern
        pattern.check(method, scores)
        counted = with_amount(method, scores, masks)
        # What is ranked, for the class's own `rank`; with a factor in it if no operator takes that.
        ranks = [t if t.is_floating_point() or t.is_complex() else t.double() for t in scores]
        factors = _factors(method, ranks)
        native = _are_native(ranks, masks, factors, scores)
        if factors and not (native and isinstance(pattern, Entries)):
            pairs = zip(ranks, factors, strict=True)
            ranks, factors = [t if f is None else weighted(t, f) for t, f in pairs], []
        if method.score is not None and not pattern.signed:
            shapes = [pattern.rank_shape(method, t) for t in scores]
            each = zip(scores, masks, shapes, strict=True)
            ranks = [scored_by(method.score, method, t, mask, shape) for t, mask, shape in each]
            pattern = _BY_VALUE[type(pattern)]
        else:
            ranks = kind.rank(counted, scores if pattern.signed else ranks, masks, True)
        if not native and not pattern.signed:  # by sorting
            largest = getattr(pattern, "largest", False)
            ranks = [-rank.abs() if largest else rank.abs() for rank in ranks]
            pattern = _BY_VALUE[type(pattern)]
        if ts is not None and not are_plain([None] * len(ts), ts):
            ts = None
        more = {"factors": factors} if factors else {}
        selection: Selection = pattern.decide(counted, ranks, scores, masks, ts, True, **more)
        return selection


def with_amount(method: Any, ts: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Any:
    """The method with an amount of what the old masks left in place of its sparsity."""
    if method.sparsity is None:
        return method
    counted = copy.copy(method)
    pattern = _kind_without(method).pattern
    counted.amount = amount_left(method.sparsity, pattern, method, ts, masks)
    return counted


def kind_by_amount(method: Any) -> Any:
    """The class that selects for a method with keywords once its sparsity is an amount, and its
    factor is given to the operator; None where its score or factor needs more.
    """
    kind = _kind_without(method)
    factor = method.factor
    if method.score is not None and not kind.pattern.signed:
        return None
    plain = factor is None or (isinstance(factor, Tensor) and _C.is_plain(None, factor))
    return kind if plain else None


def choose_factors(method: Any, groups: Sequence[Sequence[tuple[nn.Module, str]]]) -> None:
    """Of a mapping by (module, name), keep the factor of the first pair of each group that has one.

    Raises:
        ValueError: no pair of a group has one.
    """
    if not has_keywords(method) or not isinstance(method.factor, Mapping):
        return
    method.factor = [
        factor_of(method.factor, next((p for p in group if p in method.factor), group[0]))
        for group in groups
    ]


def factor_of(factors: Any, pair: tuple[nn.Module, str]) -> Any:
    """The factor of one pair, of a mapping or of one for all."""
    if not isinstance(factors, Mapping):
        return factors
    if pair not in factors:
        raise ValueError(f"expected factor to have one for {pair[1]} of {pair[0]}, got none")
    return factors[pair]


def _kind_without(method: Any) -> Any:
    """The method's class, or the one of ours that it derives from where its names mean others."""
    return next(c for c in type(method).__mro__ if not getattr(c, "_hides_protocol", False))


def _factors(method: Any, ts: Sequence[Tensor]) -> list[Tensor | None]:
    """One factor for each tensor, or none at all."""
    factor: Any = method.factor
    if factor is None:
        return []
    if isinstance(factor, Mapping):
        raise TypeError(
            "expected factor to be a Tensor, got a mapping, which global_unstructured and "
            "local_unstructured take"
        )
    return list(factor) if isinstance(factor, list) else [factor] * len(ts)


def _are_native(
    ranks: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    factors: Sequence[Tensor | None],
    likes: Sequence[Tensor],
) -> bool:
    """Whether the operators take these tensors, with their factors."""
    if any(t.is_complex() for t in (*ranks, *likes)) or not are_plain(masks, ranks):
        return False
    if not factors:
        return True
    first = ranks[0]
    return all(t.dtype == first.dtype and t.device == first.device for t in ranks) and all(
        f is None or _C.is_plain(None, f) for f in factors
    )
