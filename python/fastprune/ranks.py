"""Selection over the processes of a group: each sweeps what it holds, and they exchange counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from .dtensors import is_dtensor
from .exchange import GroupExchange
from .fsdp2 import ShardingError
from .parts import Part, by_kind, in_order, select
from .sharded import placed


class Piece:
    """What this process has of a tensor.

    Attributes:
        scores: what is here of it.
        mask: of that, or None.
        entries: of the whole tensor.
        counts: whether this process is the one that counts them.
    """

    def __init__(self, scores: Any, mask: Any) -> None:
        self.whole = scores
        self.entries = math.prod(scores.shape)
        if not is_dtensor(scores):
            self.scores, self.mask, self.counts = scores.detach(), mask, True
            return
        mesh, placements = scores.device_mesh, scores.placements
        if any(p.is_partial() for p in placements):
            raise ShardingError(
                f"expected DTensors that are sharded or replicated, got {placements}"
            )
        if mask is not None:
            mask = placed(mask, mesh, placements).to_local()  # type: ignore[attr-defined]
        self.scores, self.mask = scores.to_local().detach(), mask
        at = mesh.get_coordinate()
        self.counts = all(i == 0 for i, p in zip(at, placements, strict=True) if p.is_replicate())

    def places_from(self, first: int) -> Tensor:
        """What :class:`~fastprune.parts.Part` takes, where the whole tensor begins at ``first``."""
        places = [torch.tensor([first], device="cpu")]
        step = self.entries
        for dim, size in enumerate(self.whole.shape if is_dtensor(self.whole) else ()):
            step = step // size if size else 0
            places.append(indices_along(self.whole, dim) * step)
        return torch.cat(places)

    def mask_of(self, new: Tensor) -> Any:
        """The new mask as the tensor is placed, given what is here of it."""
        if not is_dtensor(self.whole):
            return new
        from torch.distributed.tensor import DTensor

        whole = self.whole
        return DTensor.from_local(
            new,
            whole.device_mesh,
            whole.placements,
            run_check=False,
            shape=whole.shape,
            stride=whole.stride(),
        )


def indices_along(t: Any, dim: int) -> Tensor:
    """The indices in the whole tensor, along ``dim``, of what is here of a DTensor; on the CPU."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    # Without communication, and by torch's own rule for each kind of placement.
    alone = [
        _along_dim_0(p) if getattr(p, "dim", None) == dim else Replicate() for p in t.placements
    ]
    numbers = torch.arange(t.shape[dim], device=t.device_mesh.device_type)
    local: Tensor = distribute_tensor(numbers, t.device_mesh, alone, src_data_rank=None).to_local()
    return local.cpu()


def _along_dim_0(placement: Any) -> Any:
    """A placement of a vector as this one places a dim."""
    from torch.distributed.tensor import Shard

    if type(placement) is Shard:
        return Shard(0)
    return type(placement)(0, split_factor=placement.split_factor)  # of FSDP2 and tensor parallel


#: The place of this process's first entry, the entries of all processes, and the dtype of keys.
Started: TypeAlias = tuple[int, int, torch.dtype]


def start(scores: Sequence[Any], exchange: GroupExchange) -> Started:
    """The first message: all processes prune the same, and now know of how many entries."""
    mine = sum(math.prod(s.shape) for s in scores)
    shared = any(is_dtensor(s) for s in scores)
    first, total, keys = exchange.start(0 if shared else mine, [s.dtype for s in scores])
    return first, mine if shared else total, keys


def topk_masks(
    scores: Sequence[Any],
    masks: Sequence[Any],
    amount: int | float,
    exchange: GroupExchange,
    started: Started,
    *,
    active_only: bool,
    largest: bool = False,
) -> list[Any]:
    """:func:`fastprune.ops.topk_masks` over what all processes of a group hold.

    Args:
        scores: plain tensors, which each process has its own of, or DTensors.
        masks: old mask or None for each.
        amount: of the entries of all processes.
        exchange: with the other processes.
        started: what ``start`` of them returned.
        active_only: as there.
        largest: as there.

    Returns:
        New masks, placed as the scores.
    """
    pieces = [Piece(s, m) for s, m in zip(scores, masks, strict=True)]
    first, total, keys = started
    firsts = [first + before for before in accumulate((p.entries for p in pieces), initial=0)]
    kinds = by_kind(
        (
            p.scores.device,
            p.scores.dtype,
            p.scores.dtype if p.mask is None else p.mask.dtype,
            p.counts,
        )
        for p in pieces
    )
    parts = [
        Part(
            [pieces[i].scores for i in each],
            [pieces[i].mask for i in each],
            [pieces[i].places_from(firsts[i]) for i in each],
            keys=keys,
            active_only=active_only,
            largest=largest,
            dtype=mask_dtype,
            counts=counts,
        )
        for (*_, mask_dtype, counts), each in kinds.items()
    ]
    new = in_order(kinds, select(parts, amount, total, keys, exchange))
    return [piece.mask_of(mask) for piece, mask in zip(pieces, new, strict=True)]


def groups_of(ts: Sequence[Any]) -> list[Any]:
    """The groups of the processes that these DTensors are spread over; None for all processes.

    Of a mesh of several dims torch has a group for each dim, and one of all processes.
    """
    mesh = ts[0].device_mesh
    ranks = mesh.mesh.flatten().sort().values
    for t in ts:
        if not torch.equal(t.device_mesh.mesh.flatten().sort().values, ranks):
            raise ValueError(
                f"expected all parameters to be on the same ranks, got {mesh} and {t.device_mesh}"
            )
    if mesh.ndim > 1 and mesh.size() == dist.get_world_size():
        return [None]
    return [mesh.get_group(dim) for dim in range(mesh.ndim)]
