"""The pruning methods. Each says what is important; its pattern decides by an operator.

Tensors that the operators do not take (see native.py) go to upstream's own ``compute_mask``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

from . import _C, ops
from .base import BasePruningMethod
from .keywords import MISSING, keep
from .native import Native
from .patterns import Channels, Entries, Pattern, Selection
from .scores import Score, channel_norms, random_channels, random_entries
from .superseded import GivenMask, saying

__all__ = [
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "RandomStructured",
    "RandomUnstructured",
]


class Identity(Native, BasePruningMethod, upstream.Identity):
    """Prunes nothing, but registers mask and hook; see :class:`torch.nn.utils.prune.Identity`.

    >>> layer = nn.Linear(4, 2)
    >>> method = prune.Identity.apply(layer, "weight")
    >>> layer.weight_mask.sum()
    tensor(8.)
    """

    pattern = Pattern("unstructured")

    @classmethod
    def apply(cls, module: nn.Module, name: str, **keywords: Any) -> Any:  # type: ignore[override]
        return super().apply(module, name, **keywords)

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


class CustomFromMask(Native, BasePruningMethod, upstream.CustomFromMask):
    """Prunes what a given mask prunes; see :class:`torch.nn.utils.prune.CustomFromMask`.

    >>> layer = nn.Linear(4, 2, bias=False)
    >>> method = prune.CustomFromMask.apply(layer, "weight", mask=torch.eye(2, 4))
    >>> layer.weight_mask
    tensor([[1., 0., 0., 0.],
            [0., 1., 0., 0.]])

    Args:
        mask: of the shape of the tensor to prune, of any dtype; multiplied with the old mask.

    Raises:
        AssertionError: the mask has another shape than the tensor.
        AttributeError: it is no Tensor.

    Attributes:
        mask: the mask that was given; once another method with a mask of its own has followed, a
            new tensor of the same values each time. Rounds of :func:`global_unstructured` on one
            tensor have the mask of the last of them.
    """

    mask = GivenMask()
    pattern = Pattern("global")

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: nn.Module, name: str, mask: Tensor, **keywords: Any
    ) -> Any:
        return super().apply(module, name, mask=mask, **keywords)

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
        if not hasattr(method.mask, "to"):
            raise AttributeError(f"expected mask to be a Tensor, got {type(method.mask).__name__}")
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
            product = old * method.mask.to(dtype=old.dtype)
            if not active_only:
                return (product,), None
            new = old.clone()  # upstream's container writes into a mask of this class
            new.copy_(product)
            return (new,), None
        return (ops.combine_masks(old, method.mask),), None


saying.update((Identity, CustomFromMask))


class L1Unstructured(Native, BasePruningMethod, upstream.L1Unstructured):
    """Prunes the entries of smallest magnitude; see :class:`torch.nn.utils.prune.L1Unstructured`.

    Ties go by the lowest index. Integer scores are ranked as float64.

    With a keyword it builds upon the mask that it is given, of which it counts and ranks what is
    active, also by itself and in upstream's container.

    >>> prune.L1Unstructured(sparsity=0.5).prune(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([0., 0., 3., 4.])
    >>> factor = torch.tensor([9.0, 1.0, 1.0, 1.0])
    >>> prune.L1Unstructured(amount=2, factor=factor).prune(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([1., 0., 0., 4.])

    Args:
        amount: a float in [0, 1] is a fraction of the active entries, an int their number.
        sparsity: in place of ``amount``, the fraction of all entries that is pruned in the end,
            those pruned before included. Upon an old mask these are counted, on CUDA too, and one
            number is read back to the host.
        factor: broadcasts to the tensor; what is ranked is ``|t| * |factor|``, which is not stored.
            For :func:`global_unstructured` and :func:`local_unstructured` also a mapping from
            (module, name).
        score: called in place of ranking magnitudes, as in :class:`Unstructured`.

    Raises:
        ValueError: the amount or the sparsity is out of range, or the amount exceeds the active
            entries; amount and sparsity are given.
        TypeError: neither is given; the sparsity is no float; there are a factor and a score.
        RuntimeError: the factor does not broadcast to the tensor.
        NotImplementedError: a keyword is given for a tensor that is spread over processes.
    """

    pattern = Entries()
    _ranks_integers = True

    def __init__(
        self,
        amount: int | float | None = None,
        *,
        sparsity: float | None = None,
        factor: Tensor | Mapping[Any, Tensor] | None = None,
        score: Score | None = None,
    ) -> None:
        if amount is not None and sparsity is None and factor is None and score is None:
            if type(self) is L1Unstructured and type(amount) is float and 0.0 <= amount <= 1.0:
                self.amount = amount  # as upstream's, which asks an ABC
            else:
                super().__init__(amount)
        else:
            keep(self, amount, sparsity, factor, score)

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        amount: int | float | None = None,
        importance_scores: Tensor | None = None,
        **keywords: Any,
    ) -> Any:
        return super().apply(
            module, name, amount=amount, importance_scores=importance_scores, **keywords
        )

    @classmethod
    def rank(
        cls,
        method: Any,
        ts: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        return ts  # the operator ranks by magnitude


class RandomUnstructured(Native, BasePruningMethod, upstream.RandomUnstructured):
    """Prunes random entries; see :class:`torch.nn.utils.prune.RandomUnstructured`.

    The numbers are those upstream draws, so that the same seed gives the same mask.

    >>> t = prune.RandomUnstructured(amount=3).prune(torch.ones(2, 4))
    >>> t.shape, t.sum()
    (torch.Size([2, 4]), tensor(5.))

    Args:
        amount: a float in [0, 1] is a fraction of the active entries, an int their number.
        sparsity: in place of ``amount``, as in :class:`L1Unstructured`.

    Raises:
        ValueError: the amount or the sparsity is out of range, or the amount exceeds the active
            entries; amount and sparsity are given.
        TypeError: neither is given; the sparsity is no float.
        NotImplementedError: a sparsity is given for a tensor that is spread over processes.
    """

    pattern = Entries(largest=True)

    def __init__(self, amount: int | float | None = None, *, sparsity: float | None = None) -> None:
        if amount is not None and sparsity is None:
            super().__init__(amount)
        else:
            keep(self, amount, sparsity)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: nn.Module, name: str, amount: int | float | None = None, **keywords: Any
    ) -> Any:
        return super().apply(module, name, amount=amount, **keywords)

    @classmethod
    def rank(
        cls,
        method: Any,
        ts: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        active_only: bool,
    ) -> Sequence[Tensor]:
        return random_entries(ts, masks, method.amount, active_only)


class LnStructured(Native, BasePruningMethod, upstream.LnStructured):
    """Prunes the channels of smallest n-norm; see :class:`torch.nn.utils.prune.LnStructured`.

    Norms are accumulated in float64; ties go by the lowest channel.

    >>> t = torch.tensor([[1.0, 1.0], [3.0, 0.0], [0.0, 0.5]])
    >>> prune.LnStructured(amount=1, n=1, dim=0).prune(t)
    tensor([[1., 1.],
            [3., 0.],
            [0., 0.]])

    Args:
        amount: a float in [0, 1] is a fraction of the active channels, an int their number.
        n: order of the norm: a number, infinity, 'fro' or 'nuc'.
        dim: the dim that counts channels, by default the last.
        sparsity: in place of ``amount``, the fraction of all channels that is pruned in the end,
            those of which nothing is left included; otherwise as in :class:`L1Unstructured`.
        factor: broadcasts to the tensor; norms are those of ``|t| * |factor|``.
        score: gives a number for each channel in place of its norm, as in :class:`Structured`.

    Raises:
        ValueError: the amount or the sparsity is out of range, or the amount exceeds the active
            channels; amount and sparsity are given; under two dims.
        TypeError: neither is given; the sparsity is no float; there is no ``n``; there are a factor
            and a score.
        IndexError: ``dim`` is out of range.
        RuntimeError: the factor does not broadcast to the tensor.
        NotImplementedError: a keyword is given for a tensor that is spread over processes.
    """

    pattern = Channels()

    def __init__(
        self,
        amount: int | float | None = None,
        n: int | float | str | None = MISSING,
        dim: int = -1,
        *,
        sparsity: float | None = None,
        factor: Tensor | None = None,
        score: Score | None = None,
    ) -> None:
        if n is MISSING and score is None:
            raise TypeError(f"{type(self).__name__}() missing 1 required argument: 'n'")
        if amount is not None and sparsity is None and factor is None and score is None:
            if type(self) is LnStructured and type(amount) is float and 0.0 <= amount <= 1.0:
                self.amount, self.n, self.dim = amount, n, dim  # as upstream's, which asks an ABC
            else:
                super().__init__(amount, n, dim)
        else:
            keep(self, amount, sparsity, factor, score)
            self.n, self.dim = None if n is MISSING else n, dim

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        amount: int | float | None = None,
        n: int | float | str | None = MISSING,
        dim: int = -1,
        importance_scores: Tensor | None = None,
        **keywords: Any,
    ) -> Any:
        return super().apply(
            module,
            name,
            amount=amount,
            n=n,
            dim=dim,
            importance_scores=importance_scores,
            **keywords,
        )

    def scores(self, t: Tensor, mask: Tensor | None) -> Tensor:
        return channel_norms(t, self.n, self.dim)


class RandomStructured(Native, BasePruningMethod, upstream.RandomStructured):
    """Prunes random channels; see :class:`torch.nn.utils.prune.RandomStructured`.

    The numbers are those upstream draws, so that the same seed gives the same mask.

    >>> t = prune.RandomStructured(amount=0.5, dim=0).prune(torch.ones(4, 3))
    >>> t.shape, t.sum()
    (torch.Size([4, 3]), tensor(6.))

    Args:
        amount: a float in [0, 1] is a fraction of the active channels, an int their number.
        dim: the dim that counts channels, by default the last.
        sparsity: in place of ``amount``, as in :class:`LnStructured`.

    Raises:
        ValueError: the amount or the sparsity is out of range, or the amount exceeds the active
            channels; amount and sparsity are given; under two dims.
        TypeError: neither is given; the sparsity is no float.
        IndexError: ``dim`` is out of range.
        NotImplementedError: a sparsity is given for a tensor that is spread over processes.
    """

    pattern = Channels()

    def __init__(
        self,
        amount: int | float | None = None,
        dim: int = -1,
        *,
        sparsity: float | None = None,
    ) -> None:
        if amount is not None and sparsity is None:
            super().__init__(amount, dim)
        else:
            keep(self, amount, sparsity)
            self.dim = dim

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        amount: int | float | None = None,
        dim: int = -1,
        **keywords: Any,
    ) -> Any:
        return super().apply(module, name, amount=amount, dim=dim, **keywords)

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
