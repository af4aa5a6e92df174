"""Score and pattern: what a method is that the native operators decide.

A method says how important each entry (or channel) is, its pattern how entries are grouped, and
one operator selects. So it goes for methods of ours on plain tensors; everything else goes the way
of torch.nn.utils.prune, whose result is the one that is expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor
from torch.compiler import is_compiling

from . import _C

if TYPE_CHECKING:
    from .patterns import Pattern, Selection

#: What a method may define; attributes of these names in a user's class may mean something else.
_PROTOCOL = ("accepts", "pattern", "rank", "scores", "select")


_STRUCTURED_UPSTREAM = (upstream.LnStructured, upstream.RandomStructured)


class Native:
    """Mixin of the methods that an operator decides; stands first among their bases.

    All of it is looked up in the class, so that an instance may have attributes of these names.
    """

    #: How entries are grouped.
    pattern: ClassVar[Pattern]
    #: Whether ``scores`` is given ``<name>_orig``, whose ``grad`` it may use, or what earlier
    #: pruning left of it, as in upstream's methods.
    _ranks_original: ClassVar[bool] = False
    #: Whether a single tensor of integers is ranked, as float64.
    _ranks_integers: ClassVar[bool] = False
    #: Whether a class derived from one of upstream's names has attributes named as the protocol's.
    _hides_protocol: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] != __package__ and not cls._ranks_original:
            cls._hides_protocol = any(hasattr(cls, n) and _is_theirs(cls, n) for n in _PROTOCOL)

    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """How important each entry (or channel) of ``t`` is; ``mask`` is the old mask or None."""
        raise NotImplementedError

    def rank(
        self, ts: Sequence[Tensor], masks: Sequence[Tensor | None], active_only: bool
    ) -> Sequence[Tensor]:
        """``scores`` of each tensor of a list. Random methods draw for all of them together."""
        scores = type(self).scores
        return [scores(self, t, mask) for t, mask in zip(ts, masks)]  # noqa: B905, takes longer

    def accepts(self, mask: Tensor | None, *tensors: Tensor) -> bool:
        """Whether ``select`` takes an old mask (or None) and tensors as they are."""
        return not is_compiling() and _C.is_plain(mask, *tensors)

    def select(
        self,
        scores: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor] | None = None,
        *,
        active_only: bool,
    ) -> Selection:
        """New masks of a list of tensors, with one budget over all of them.

        Args:
            scores: what to rank: parameters, or importance scores.
            masks: old mask or None (all ones) for each.
            ts: what the masks will be multiplied with.
            active_only: count and rank only what the old masks left active.

        Returns:
            The masks, and their products with ``ts`` if one operator computes both, else None.
        """
        kind = type(self)
        kind.pattern.check(self, scores)
        ranks = kind.rank(self, scores, masks, active_only)
        return kind.pattern.decide(self, ranks, scores, masks, ts, active_only)

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The new mask, built upon ``default_mask``; all of ``t`` is ranked, active or not.

        Args:
            t: what to rank, of any shape.
            default_mask: the old mask, of the shape of ``t``.

        Returns:
            A mask of the shape of ``t``.

        Raises:
            ValueError: the amount exceeds the number of entries (or channels).
        """
        kind = type(self)
        if kind._hides_protocol or not (
            kind.accepts(self, default_mask, t) or _accepts_integers(self, default_mask, t)
        ):
            # Upstream's, which comes next in the order of resolution.
            result: Tensor = super().compute_mask(t, default_mask)  # type: ignore[misc]
            return result
        return kind.select(self, (t,), (default_mask,), active_only=False)[0][0]


def _accepts_integers(method: Any, mask: Tensor | None, scores: Tensor, *ts: Tensor) -> bool:
    """Whether a method that ranks integers selects natively if ``scores`` are converted."""
    kind = type(method)
    if not kind._ranks_integers or scores.is_floating_point() or scores.is_complex():
        return False
    accepted: bool = kind.accepts(method, mask, scores.double(), *ts)
    return accepted


def _is_theirs(cls: type, name: str) -> bool:
    """Whether a class of the user's defines the attribute."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return owner.__module__.partition(".")[0] != __package__


def is_native(method: Any) -> bool:
    """Whether ``select`` stands for ``compute_mask``, and ``PRUNING_TYPE`` is what it was.

    A subclass, another library or a mock may have replaced either.
    """
    kind: Any = type(method)
    return (
        getattr(kind, "compute_mask", None) is Native.compute_mask
        and "compute_mask" not in method.__dict__
        and not kind._hides_protocol
        and kind.pattern.pruning_type == method.PRUNING_TYPE
    )


def ranks_original(method: Any) -> bool:
    """Whether the method ranks the parameter rather than what earlier pruning left of it."""
    return getattr(method, "_ranks_original", False) is True


def select_one(
    method: Any, scores: Tensor, mask: Tensor | None, t: Tensor | None, active_only: bool
) -> tuple[Tensor, Tensor | None] | None:
    """The new mask of one tensor, and its product with ``t`` if one operator computes both.

    Args:
        method: any pruning method.
        scores: what to rank.
        mask: the old mask; None stands for ones like ``t``, which need not be allocated then.
        t: what the mask will be multiplied with, or None.
        active_only: as in :meth:`Native.select`; the mask then has the dtype of ``scores``.

    Returns:
        None if the method or the tensors have to go upstream's way.
    """
    if not is_native(method):
        return None
    kind = type(method)
    if active_only and scores.dim() < 2 and isinstance(method, _STRUCTURED_UPSTREAM):
        return None  # upstream's container makes a matrix of one row of it
    if t is None or t is scores:
        if not kind.accepts(method, mask, scores) and not _accepts_integers(method, mask, scores):
            return None
    else:
        accepted = kind.accepts(method, mask, scores, t)
        if not accepted and not _accepts_integers(method, mask, scores, t):
            return None
        if mask is None and t.dtype != scores.dtype:
            mask = torch.ones_like(t)
    ts: Any = None
    if t is not None and (not active_only or mask is None or mask.dtype == scores.dtype):
        ts = (t,)
    (new,), products = kind.select(method, (scores,), (mask,), ts, active_only=active_only)
    if active_only:
        new = new.to(scores.dtype)
    return new, products[0] if products is not None else None
