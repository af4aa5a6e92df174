"""What the wrappers do to their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from torch import Tensor


def as_scalar(amount: int | float) -> int | float:
    """An amount as the native side takes it: an int counts, a float is a fraction."""
    if type(amount) is float:
        return amount
    if amount is True:
        raise TypeError("expected amount to be an int or a float, got True")
    return int(amount) if isinstance(amount, Integral) else float(amount)


def as_scalars(amount: int | float | Sequence[int | float]) -> list[int | float]:
    """One amount, or several, as the native side takes them."""
    if isinstance(amount, Sequence):
        return [as_scalar(each) for each in amount]
    return [as_scalar(amount)]


def check_device(name: str, mask: Tensor, of: Tensor) -> None:
    """A meta tensor brings the call here whatever the other's device."""
    if mask.device != of.device:
        raise RuntimeError(f"expected {name} to be on {of.device}, got {mask.device}")
