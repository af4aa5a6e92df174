"""How important entries and channels are, where that is more than an operator's call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeAlias

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

from . import ops
from .native import in_layout_of
from .parts import common_dtype

#: Of a tensor and its old mask (None for ones): how important each entry or channel is.
Score: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]


def check_factor(factor: Any) -> None:
    """Raise unless it is a Tensor or None."""
    if not isinstance(factor, (Tensor, type(None))):
        raise TypeError(f"expected factor to be a Tensor, got {type(factor).__name__}")


def scored_by(
    score: Callable[[Tensor, Tensor | None], Any],
    method: Any,
    t: Tensor,
    mask: Tensor | None,
    shape: torch.Size,
) -> Tensor:
    """What a user's ``score`` says of ``t``, without a graph.

    Raises:
        TypeError, AssertionError, RuntimeError: it is not real numbers of this shape, on the device
            of ``t``. Errors name the method.
    """
    along = f"(dim={method.dim})" if hasattr(method, "dim") else ""
    name = f"{type(method).__name__}{along}.scores()"
    try:
        with torch.no_grad():
            rank = score(t, mask)
    except (TypeError, AttributeError) as error:
        if "NoneType" not in str(error) or not isinstance(t, nn.Parameter) or t.grad is not None:
            raise
        kind = TypeError if isinstance(error, TypeError) else AttributeError
        raise kind(
            f"{name} failed: {error} (t.grad is None: a score that reads it takes a backward())"
        ) from error
    if not isinstance(rank, Tensor):
        raise TypeError(f"{name} should return a Tensor, got {type(rank).__name__}")
    if rank.is_complex():
        raise TypeError(f"{name} should return real numbers, got {rank.dtype}")
    if rank.shape != shape:
        raise AssertionError(
            f"{name} should return a tensor of shape {list(shape)} for one of shape "
            f"{list(t.shape)}, got {list(rank.shape)}"
        )
    if rank.device != t.device:
        raise RuntimeError(
            f"{name} should return a tensor on the device of its argument, {t.device}, "
            f"got {rank.device}"
        )
    return rank.detach()


def weighted(t: Tensor, factor: Tensor) -> Tensor:
    """``|t| * |factor|``, as the operators rank it, in the shape of ``t``."""
    wide = torch.float64 if t.dtype in (torch.float64, torch.complex128) else torch.float32
    return t.abs().to(wide) * factor.abs().to(wide).expand(t.shape)


def random_entries(
    ts: Sequence[Tensor], masks: Sequence[Tensor | None], amount: int | float, active_only: bool
) -> list[Tensor]:
    """The numbers upstream draws for the active entries of all tensors together, zero elsewhere.

    With an old mask the number of active entries is read back to the host. Of tensors on several
    devices, the generator is that of the first one's.
    """
    if len(ts) == 1 and (masks[0] is None or not active_only):
        return [_random_like(ts[0], amount)]
    active = [mask == 1 if active_only and mask is not None else None for mask in masks]
    sizes = [t.numel() if a is None else int(a.sum()) for t, a in zip(ts, active, strict=True)]
    count = upstream._compute_nparams_toprune(amount, sum(sizes))
    upstream._validate_pruning_amount(count, sum(sizes))
    draw = torch.zeros if count == 0 else torch.rand  # upstream draws nothing for nothing
    draws = draw(sum(sizes), dtype=common_dtype(ts), device=ts[0].device)
    return [
        _laid_out_like(t, part.view(t.shape).to(t.device))
        if a is None
        else torch.zeros_like(t, dtype=draws.dtype).masked_scatter_(a, part.to(t.device))
        for t, a, part in zip(ts, active, draws.split(sizes), strict=True)
    ]


def _random_like(t: Tensor, amount: int | float) -> Tensor:
    """The numbers upstream draws for all entries of a tensor."""
    count = upstream._compute_nparams_toprune(amount, t.numel())
    upstream._validate_pruning_amount(count, t.numel())
    if count == 0:  # upstream draws nothing for nothing
        return torch.zeros_like(t)
    return _laid_out_like(t, torch.rand(t.shape, dtype=t.dtype, device=t.device))


def random_channels(
    t: Tensor, mask: Tensor | None, amount: int | float, dim: int, active_only: bool
) -> Tensor:
    """The numbers upstream draws for the active channels of ``t``, shape ``[t.shape[dim]]``."""
    active = None
    if active_only and mask is not None:
        active = active_channels(mask, dim).cpu()
    return random_numbers(t.shape[dim], active, amount).to(t.device)


def default_device() -> torch.device:
    """Where :func:`random_numbers` are drawn.

    torch.get_default_device of torch 2.9 fails once torch.set_default_device(None) was called.
    """
    return torch.empty(0).device


def random_numbers(channels: int, active: Tensor | None, amount: int | float) -> Tensor:
    """The numbers upstream draws for those of some channels that are active, or for all.

    On the default device (:func:`torch.set_default_device`), as upstream does.
    """
    size = channels if active is None else int(active.sum())
    count = upstream._compute_nparams_toprune(amount, size)
    upstream._validate_pruning_amount(count, size)
    numbers = torch.zeros(channels)
    if count == 0:  # upstream draws nothing for nothing
        return numbers
    draws = torch.rand(size)
    return draws if active is None else numbers.masked_scatter_(active.to(draws.device), draws)


def active_channels(mask: Tensor, dim: int) -> Tensor:
    """Of which channels ``mask`` has an entry that is not zero."""
    others = [d for d in range(mask.dim()) if d != dim % mask.dim()]
    return (mask != 0).sum(dim=others) != 0


def channel_norms(t: Tensor, n: int | float | str, dim: int) -> Tensor:
    """The ``n``-norm of each channel of ``t``, shape ``[t.shape[dim]]``."""
    if n != "fro" and not isinstance(n, Real):  # the nuclear norm is torch's
        norms: Tensor = upstream._compute_norm(t, n, dim)
        return norms
    return ops.channel_norms(t, 2.0 if n == "fro" else n, dim)  # type: ignore[arg-type]


def _laid_out_like(t: Tensor, values: Tensor) -> Tensor:
    """The values in the memory layout of ``t``, which the mask will have too."""
    if t.is_contiguous():
        return in_layout_of(t, values)
    return torch.empty_like(t, dtype=values.dtype).copy_(values)
