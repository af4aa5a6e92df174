"""What the wrappers do to their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor


def as_scalar(amount: int | float) -> int | float:
    """An amount as the native side takes it: an int counts, a float is a fraction."""
    if type(amount) is float:
        return amount
    if amount is True:
        raise TypeError("expected amount to be an int or a float, got True")
    return int(amount) if isinstance(amount, Integral) else float(amount)


def as_scalars(
    op: str, amount: int | float | Sequence[int | float], scores: Sequence[Tensor]
) -> list[int | float]:
    """One amount, or one for each of the scores, as the native side takes them."""
    if not isinstance(amount, Sequence):
        return [as_scalar(amount)]
    if len(amount) != len(scores):
        raise RuntimeError(
            f"{op}(): expected one amount, or one for each of {len(scores)} scores, got "
            f"{len(amount)}"
        )
    return [as_scalar(each) for each in amount]


def check_device(name: str, mask: Tensor, of: Tensor) -> None:
    """A meta tensor brings the call here whatever the other's device."""
    if mask.device != of.device:
        raise RuntimeError(f"expected {name} to be on {of.device}, got {mask.device}")


def check_devices(scores: Sequence[Tensor], **lists: Sequence[Tensor | None]) -> None:
    """The same of lists beside the scores, by their names."""
    for name, given in lists.items():
        for i, tensor in enumerate(given):
            if tensor is not None:
                check_device(f"{name}[{i}]", tensor, scores[i])


def fake_masks(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    factors: Sequence[Tensor | None],
    dtype: torch.dtype | None,
) -> list[Tensor]:
    """What nm_masks and row_masks return, without data."""
    check_devices(scores, masks=masks, factors=factors)
    old = masks or [None] * len(scores)
    return [
        torch.empty_like(s, dtype=(dtype or s.dtype) if mask is None else mask.dtype)
        for s, mask in zip(scores, old, strict=True)
    ]
