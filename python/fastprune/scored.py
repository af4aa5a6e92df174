"""Unstructured and Structured: methods of which a user only says how important each entry is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.utils.prune as upstream
from torch import Tensor

from .base import BasePruningMethod
from .keywords import keep
from .native import Native
from .patterns import Channels, Entries
from .scores import Score, scored_by

__all__ = ["Structured", "Unstructured"]


class Scored(Native, BasePruningMethod):
    """What methods with a score have in common."""

    _ranks_original = True

    def __init__(
        self,
        amount: int | float | None = None,
        *,
        sparsity: float | None = None,
        score: Score | None = None,
    ) -> None:
        if amount is not None and sparsity is None:
            upstream._validate_pruning_amount_init(amount)
            self.amount: Any = amount
        else:
            keep(self, amount, sparsity)
        self.score = score
        if not has_score(self):
            name = type(self).__name__
            raise TypeError(f"{name}() needs score=, or a subclass that defines scores(t, mask)")

    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        """How important each entry (or channel) of ``t`` is; the least important are pruned first.

        Runs without recording a graph. By default ``score(t, mask)``, as given to the constructor.

        Args:
            t: the parameter as it was before any pruning, with its ``grad``; or the
                ``importance_scores`` where these are given.
            mask: the old mask, of the shape of ``t``, or None for ones.

        Returns:
            Real numbers, which are compared as they are: -1 ranks below 0. NaN ranks above
            infinity.
        """
        if self.score is None:
            raise TypeError(f"{type(self).__name__} was made without a score")
        return self.score(t, mask)

    def accepts(self, mask: Tensor | None, *tensors: Tensor) -> bool:
        return True  # the pattern sorts where the operators do not take a tensor

    @classmethod
    def rank(
        cls,
        method: Any,
        ts: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        return [method._rank_one(t, mask) for t, mask in zip(ts, masks, strict=True)]

    def _rank_one(self, t: Tensor, mask: Tensor | None) -> Tensor:
        shape = self.pattern.rank_shape(self, t)
        return scored_by(self.scores, self, t, mask, shape)


def has_score(method: Any) -> bool:
    """Whether a method has a ``score``, or a ``scores`` of a subclass's own."""
    return method.score is not None or type(method).scores is not Scored.scores


class Unstructured(Scored):
    """Prunes the entries that ``scores`` ranks lowest.

    The example is the first-order Taylor criterion of Molchanov et al., "Importance Estimation for
    Neural Network Pruning" (CVPR 2019).

    A subclass defines ``scores(t, mask)``, which returns a tensor of the shape of ``t``; or
    ``score`` is a function of the same arguments. Works wherever a method of
    torch.nn.utils.prune does: ``apply``, :func:`global_unstructured`, a
    :class:`PruningContainer`. Ties go by the lowest index.

    >>> class Taylor(prune.Unstructured):
    ...     def scores(self, t, mask):
    ...         return (t * t.grad).abs()
    >>> layer = nn.Linear(8, 4)
    >>> layer(torch.randn(2, 8)).square().sum().backward()
    >>> method = Taylor.apply(layer, "weight", amount=0.5)
    >>> layer.weight_mask.sum()
    tensor(16.)

    Args:
        amount: a float in [0, 1] is a fraction of the active entries, an int their number.
        sparsity: in place of ``amount``, the fraction of all entries that is pruned in the end, as
            in :class:`L1Unstructured`.
        score: called in place of ``scores``.

    Raises:
        TypeError: there is neither ``score`` nor a ``scores`` of a subclass's own, or what it
            returns is not a Tensor of real numbers; or neither amount nor sparsity.
        AssertionError: what it returns has another shape than ``t``.
        RuntimeError: what it returns is on another device than ``t``.
        ValueError: the amount is out of range, or exceeds the active entries; or there are amount
            and sparsity.
        NotImplementedError: a sparsity is given for a tensor that is spread over processes.
    """

    PRUNING_TYPE = "unstructured"
    pattern = Entries(signed=True)


class Structured(Scored):
    """Prunes the channels along ``dim`` that ``scores`` ranks lowest.

    As :class:`Unstructured`, but ``scores`` returns one number for each channel, shape
    ``[t.shape[dim]]``. Ties go by the lowest channel.

    >>> activations = torch.tensor([[0.1, 0.9, 0.2, 0.4]])
    >>> class MeanActivation(prune.Structured):
    ...     def scores(self, t, mask):
    ...         return activations.mean(0)  # one for each output of a Linear layer
    >>> layer = nn.Linear(8, 4)
    >>> method = MeanActivation.apply(layer, "weight", amount=0.5, dim=0)
    >>> layer.weight_mask.sum(1)
    tensor([0., 8., 0., 8.])

    Args:
        amount: a float in [0, 1] is a fraction of the active channels, an int their number.
        dim: the dim that counts channels, by default the last.
        sparsity: in place of ``amount``, the fraction of all channels that is pruned in the end, as
            in :class:`LnStructured`.
        score: called in place of ``scores``.

    Raises:
        TypeError, AssertionError, RuntimeError, ValueError, NotImplementedError: as
            :class:`Unstructured`.
        IndexError: ``dim`` is out of range.
    """

    PRUNING_TYPE = "structured"
    pattern = Channels(signed=True)

    def __init__(
        self,
        amount: int | float | None = None,
        dim: int = -1,
        *,
        sparsity: float | None = None,
        score: Score | None = None,
    ) -> None:
        super().__init__(amount, sparsity=sparsity, score=score)
        self.dim = dim
