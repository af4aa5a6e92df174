"""What the methods select from parameters that are spread over the processes of a group.

Each process selects from what it has of a DTensor; the masks are those of one process that has the
whole tensors, whatever the placements. Random methods draw the numbers of the group's first
process. Norms of channels that are split among processes are sums of integers, which do not depend
on how they are split.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

from . import _C, ops, ranks
from .dtensors import is_dtensor
from .exchange import DTYPES, GroupExchange
from .fsdp2 import ShardingError, is_managed
from .keywords import has_keywords, said
from .lookup import parameters_of
from .patterns import Channels, Entries
from .ranks import Piece, indices_along
from .scores import active_channels, channel_norms, default_device, random_numbers
from .sharded import placed
from .split_norms import norms_of_parts

#: Numbers that are drawn at a time to pass over them.
_SKIPPED = 1 << 20


def exchange_of(
    kind: Any, pairs: Sequence[tuple[nn.Module, str]], group: Any = None
) -> GroupExchange | None:
    """How a method selects over processes, or None if it selects in this process alone.

    Args:
        kind: the class of ours that decides for the method, or None.
        pairs: (module, name) of what it prunes.
        group: a process group, or None for that of the parameters that are DTensors.
    """
    found = parameters_of(pairs)
    sharded: list[Any] = [t for t in found if is_dtensor(t)]
    if group is None and (not sharded or not _is_for_us(kind, sharded, pairs)):
        return None
    if sharded and len(sharded) != len(found):
        module, name = next(p for p, t in zip(pairs, found, strict=True) if not is_dtensor(t))
        raise TypeError(
            f"expected all parameters to be DTensors, or none, got {name} of {module}, which is "
            f"none, and {len(sharded)} that are"
        )
    about = [
        f"{name} of {type(module).__name__}, {t.dtype}, {list(t.shape)}, {t.placements}, by "
        f"{getattr(kind, '__name__', None)}"
        for (module, name), t in zip(pairs, sharded, strict=False)
    ]
    groups = ranks.groups_of(sharded) if group is None else [group]
    return GroupExchange(groups, about, _gathers_at(kind))


def exchange_of_each(kind: Any, pairs: Sequence[tuple[nn.Module, str]]) -> GroupExchange | None:
    """The same where each parameter is pruned by itself; None also where they have no one group."""
    found = parameters_of(pairs)
    if not all(is_dtensor(t) and t.device_mesh == found[0].device_mesh for t in found):
        return None
    return exchange_of(kind, pairs)


def selects(kind: Any) -> bool:
    """Whether this class of ours selects over processes."""
    pattern = getattr(kind, "pattern", None)
    return isinstance(pattern, (Entries, Channels)) and not pattern.signed


def _refuse_keywords(method: Any) -> None:
    if has_keywords(method):
        raise ShardingError(
            f"expected {type(method).__name__} without {said(method)} for tensors that are spread "
            "over processes, got it. Compute the mask from the full tensor, and give it to "
            "custom_from_mask."
        )


def _is_for_us(kind: Any, ts: Sequence[Any], pairs: Sequence[tuple[nn.Module, str]]) -> bool:
    """Whether a method is applied to these DTensors over processes, or else upstream's way."""
    if kind is not None and issubclass(kind, (upstream.CustomFromMask, upstream.Identity)):
        # Selects nothing, but under FSDP2 all have to succeed, or none.
        return all(is_managed(m) for m, _ in pairs)
    return selects(kind) and all(t.device.type in _devices() and t.dtype in DTYPES for t in ts)


@functools.cache
def _devices() -> tuple[str, ...]:
    """The types of devices that there is a part of a selection for."""
    return ("cpu", "cuda") if _C.build_info()["cuda"] else ("cpu",)


def _gathers_at(kind: Any) -> int:
    """The number of the message that is a sample, see :class:`GroupExchange`."""
    pattern = getattr(kind, "pattern", None)
    if not isinstance(pattern, Entries):
        return 0  # there is none
    # Before it come the start, and of random methods the generator's state and a vote or counts.
    return 3 if pattern.largest else 1


def select_one(
    method: Any, kind: Any, scores: Any, mask: Any, active_only: bool
) -> tuple[Any, None] | None:
    """``native.select_one`` of a DTensor, with messages of its own; None if it is not for us."""
    if issubclass(kind, (upstream.CustomFromMask, upstream.Identity)):
        (given,), _ = kind.select(method, (scores,), (mask,), active_only=active_only)
        return given.to(scores.dtype) if active_only else given, None
    _refuse_keywords(method)
    if not selects(kind) or not _is_for_us(kind, [scores], []):
        return None
    about = f"a DTensor of {scores.dtype}, {list(scores.shape)}, {scores.placements}"
    exchange = GroupExchange(ranks.groups_of([scores]), [about], _gathers_at(kind))
    with exchange.together():
        (new,) = select(method, kind, (scores,), (mask,), exchange, active_only=active_only)
    return new.to(scores.dtype) if active_only else new, None


def select(
    method: Any,
    kind: Any,
    scores: Sequence[Any],
    masks: Sequence[Any],
    exchange: GroupExchange,
    likes: Sequence[Any] | None = None,
    *,
    active_only: bool,
) -> list[Any]:
    """New masks, placed as ``likes``, by default the scores; the rest as in ``Native.select``."""
    pattern: Any = getattr(kind, "pattern", None)
    _refuse_keywords(method)
    if not selects(kind):
        raise NotImplementedError(
            f"expected L1Unstructured or RandomUnstructured to select over the processes of a "
            f"group, got {type(method).__name__}"
        )
    pattern.check(method, scores)
    scores = [
        placed(s, like.device_mesh, like.placements) if is_dtensor(like) else s
        for s, like in zip(scores, likes or scores, strict=True)
    ]
    if isinstance(pattern, Channels):
        exchange.start(0, [])
        (t,), (mask,) = scores, masks
        return [_channel_mask(method, pattern, t, mask, exchange, active_only)]
    scores = [_ranked(s) for s in scores]
    started = ranks.start(scores, exchange)
    if pattern.largest:
        keys = started[2]
        scores = _random_entries(scores, masks, method.amount, exchange, keys, active_only)
    return ranks.topk_masks(
        scores,
        masks,
        method.amount,
        exchange,
        started,
        active_only=active_only,
        largest=pattern.largest,
    )


def _ranked(scores: Any) -> Any:
    """Scores of a dtype that keys are made of."""
    if scores.dtype in DTYPES:
        return scores
    return scores.abs().double() if scores.is_complex() else scores.double()


def _random_entries(
    ts: Sequence[Any],
    masks: Sequence[Any],
    amount: int | float,
    exchange: GroupExchange,
    dtype: torch.dtype,
    active_only: bool,
) -> list[Any]:
    """The numbers of ``scores.random_entries`` for the tensors of all processes, placed as these.

    Of DTensors each process draws the numbers of all and keeps its own. Their old masks are
    gathered, as bool, since only what they leave active has a number. Of tensors that each process
    has of its own, the numbers follow in the order of the processes.
    """
    spread = any(is_dtensor(t) for t in ts)
    device = ts[0].device if ts else exchange.device
    with exchange.numbers_of_first(device):
        if spread:
            exchange.vote()  # the masks are gathered by other messages
        active = [_whole_mask(mask) if active_only and mask is not None else None for mask in masks]
        sizes = [t.numel() if a is None else int(a.sum()) for t, a in zip(ts, active, strict=True)]
        before, total = (0, sum(sizes)) if spread else exchange.place(sum(sizes))
        count = upstream._compute_nparams_toprune(amount, total)
        upstream._validate_pruning_amount(count, total)
        if count == 0:  # upstream draws nothing for nothing
            drawn = iter([torch.zeros(size, dtype=dtype, device=device) for size in sizes])
        else:
            after = total - before - sum(sizes) if exchange.rank == 0 else 0
            drawn = _draws(before, sizes, after, dtype, device)
        numbers = []
        for t, a, each in zip(ts, active, drawn, strict=False):
            whole = each.view(t.shape) if a is None else _scattered(each, a)
            numbers.append(placed(whole, t.device_mesh, t.placements) if is_dtensor(t) else whole)
        next(drawn, None)  # passes over those after ours
    return numbers


def _draws(
    before: int, sizes: Sequence[int], after: int, dtype: torch.dtype, device: torch.device
) -> Iterator[Tensor]:
    """Numbers that follow ``before`` others, and then the generator goes past ``after`` more."""

    def draw(size: int) -> Tensor:
        return torch.rand(size, dtype=dtype, device=device)

    if device.type != "cpu":  # several draws differ from one
        yield from draw(before + sum(sizes) + after)[before : before + sum(sizes)].split([*sizes])
        return
    _skip(before, draw)
    for size in sizes:
        yield draw(size)
    _skip(after, draw)


def _skip(count: int, draw: Callable[[int], Tensor]) -> None:
    """Draw ``count`` numbers, of which few are kept at a time."""
    for begin in range(0, count, _SKIPPED):
        draw(min(_SKIPPED, count - begin))


def _whole_mask(mask: Any) -> Tensor:
    """Which entries of a whole tensor a mask leaves active."""
    active = mask == 1
    whole: Tensor = active.full_tensor() if hasattr(active, "full_tensor") else active
    return whole


def _scattered(numbers: Tensor, active: Tensor) -> Tensor:
    zeros = torch.zeros(active.shape, dtype=numbers.dtype, device=numbers.device)
    return zeros.masked_scatter_(active, numbers)


def _channel_mask(
    method: Any, pattern: Channels, t: Any, mask: Any, exchange: GroupExchange, active_only: bool
) -> Any:
    """The new mask of a DTensor by channels, of which each process has some, or parts of some."""
    piece = Piece(t, mask)
    dim = method.dim % t.dim()
    here = indices_along(t, dim)
    amount = pattern.amount(method)
    active = None
    if active_only and mask is not None:
        found = torch.zeros(t.shape[dim], dtype=torch.int64, device="cpu")
        found[here] = active_channels(piece.mask, dim).cpu().long()
        active = exchange.sum(found) != 0
    if isinstance(method, upstream.LnStructured):
        importance = _norms(method.n, piece, dim, here, exchange)
    else:
        with exchange.numbers_of_first(default_device()):
            importance = random_numbers(t.shape[dim], active, amount).cpu()
    # One entry for each channel of the whole tensor.
    like = torch.ones(t.shape[dim], 1, device="cpu")
    old = None if active is None else active[:, None].to(like.dtype)
    new = ops.channel_mask(importance, like, old, amount, 0, active_only=active_only)
    pruned = (new[here, 0] == 0).nonzero().flatten().to(piece.scores.device)
    local = torch.ones_like(piece.scores) if mask is None else piece.mask
    return piece.mask_of(local.index_fill(dim, pruned, 0).to(t.dtype))


def _norms(
    n: int | float | str, piece: Piece, dim: int, here: Tensor, exchange: GroupExchange
) -> Tensor:
    """The norm of each channel of the whole tensor, float64, in all processes alike."""
    whole = piece.whole
    channels = whole.shape[dim]
    split = any(getattr(p, "dim", dim) != dim for p in whole.placements)
    bits = torch.zeros(channels, dtype=torch.int64, device="cpu")
    if not split:  # each in the order of one process
        norms = channel_norms(piece.scores, n, dim).double().cpu()
        if piece.counts:
            bits[here] = norms.view(torch.int64)
        return exchange.sum(bits).view(torch.float64)
    if isinstance(n, str) and n != "fro":
        raise ShardingError(
            f"expected channels that are not split for the norm {n!r}, got {whole.placements} of "
            f"a tensor pruned along dim {dim}"
        )
    parts = piece.scores.movedim(dim, 0).flatten(1)
    if not piece.counts:  # another process has the same
        parts = parts[:, :0]
    return norms_of_parts(
        parts, here, channels, piece.entries // channels, 2.0 if n == "fro" else float(n), exchange
    )
