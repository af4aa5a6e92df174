"""The pruning methods. Each says what is important; its pattern decides by an operator.

Tensors that the operators do not take (see native.py) go to upstream's own ``compute_mask``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor

from . import _C, ops
from .base import BasePruningMethod
from .native import Native
from .patterns import Channels, Entries, Pattern, Selection
from .scores import channel_norms, random_channels, random_entries
from .superseded import GivenMask

__all__ = [
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "RandomStructured",
    "RandomUnstructured",
]


class Identity(Native, upstream.Identity, BasePruningMethod):
    """Prunes nothing, but registers mask and hook; see :class:`torch.nn.utils.prune.Identity`."""

    pattern = Pattern("unstructured")

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
        new = [torch.ones_like(t) if m is None else m for t, m in zip(scores, masks, strict=True)]
        # By itself it hands the old mask back, as upstream.
        return [mask.clone() for mask in new] if active_only else new, None


class CustomFromMask(Native, upstream.CustomFromMask, BasePruningMethod):
    """Prunes what a given mask prunes; see :class:`torch.nn.utils.prune.CustomFromMask`.

    Args:
        mask: of the shape of the tensor to prune, of any dtype; multiplied with the old mask.

    Raises:
        AssertionError: the mask has another shape than the tensor.

    Attributes:
        mask: the mask that was given; once another method with a mask of its own has followed, a
            new tensor of the same values each time. Rounds of :func:`global_unstructured` on one
            tensor have the mask of the last of them.
    """

    mask = GivenMask()
    pattern = Pattern("global")

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
        (t,), (old,) = scores, masks
        shape = t.shape if old is None else old.shape
        if shape != method.mask.shape:
            raise AssertionError(
                f"default_mask shape {shape} must match self.mask shape {method.mask.shape}"
            )
        plain = _C.is_plain(method.mask)
        if plain and old is None and method.mask.device == t.device:  # ones times the mask
            return (torch.empty_like(t).copy_(method.mask),), None
        old = torch.ones_like(t) if old is None else old
        if not plain:  # it may have a gradient
            return (old * method.mask.to(dtype=old.dtype),), None
        return (ops.combine_masks(old, method.mask),), None


class L1Unstructured(Native, upstream.L1Unstructured, BasePruningMethod):
    """Prunes the entries of smallest magnitude; see :class:`torch.nn.utils.prune.L1Unstructured`.

    Ties go by the lowest index. Integer scores are ranked as float64.

    Args:
        amount: a float in [0, 1] is a fraction of the active entries, an int their number.

    Raises:
        ValueError: the amount is out of range, or exceeds the active entries.
    """

    pattern = Entries()
    _ranks_integers = True

    @classmethod
    def rank(
        cls,
        method: Any,
        ts: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        return ts  # the operator ranks by magnitude


class RandomUnstructured(Native, upstream.RandomUnstructured, BasePruningMethod):
    """Prunes random entries; see :class:`torch.nn.utils.prune.RandomUnstructured`.

    The numbers are those upstream draws, so that the same seed gives the same mask.

    Args:
        amount: a float in [0, 1] is a fraction of the active entries, an int their number.

    Raises:
        ValueError: the amount is out of range, or exceeds the active entries.
    """

    pattern = Entries(largest=True)

    @classmethod
    def rank(
        cls,
        method: Any,
        ts: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        return random_entries(ts, masks, method.amount, active_only)


class LnStructured(Native, upstream.LnStructured, BasePruningMethod):
    """Prunes the channels of smallest n-norm; see :class:`torch.nn.utils.prune.LnStructured`.

    Norms are accumulated in float64; ties go by the lowest channel.

    Args:
        amount: a float in [0, 1] is a fraction of the active channels, an int their number.
        n: order of the norm: a number, infinity, 'fro' or 'nuc'.
        dim: the dim that counts channels.

    Raises:
        ValueError: the amount is out of range, or exceeds the active channels; under two dims.
        IndexError: ``dim`` is out of range.
    """

    pattern = Channels()

    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return channel_norms(t, self.n, self.dim)


class RandomStructured(Native, upstream.RandomStructured, BasePruningMethod):
    """Prunes random channels; see :class:`torch.nn.utils.prune.RandomStructured`.

    The numbers are those upstream draws, so that the same seed gives the same mask.

    Args:
        amount: a float in [0, 1] is a fraction of the active channels, an int their number.
        dim: the dim that counts channels.

    Raises:
        ValueError: the amount is out of range, or exceeds the active channels; under two dims.
        IndexError: ``dim`` is out of range.
    """

    pattern = Channels()

    @classmethod
    def rank(
        cls,
        method: Any,
        ts: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        (t,), (mask,) = ts, masks
        return (random_channels(t, mask, method.amount, method.dim, active_only),)
