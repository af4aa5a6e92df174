"""Messages between the processes of a group that prune together: counts, never weights.

A process that fails says so in the next message, so that all of them raise and none waits; what can
fail comes before a last message, a vote, after which there are only assignments. Messages have one
size whatever is pruned, since those that differ abort a process.
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
from torch import Tensor

from .parts import BIN_BITS, SAMPLE, Exchange
from .sharded import PeerError, collective_device

#: The dtypes of keys; a message names one by its number.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Marks an exception that other processes know of: an exchange inside of another has told them.
_TOLD = "_fastprune_told"
_COUNTS = 1 << BIN_BITS  # the most that one message adds up


class GroupExchange(Exchange):
    """Messages between the processes of a group.

    The first message is ``start``; the others are sums, but for at most one ``gather``.

    Args:
        groups: a process group, None for the default one. Or those of the dims of a mesh, along
            which messages go one after the other; processes are numbered in the mesh's order.
        about: what this process prunes, which has to be the same everywhere.
        gathers_at: the number of the message that is ``gather``, counted from 0 for ``start``; 0
            for none. A process that failed has to send a message of the kind that others wait for.
    """

    def __init__(self, groups: Sequence[Any], about: Sequence[str], gathers_at: int = 1) -> None:
        self.groups = [*groups]
        self.about = list(about)
        self.gathers_at = gathers_at
        sizes = [dist.get_world_size(group) for group in self.groups]
        if min(sizes) < 1:
            raise ValueError(f"expected this process to be one of the group, got {self.groups}")
        self.size = math.prod(sizes)
        self.rank = 0
        for group, size in zip(self.groups, sizes, strict=True):
            self.rank = self.rank * size + dist.get_rank(group)
        self.device = collective_device(self.groups[0])
        #: Bytes that this process sent to others.
        self.sent = 0
        self._broken = False
        self._sent = 0  # messages
        self._error: str | None = None

    def start(self, entries: int, dtypes: Sequence[torch.dtype]) -> tuple[int, int, torch.dtype]:
        """How many entries come before this process's, how many there are, and the dtype of keys.

        Args:
            entries: of this process's tensors; 0 if other processes count them.
            dtypes: of its scores.
        """
        dtype = functools.reduce(torch.promote_types, dtypes) if dtypes else None
        number = -1 if dtype is None else DTYPES.index(dtype)
        told = self._start(entries, number, failed=False)
        together = told[:, 2].tolist()
        found = [DTYPES[n] for n in told[:, 3].tolist() if n >= 0]
        keys = functools.reduce(torch.promote_types, found) if found else torch.float32
        return sum(together[: self.rank]), sum(together), keys

    def _start(self, entries: int, dtype: int, *, failed: bool) -> Tensor:
        about = zlib.crc32("\n".join(self.about).encode())
        told = self._all_gather(torch.tensor([failed, about, entries, dtype], device="cpu"))
        if told[:, 0].any():
            self._raise_peer_error(failed)
        if (told[:, 1] != about).any():
            self._raise_difference()
        return told

    def gather(self, keys: Tensor, slots: int) -> tuple[Tensor, int]:
        room = self._room()
        if len(keys) > room:
            slots = round(slots * room / len(keys))
            keys = keys[torch.linspace(0, len(keys) - 1, room, device="cpu").long()]
        return self._gather(keys, slots, failed=False)

    def _gather(self, keys: Tensor, slots: int, *, failed: bool) -> tuple[Tensor, int]:
        message = torch.full((2 + self._room(),), -1, dtype=torch.int64, device="cpu")
        message[:2] = torch.tensor([failed, slots], device="cpu")
        message[2 : 2 + len(keys)] = keys
        together = self._all_gather(message)
        if together[:, 0].any():
            self._raise_peer_error(failed)
        keys = together[:, 2:].flatten()
        return keys[keys >= 0], int(together[:, 1].sum())

    def _room(self) -> int:
        """For keys of one process in the sample."""
        return max(64, SAMPLE // self.size)

    def _all_gather(self, message: Tensor) -> Tensor:
        together = message.to(self.device)[None]
        self._sent += 1
        for group in reversed(self.groups):
            parts = [torch.empty_like(together) for _ in range(dist.get_world_size(group))]
            self._communicate(dist.all_gather, parts, together, group=group)
            together = torch.cat(parts)
        return together.cpu()

    def sum(self, counts: Tensor) -> Tensor:
        return torch.cat([self._sum(part, failed=False) for part in counts.split(_COUNTS)])

    def _sum(self, counts: Tensor, *, failed: bool) -> Tensor:
        message = torch.zeros(_COUNTS + 1, dtype=torch.int64, device="cpu")
        message[: len(counts)] = counts
        message[-1] = failed
        message = self._all_reduce(message, dist.ReduceOp.SUM)
        if message[-1]:
            self._raise_peer_error(failed)
        return message[: len(counts)]

    def place(self, entries: int) -> tuple[int, int]:
        """How many entries the processes before this one have, and all together."""
        of_each = torch.zeros(self.size, dtype=torch.int64, device="cpu")
        of_each[self.rank] = entries
        of_each = self.sum(of_each)
        return int(of_each[: self.rank].sum()), int(of_each.sum())

    def vote(self) -> None:
        """Wait until all processes are here; raise if one has failed."""
        self.sum(torch.zeros(1, dtype=torch.int64, device="cpu"))

    def max(self, numbers: Tensor) -> Tensor:
        """The greatest of all processes, of each of some int64 on the CPU."""
        self.vote()  # so that none fails here, whose message would be a sum
        return self._all_reduce(numbers.clone(), dist.ReduceOp.MAX)

    def _all_reduce(self, message: Tensor, op: Any) -> Tensor:
        message = message.to(self.device)
        self._sent += 1
        for group in self.groups:
            self._communicate(dist.all_reduce, message, op=op, group=group)
        return message.cpu()

    @contextmanager
    def numbers_of_first(self, device: torch.device) -> Iterator[None]:
        """torch.rand on ``device`` inside draws what it draws in the first process of the group.

        The generator of the first goes on from there, those of the others are left as they were.
        """
        generator = _default_generator(device)
        mine = generator.get_state()
        padded = torch.nn.functional.pad(mine, (0, -len(mine) % 8)).view(torch.int64)
        state = self.sum(padded if self.rank == 0 else torch.zeros_like(padded))
        try:
            if self.rank > 0:
                generator.set_state(state.view(torch.uint8)[: len(mine)])
            yield
        finally:
            if self.rank > 0:
                generator.set_state(mine)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What can fail before the masks are assigned: if it does anywhere, all processes raise."""
        try:
            yield
            self.vote()
        except PeerError:
            raise
        except BaseException as error:
            self._tell(error)
            raise

    def _tell(self, error: BaseException) -> None:
        """Take part in the next message, saying that this process failed."""
        if self._broken or getattr(error, _TOLD, False):
            return
        setattr(error, _TOLD, True)
        self._error = f"{type(error).__name__}: {error}"
        try:
            nothing = torch.empty(0, dtype=torch.int64, device="cpu")
            if self._sent == 0:
                self._start(0, -1, failed=True)
            elif self._sent == self.gathers_at:
                self._gather(nothing, 0, failed=True)
            else:
                self._sum(nothing, failed=True)
        except PeerError:
            pass  # the error of this process is raised

    def _communicate(self, collective: Any, *tensors: Any, group: Any, **kwargs: Any) -> None:
        size = dist.get_world_size(group)
        both = 1 if collective is dist.all_gather else 2
        self.sent += both * tensors[-1].nbytes * (size - 1) // (1 if both == 1 else size)
        self._broken = True
        collective(*tensors, group=group, **kwargs)
        self._broken = False

    def _raise_peer_error(self, failed: bool) -> None:
        texts = self._gather_objects(self._error if failed else None)
        said = [f"rank {r} failed: {text}" for r, text in enumerate(texts) if text is not None]
        raise PeerError(f"nothing was pruned, as {'; '.join(said)}")

    def _raise_difference(self) -> None:
        texts = self._gather_objects(self.about)
        first = texts[0]
        for rank, about in enumerate(texts):
            if about != first:
                pairs = itertools.zip_longest(first, about, fillvalue="nothing")
                i, (there, here) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
                raise ValueError(
                    "expected all ranks to prune the same parameters, got as number "
                    f"{i} {there} on rank 0, and {here} on rank {rank}"
                )

    def _gather_objects(self, mine: Any) -> list[Any]:
        together = [mine]
        self._broken = True
        for group in reversed(self.groups):
            parts: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(parts, together, group=group)
            together = [thing for part in parts for thing in part]
        self._broken = False
        return together


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    at = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[at]
