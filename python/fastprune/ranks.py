"""Selection over the processes of a group: each sweeps what it holds, and they exchange counts.

Weights are never sent. A process that fails says so in the next message, so that all of them raise
and none waits; what can fail comes before a last message, a vote, after which there are only
assignments. Messages have one size whatever is pruned, since those that differ abort a process.
"""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .fsdp2 import ShardingError
from .parts import Exchange, Part, select
from .sharded import is_dtensor, placed

_SAMPLE = 1 << 14  # keys of all processes together
_COUNTS = 1 << 11  # the longest that are added up
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class PeerError(RuntimeError):
    """Another process of the group failed; nothing was pruned in any."""


class GroupExchange(Exchange):
    """Messages between the processes of a group.

    Args:
        group: a process group; None for the default one.
        about: what this process prunes, which has to be the same everywhere.
    """

    def __init__(self, group: Any, about: Sequence[str]) -> None:
        self.group = group
        self.about = list(about)
        self.size = dist.get_world_size(group)
        if self.size < 1:
            raise ValueError(f"expected this process to be one of the group, got {group}")
        #: Bytes that this process sent to others.
        self.sent = 0
        self._broken = False
        self._round = 0
        self._error: str | None = None

    def start(self, entries: int, dtypes: Sequence[torch.dtype]) -> tuple[int, int, torch.dtype]:
        """How many entries come before this process's, how many there are, and the dtype of keys.

        Args:
            entries: of this process's tensors; 0 if other processes count them.
            dtypes: of its scores.
        """
        dtype = functools.reduce(torch.promote_types, dtypes) if dtypes else None
        number = -1 if dtype is None else _DTYPES.index(dtype)
        told = self._start(entries, number, failed=False)
        together = told[:, 2].tolist()
        found = [_DTYPES[n] for n in told[:, 3].tolist() if n >= 0]
        keys = functools.reduce(torch.promote_types, found) if found else torch.float32
        return sum(together[: dist.get_rank(self.group)]), sum(together), keys

    def _start(self, entries: int, dtype: int, *, failed: bool) -> Tensor:
        about = zlib.crc32("\n".join(self.about).encode())
        told = self._all_gather(torch.tensor([failed, about, entries, dtype]))
        if told[:, 0].any():
            self._raise_peer_error(failed)
        if (told[:, 1] != about).any():
            self._raise_difference()
        return told

    def gather(self, keys: Tensor, slots: int) -> tuple[Tensor, int]:
        room = self._room()
        if len(keys) > room:
            slots = round(slots * room / len(keys))
            keys = keys[torch.linspace(0, len(keys) - 1, room).long()]
        return self._gather(keys, slots, failed=False)

    def _gather(self, keys: Tensor, slots: int, *, failed: bool) -> tuple[Tensor, int]:
        message = torch.full((2 + self._room(),), -1, dtype=torch.int64)
        message[:2] = torch.tensor([failed, slots])
        message[2 : 2 + len(keys)] = keys
        together = self._all_gather(message)
        if together[:, 0].any():
            self._raise_peer_error(failed)
        keys = together[:, 2:].flatten()
        return keys[keys >= 0], int(together[:, 1].sum())

    def _room(self) -> int:
        """For keys of one process in the sample."""
        return max(64, 2 * _SAMPLE // self.size)

    def _all_gather(self, message: Tensor) -> Tensor:
        self._round += 1
        message = self._moved(message)
        together = [torch.empty_like(message) for _ in range(self.size)]
        self._communicate(dist.all_gather, together, message)
        return torch.stack(together).cpu()

    def sum(self, counts: Tensor) -> Tensor:
        return self._sum(counts, failed=False)

    def _sum(self, counts: Tensor, *, failed: bool) -> Tensor:
        message = torch.zeros(_COUNTS + 1, dtype=torch.int64)
        message[: len(counts)] = counts
        message[-1] = failed
        message = self._moved(message)
        self._communicate(dist.all_reduce, message)
        message = message.cpu()
        if message[-1]:
            self._raise_peer_error(failed)
        return message[: len(counts)]

    @contextmanager
    def together(self) -> Iterator[None]:
        """What can fail before the masks are assigned: if it does anywhere, all processes raise."""
        try:
            yield
            self.sum(torch.zeros(1, dtype=torch.int64))  # the vote
        except PeerError:
            raise
        except BaseException as error:
            self._tell(error)
            raise

    def _tell(self, error: BaseException) -> None:
        """Take part in the next message, saying that this process failed."""
        if self._broken:
            return
        self._error = f"{type(error).__name__}: {error}"
        try:
            if self._round == 0:
                self._start(0, -1, failed=True)
            elif self._round == 1:
                self._gather(torch.empty(0, dtype=torch.int64), 0, failed=True)
            else:
                self._sum(torch.zeros(1, dtype=torch.int64), failed=True)
        except PeerError:
            pass  # the error of this process is raised

    def _communicate(self, collective: Any, *tensors: Any) -> None:
        others, both = self.size - 1, 1 if collective is dist.all_gather else 2
        self.sent += both * tensors[-1].nbytes * others // (1 if both == 1 else self.size)
        self._broken = True
        collective(*tensors, group=self.group)
        self._broken = False

    def _moved(self, message: Tensor) -> Tensor:
        """On the device that the group's backend communicates from."""
        if "nccl" in dist.get_backend(self.group):
            return message.to(torch.device("cuda", torch.cuda.current_device()))
        return message

    def _raise_peer_error(self, failed: bool) -> None:
        texts: list[Any] = [None] * self.size
        self._communicate_objects(texts, self._error if failed else None)
        said = [f"rank {r} failed: {text}" for r, text in enumerate(texts) if text is not None]
        raise PeerError(f"nothing was pruned, as {'; '.join(said)}")

    def _raise_difference(self) -> None:
        texts: list[Any] = [None] * self.size
        self._communicate_objects(texts, self.about)
        first = texts[0]
        for rank, about in enumerate(texts):
            if about != first:
                pairs = itertools.zip_longest(first, about, fillvalue="nothing")
                i, (there, here) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
                raise ValueError(
                    "expected all ranks to prune the same parameters, got as number "
                    f"{i} {there} on rank 0, and {here} on rank {rank}"
                )

    def _communicate_objects(self, into: list[Any], mine: Any) -> None:
        self._broken = True
        dist.all_gather_object(into, mine, group=self.group)
        self._broken = False


class _Piece:
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
            self._places: list[Tensor] = []
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
        self._places = list(_places(scores))

    def places_from(self, first: int) -> Tensor:
        """What :class:`~fastprune.parts.Part` takes, where the whole tensor begins at ``first``."""
        return torch.cat([torch.tensor([first]), *self._places])

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


def _places(t: Any) -> Iterator[Tensor]:
    """For each dim what each index of the local tensor adds to the place in the whole one."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    step = t.numel()
    for dim, size in enumerate(t.shape):
        step = step // size if size else 0
        # Without communication, and by torch's own rule for each kind of placement.
        alone = [
            _along_dim_0(p) if getattr(p, "dim", None) == dim else Replicate() for p in t.placements
        ]
        numbers = torch.arange(size, device=t.device_mesh.device_type)
        local = distribute_tensor(numbers, t.device_mesh, alone, src_data_rank=None).to_local()
        yield local.cpu() * step


def _along_dim_0(placement: Any) -> Any:
    """A placement of a vector as this one places a dim."""
    from torch.distributed.tensor import Shard

    if type(placement) is Shard:
        return Shard(0)
    return type(placement)(0, split_factor=placement.split_factor)  # of FSDP2 and tensor parallel


def topk_masks(
    scores: Sequence[Any],
    masks: Sequence[Any],
    amount: int | float,
    exchange: GroupExchange,
    *,
    active_only: bool,
) -> list[Any]:
    """:func:`fastprune.ops.topk_masks` over what all processes of a group hold.

    Args:
        scores: plain tensors, which each process has its own of, or DTensors.
        masks: old mask or None for each.
        amount: of the entries of all processes.
        exchange: with the other processes.
        active_only: as there.

    Returns:
        New masks, placed as the scores.
    """
    pieces = [_Piece(s, m) for s, m in zip(scores, masks, strict=True)]
    shared = any(is_dtensor(s) for s in scores)
    mine = sum(p.entries for p in pieces)
    first, total, keys = exchange.start(0 if shared else mine, [p.scores.dtype for p in pieces])
    total = mine if shared else total
    kinds: dict[tuple[Any, ...], list[int]] = {}
    firsts: list[int] = []
    for i, piece in enumerate(pieces):
        firsts.append(first)
        first += piece.entries
        dtype = piece.scores.dtype
        mask_dtype = dtype if piece.mask is None else piece.mask.dtype
        kinds.setdefault((dtype, mask_dtype, piece.counts), []).append(i)
    parts = [
        Part(
            [pieces[i].scores for i in each],
            [pieces[i].mask for i in each],
            [pieces[i].places_from(firsts[i]) for i in each],
            keys=keys,
            active_only=active_only,
            dtype=mask_dtype,
            counts=counts,
        )
        for (_, mask_dtype, counts), each in kinds.items()
    ]
    new: dict[int, Any] = {}
    selected = select(parts, amount, total, keys, exchange)
    for each, of_part in zip(kinds.values(), selected, strict=True):
        new.update((i, pieces[i].mask_of(mask)) for i, mask in zip(each, of_part, strict=True))
    return [new[i] for i in range(len(pieces))]


def exchange_of(pairs: Sequence[tuple[nn.Module, str]], group: Any) -> GroupExchange | None:
    """How this process communicates about these parameters; None if it need not.

    Args:
        pairs: (module, name).
        group: a process group, or None for that of the parameters that are DTensors.
    """
    found = [
        module._parameters.get(name + "_orig", module._parameters.get(name))
        for module, name in pairs
    ]
    sharded: list[Any] = [t for t in found if is_dtensor(t)]
    if not sharded:
        return None if group is None else GroupExchange(group, [])
    if len(sharded) != len(found):
        module, name = next(p for p, t in zip(pairs, found, strict=True) if not is_dtensor(t))
        raise TypeError(
            f"expected all parameters to be DTensors, or none, got {name} of {module}, which is "
            f"none, and {len(sharded)} that are"
        )
    # Others go the way they go without us: the part of a selection is one for the CPU.
    if group is None and any(t.device.type != "cpu" or t.dtype not in _DTYPES for t in sharded):
        return None
    about = [
        f"{name} of {type(module).__name__}, {t.dtype}, {list(t.shape)}, {t.placements}"
        for (module, name), t in zip(pairs, sharded, strict=True)
    ]
    if group is None:
        group = _group_of(sharded)
    return GroupExchange(group, about)


def _group_of(ts: Sequence[Any]) -> Any:
    """The group of the processes that these DTensors are spread over."""
    mesh = ts[0].device_mesh
    ranks = mesh.mesh.flatten().sort().values
    for t in ts:
        if not torch.equal(t.device_mesh.mesh.flatten().sort().values, ranks):
            raise ValueError(
                f"expected all parameters to be on the same ranks, got {mesh} and {t.device_mesh}"
            )
    if mesh.ndim == 1:
        return mesh.get_group()
    if len(ranks) == dist.get_world_size():
        return None
    raise ValueError(f"expected group= for parameters on {mesh}, which are not all ranks")
