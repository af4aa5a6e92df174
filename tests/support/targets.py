"""What the operator tests run against: a set of operators, and the device of their tensors.

The usual target is ``fastprune.ops`` on "cpu" or "cuda". Another set, such as the CUDA kernels run
by the host on CPU tensors, is the same operators registered under another namespace:
``Target("cuda_on_host", "cpu", NamespaceOps("fastprune_host"), max_numel=5000)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor


class Hooks:
    """Sends selections down their rare paths, and counts those that went there."""

    def __init__(self, native: Any, prefix: str) -> None:
        self._native = native
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, self._prefix + name)

    def reset(self) -> None:
        self.force_fallback(False)  # from above too
        self.force_overflow(False)
        self.watch_fallbacks(False)


@dataclass(frozen=True)
class Target:
    """Where an operator test runs. ``ops`` has the names and signatures of ``fastprune.ops``."""

    name: str
    device: str
    ops: Any
    max_numel: int = 1 << 62
    differentiable: bool = True
    hooks: Any = None

    def needs(self, numel: int) -> None:
        """Skip the test if this target is too slow for so many elements."""
        if numel > self.max_numel:
            pytest.skip(f"{self.name} takes at most {self.max_numel} elements, this is {numel}")

    def needs_autograd(self) -> None:
        """Skip the test if this target has kernels alone."""
        if not self.differentiable:
            pytest.skip(f"{self.name} has no gradients; those of fastprune are one code for all")


class NamespaceOps:
    """The operators of ``torch.ops.<namespace>`` with the signatures of ``fastprune.ops``."""

    def __init__(self, namespace: str) -> None:
        self._native: Any = getattr(torch.ops, namespace)
        self.masked_mul = self._native.masked_mul.default

    def topk_masks(
        self, scores: Sequence[Tensor], masks: Sequence[Tensor | None], amount: float, **kwargs: Any
    ) -> list[Tensor]:
        result: list[Tensor] = self._native.topk_masks.default(scores, masks, amount, **kwargs)
        return result

    def topk_prune(
        self,
        scores: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor],
        amount: float,
        **kwargs: Any,
    ) -> tuple[list[Tensor], list[Tensor]]:
        result: tuple[list[Tensor], list[Tensor]] = self._native.topk_prune.default(
            scores, masks, ts, amount, **kwargs
        )
        return result

    def channel_norms(self, t: Tensor, p: float, dim: int) -> Tensor:
        result: Tensor = self._native.channel_norms.default(t, float(p), dim)
        return result

    def channel_mask(
        self,
        scores: Tensor,
        like: Tensor,
        mask: Tensor | None,
        amount: float,
        dim: int,
        **kwargs: Any,
    ) -> Tensor:
        result: Tensor = self._native.channel_mask.default(
            scores, like, mask, amount, dim, **kwargs
        )
        return result

    def channel_prune(
        self,
        scores: Tensor,
        t: Tensor,
        mask: Tensor | None,
        amount: float,
        dim: int,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = self._native.channel_prune.default(
            scores, t, mask, amount, dim, **kwargs
        )
        return result

    def combine_masks(self, old_mask: Tensor, new_mask: Tensor) -> Tensor:
        result: Tensor = self._native.combine_masks.default(old_mask, new_mask)
        return result

    def masked_mul_(self, t: Tensor, mask: Tensor) -> Tensor:
        self._native.masked_mul_.default(t, mask)
        return t

    def masked_muls(self, ts: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        result: list[Tensor] = self._native.masked_muls.default(ts, masks)
        return result
