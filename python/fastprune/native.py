"""Score and pattern: what a method is that the native operators decide.

A method says how important each entry (or channel) is, its pattern how entries are grouped, and
one operator selects. So it goes for methods of ours on plain tensors; everything else goes the way
of torch.nn.utils.prune, whose result is the one that is expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import modules
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor
from torch.compiler import is_compiling

from . import _C
from .dtensors import DTENSOR, is_dtensor

if TYPE_CHECKING:
    from .patterns import Pattern, Selection

#: The attribute of an instance that says which class of ours selects for it; see keywords.py.
KIND = "_fastprune_kind"

#: What a method may define; attributes of these names in a user's class may mean something else.
_PROTOCOL = ("accepts", "pattern", "rank", "scores", "select")


_STRUCTURED_UPSTREAM = (upstream.LnStructured, upstream.RandomStructured)


class Native:
    """Mixin of the methods that an operator decides; stands first among their bases.

    All of it is looked up in the class, so that an instance may have attributes of these names.
    ``rank`` and ``select`` are class methods that take the method, as it need not be one of the
    class: see :func:`native_kind`.
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
    #: What an instance may have by keyword, as keywords.py reads it. In others, attributes of these
    #: names may mean something else.
    sparsity: float | None = None
    factor: Any = None
    score: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] != __package__ and not cls._ranks_original:
            cls._hides_protocol = any(hasattr(cls, n) and _is_theirs(cls, n) for n in _PROTOCOL)

    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """How important each entry (or channel) of ``t`` is; ``mask`` is the old mask or None."""
        raise NotImplementedError

    @classmethod
    def rank(
        cls,
        method: Any,
        ts: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        """``scores`` of each tensor of a list. Random methods draw for all of them together."""
        scores = cls.scores
        return [scores(method, t, mask) for t, mask in zip(ts, masks)]  # noqa: B905, takes longer

    def accepts(self, mask: Tensor | None, *tensors: Tensor) -> bool:
        """Whether ``select`` takes an old mask (or None) and tensors as they are."""
        return not is_compiling() and _C.is_plain(mask, *tensors)

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
        """New masks of a list of tensors, with one budget over all of them.

        Args:
            method: the method, whose amount and the like are read.
            scores: what to rank: parameters, or importance scores.
            masks: old mask or None (all ones) for each.
            ts: what the masks will be multiplied with.
            active_only: count and rank only what the old masks left active.

        Returns:
            The masks, and their products with ``ts`` if one operator computes both, else None.
        """
        cls.pattern.check(method, scores)
        if ts is not None:
            scores = [in_layout_of(t, score) for t, score in zip(ts, scores, strict=True)]
        ranks = cls.rank(method, scores, masks, active_only)
        if ts is not None and ranks is not scores:
            ranks = [in_layout_of(t, rank) for t, rank in zip(ts, ranks, strict=True)]
        try:
            return cls.pattern.decide(method, ranks, scores, masks, ts, active_only)
        except OverflowError:  # an int that no operator takes
            upstream._validate_pruning_amount(method.amount, sum(rank.numel() for rank in ranks))
            raise

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
        kind = self.__dict__.get(KIND) or type(self)
        if DTENSOR in modules and is_dtensor(t):
            selected = select_one(self, t, default_mask, None, False)
            if selected is not None:
                return selected[0]
        if kind._hides_protocol or not (
            kind.accepts(self, default_mask, t) or accepts_integers(kind, self, default_mask, t)
        ):
            # Upstream's, which comes next in the order of resolution.
            result: Tensor = super().compute_mask(t, default_mask)  # type: ignore[misc]
            return result
        return kind.select(self, (t,), (default_mask,), active_only=False)[0][0]


def in_layout_of(t: Tensor, values: Tensor) -> Tensor:
    """The values with the strides of ``t``, if both lie in the same order.

    The strides of dims of one entry differ between operations (``abs()`` of a 1 x 1 kernel in
    channels_last has others than the kernel), and a mask with other strides than its tensor is
    slower in every forward.
    """
    if values is t or values.shape != t.shape or values.stride() == t.stride():
        return values
    strides = zip(t.shape, t.stride(), values.stride(), strict=True)
    if any(size > 1 and a != b for size, a, b in strides):
        return values
    return values.as_strided(t.shape, t.stride())


#: By the id of each function that takes the place of ``compute_mask`` in a class of upstream's, our
#: class of the same name; see patching.py. By the id, as a mock need not be hashable.
stand_ins: dict[int, type] = {}


def native_kind(method: Any) -> Any:
    """The class of ours whose ``select`` stands for the method's ``compute_mask``, or None.

    The method's own class if it is ours; under :func:`~fastprune.patch` the class of ours that its
    ``compute_mask`` belongs to. None where a subclass, another library or a mock has replaced
    ``compute_mask`` or ``PRUNING_TYPE``.
    """
    kind: Any = type(method)
    compute_mask = getattr(kind, "compute_mask", None)
    if compute_mask is not Native.compute_mask:
        kind = stand_ins.get(id(compute_mask))
        if kind is None:
            return None
    if "compute_mask" in method.__dict__ or kind._hides_protocol:
        return None
    if kind.pattern.pruning_type == method.PRUNING_TYPE:
        return kind
    return method.__dict__.get(KIND)


def kind_of(cls: Any) -> Any:
    """``native_kind`` of methods of a class, unless an instance differs from it."""
    compute_mask = getattr(cls, "compute_mask", None)
    kind: Any = cls if compute_mask is Native.compute_mask else stand_ins.get(id(compute_mask))
    if kind is None or kind._hides_protocol or kind.pattern.pruning_type != cls.PRUNING_TYPE:
        return None
    return kind


def accepts_integers(
    kind: Any, method: Any, mask: Tensor | None, scores: Tensor, *ts: Tensor
) -> bool:
    """Whether a method that ranks integers selects natively if ``scores`` are converted."""
    if not kind._ranks_integers or scores.is_floating_point() or scores.is_complex():
        return False
    accepted: bool = kind.accepts(method, mask, scores.double(), *ts)
    return accepted


def _is_theirs(cls: type, name: str) -> bool:
    """Whether a class of the user's defines the attribute."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return owner.__module__.partition(".")[0] != __package__


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
    kind = native_kind(method)
    if kind is None:
        return None
    if DTENSOR in modules and is_dtensor(scores) and not is_compiling():
        from . import spread

        return spread.select_one(method, kind, scores, mask, active_only)
    if active_only and scores.dim() < 2 and isinstance(method, _STRUCTURED_UPSTREAM):
        return None  # upstream's container makes a matrix of one row of it
    if t is None or t is scores:
        accepted = kind.accepts(method, mask, scores)
        if not accepted and not accepts_integers(kind, method, mask, scores):
            return None
    else:
        accepted = kind.accepts(method, mask, scores, t)
        if not accepted and not accepts_integers(kind, method, mask, scores, t):
            return None
        if mask is None and t.dtype != scores.dtype:
            mask = torch.ones_like(t)
    ts: Any = None
    if t is not None and (not active_only or mask is None or mask.dtype == scores.dtype):
        # Of an inference tensor the operator's product would have no gradient.
        ts = (t,) if t.is_floating_point() and not t.is_inference() else None
    (new,), products = kind.select(method, (scores,), (mask,), ts, active_only=active_only)
    if active_only:
        new = new.to(scores.dtype)
    return new, products[0] if products is not None else None
