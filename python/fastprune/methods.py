"""The pruning methods. Each says what is important; an operator of ops.py decides.

Tensors that the operators do not take (see native.py) go to upstream's own ``compute_mask``.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor
from torch.compiler import is_compiling

from . import _C, ops
from .base import BasePruningMethod
from .native import is_native, native


class Identity(upstream.Identity, BasePruningMethod):
    """Prunes nothing, but registers mask and hook; see :class:`torch.nn.utils.prune.Identity`."""

    @native("unstructured")
    def compute_mask(
        self, t: Tensor, default_mask: Tensor | None, *, active_only: bool = False
    ) -> Tensor:
        if default_mask is None:
            return torch.ones_like(t)
        return default_mask.clone() if active_only else default_mask  # as upstream

    def compute_masks(self, ts: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        return [
            self.compute_mask(t, mask, active_only=True) for t, mask in zip(ts, masks, strict=True)
        ]


class L1Unstructured(upstream.L1Unstructured, BasePruningMethod):
    """Prunes the entries of smallest magnitude; see :class:`torch.nn.utils.prune.L1Unstructured`.

    Ties go by the lowest index. Integer scores are ranked as float64.
    """

    @native("unstructured")
    def compute_mask(
        self, t: Tensor, default_mask: Tensor | None, *, active_only: bool = False
    ) -> Tensor:
        scores = t if t.is_floating_point() or t.is_complex() else t.double()
        if is_compiling() or not _C.is_plain(default_mask, scores):
            result: Tensor = super().compute_mask(t, default_mask)
            return result
        masks = () if default_mask is None else (default_mask,)
        return ops.topk_masks((scores,), masks, self.amount, active_only=active_only)[0]

    def compute_masks(self, ts: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        return ops.topk_masks(ts, masks, self.amount)

    def _masks_and_products(
        self, scores: Sequence[Tensor], masks: Sequence[Tensor | None], ts: Sequence[Tensor]
    ) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        return ops.topk_prune(scores, masks, ts, self.amount)

    def _mask_and_product(
        self, scores: Tensor, default_mask: Any, t: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        masks = () if default_mask is None else (default_mask,)  # None says that all is native
        if masks and not (is_native(self) and _C.is_plain(default_mask, scores, t)):
            return super()._mask_and_product(scores, default_mask, t, **options)
        active_only = options.get("active_only", False)
        (mask,), (product,) = ops.topk_prune(
            (scores,), masks, (t,), self.amount, active_only=active_only
        )
        return mask, product


class RandomUnstructured(upstream.RandomUnstructured, BasePruningMethod):
    """Prunes random entries; see :class:`torch.nn.utils.prune.RandomUnstructured`.

    The numbers are those upstream draws, so that the same seed gives the same mask.
    """

    @native("unstructured")
    def compute_mask(
        self, t: Tensor, default_mask: Tensor | None, *, active_only: bool = False
    ) -> Tensor:
        if is_compiling() or not _C.is_plain(default_mask, t):
            result: Tensor = super().compute_mask(t, default_mask)
            return result
        if active_only and default_mask is not None:
            return self.compute_masks((t,), (default_mask,))[0]
        count = upstream._compute_nparams_toprune(self.amount, t.numel())
        upstream._validate_pruning_amount(count, t.numel())
        if count == 0:  # upstream draws nothing then
            return torch.ones_like(t) if default_mask is None else default_mask.clone()
        scores = _laid_out_like(t, torch.rand(t.shape, dtype=t.dtype, device=t.device))
        masks = () if default_mask is None else (default_mask,)
        return ops.topk_masks((scores,), masks, count, active_only=False, largest=True)[0]

    def compute_masks(self, ts: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        active = [None if mask is None else mask == 1 for mask in masks]
        sizes = [t.numel() if a is None else int(a.sum()) for t, a in zip(ts, active, strict=True)]
        count = upstream._compute_nparams_toprune(self.amount, sum(sizes))
        upstream._validate_pruning_amount(count, sum(sizes))
        if count == 0:  # upstream draws nothing then
            draws = ts[0].new_zeros(sum(sizes))
        else:
            draws = torch.rand(sum(sizes), dtype=ts[0].dtype, device=ts[0].device)
        scores = [
            _laid_out_like(t, part.view(t.shape))
            if a is None
            else torch.zeros_like(t, dtype=draws.dtype).masked_scatter_(a, part)
            for t, a, part in zip(ts, active, draws.split(sizes), strict=True)
        ]
        return ops.topk_masks(scores, masks, count, largest=True)


class _Structured(BasePruningMethod):
    """What methods that prune channels share. They say how important each channel is."""

    amount: int | float
    dim: int

    def _channel_scores(self, t: Tensor, default_mask: Tensor | None, active_only: bool) -> Tensor:
        raise NotImplementedError

    @native("structured")
    def compute_mask(
        self, t: Tensor, default_mask: Tensor | None, *, active_only: bool = False
    ) -> Tensor:
        if is_compiling() or not _C.is_plain(default_mask, t):
            # Upstream's, which comes next in the order of resolution.
            result: Tensor = super().compute_mask(t, default_mask)  # type: ignore[safe-super]
            return result
        _check_structured(t, self.dim)
        scores = self._channel_scores(t, default_mask, active_only)
        mask = ops.channel_mask(
            scores, t, default_mask, _channel_amount(self), self.dim, active_only=active_only
        )
        # Upstream hands the default mask back as it is where there is nothing to prune.
        if upstream._compute_nparams_toprune(self.amount, t.shape[self.dim]) == 0:
            return mask
        return mask.to(t.dtype)

    def _mask_and_product(
        self, scores: Tensor, default_mask: Any, t: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        native = t.dtype == scores.dtype and t.stride() == scores.stride()
        if default_mask is not None:  # None says that it is
            native = native and default_mask.dtype == t.dtype
            native = native and is_native(self) and _C.is_plain(default_mask, scores, t)
        if not native:
            return super()._mask_and_product(scores, default_mask, t, **options)
        _check_structured(scores, self.dim)
        active_only = options.get("active_only", False)
        ranked = self._channel_scores(scores, default_mask, active_only)
        return ops.channel_prune(
            ranked, t, default_mask, _channel_amount(self), self.dim, active_only=active_only
        )


class LnStructured(_Structured, upstream.LnStructured, BasePruningMethod):
    """Prunes the channels of smallest n-norm; see :class:`torch.nn.utils.prune.LnStructured`.

    Norms are accumulated in float64; ties go by the lowest channel.
    """

    def _channel_scores(self, t: Tensor, default_mask: Tensor | None, active_only: bool) -> Tensor:
        if self.n != "fro" and not isinstance(self.n, Real):
            norms: Tensor = upstream._compute_norm(t, self.n, self.dim)
            return norms
        return ops.channel_norms(t, 2.0 if self.n == "fro" else self.n, self.dim)


class RandomStructured(_Structured, upstream.RandomStructured, BasePruningMethod):
    """Prunes random channels; see :class:`torch.nn.utils.prune.RandomStructured`.

    The numbers are those upstream draws, so that the same seed gives the same mask.
    """

    def _channel_scores(self, t: Tensor, default_mask: Tensor | None, active_only: bool) -> Tensor:
        size = t.shape[self.dim]
        scores = torch.zeros(size)
        active = None
        if active_only and default_mask is not None:
            others = [d for d in range(t.dim()) if d != self.dim % t.dim()]
            active = (default_mask != 0).sum(dim=others).ne(0).cpu()
            size = int(active.sum())
        count = upstream._compute_nparams_toprune(self.amount, size)
        upstream._validate_pruning_amount(count, size)
        if count != 0:  # upstream draws nothing then
            draws = torch.rand(size)
            scores = draws if active is None else scores.masked_scatter_(active, draws)
        return scores.to(t.device)


def _laid_out_like(t: Tensor, values: Tensor) -> Tensor:
    """The values in the memory layout of ``t``, which the mask will have too."""
    return values if t.is_contiguous() else torch.empty_like(t, dtype=values.dtype).copy_(values)


def _channel_amount(method: _Structured) -> int | float:
    """Upstream takes True for norms alone, as one."""
    is_one = method.amount is True and isinstance(method, upstream.LnStructured)
    return 1 if is_one else method.amount


def _check_structured(t: Tensor, dim: int) -> None:
    upstream._validate_structured_pruning(t)
    upstream._validate_pruning_dim(t, dim)
    if dim < -t.dim():
        raise IndexError(f"Invalid index {dim} for tensor of size {t.shape}")


class CustomFromMask(upstream.CustomFromMask, BasePruningMethod):
    """Prunes what a given mask prunes; see :class:`torch.nn.utils.prune.CustomFromMask`."""

    @native("global")
    def compute_mask(
        self, t: Tensor, default_mask: Tensor | None, *, active_only: bool = False
    ) -> Tensor:
        if is_compiling() or not _C.is_plain(default_mask, t) or not _C.is_plain(self.mask):
            old_mask = torch.ones_like(t) if default_mask is None else default_mask
            result: Tensor = super().compute_mask(t, old_mask)
            return result
        old = t if default_mask is None else default_mask
        if old.shape != self.mask.shape:
            raise AssertionError(
                f"default_mask shape {old.shape} must match self.mask shape {self.mask.shape}"
            )
        if default_mask is None and self.mask.device == t.device:  # ones times the mask
            return torch.empty_like(t).copy_(self.mask)
        return ops.combine_masks(torch.ones_like(t) if default_mask is None else old, self.mask)
