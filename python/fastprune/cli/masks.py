"""The methods: which entries of a tensor in a file are pruned, piece by piece.

None holds more than a piece, or a tensor of ``WHOLE`` bytes, with its mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor

from fastprune import _C, ops, parts

from . import job as sizes
from .job import Job
from .tensorfile import Entry, flat_pieces, pieces

#: The bytes of a piece, the tensor on the device, which shares them on the CPU, and its mask.
Masked = tuple[bytearray, Tensor, Tensor]
#: The pieces of a tensor, in order.
Method = Callable[[Entry], Iterator[Masked]]


class Rows:
    """A budget for each index of the first dim."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, entry: Entry) -> Iterator[Masked]:
        for piece in pieces(entry, sizes.PIECE):
            data, t = self._job.load(piece)
            (mask,) = ops.row_masks([t], [], self._job.amount, 0, dtype=torch.uint8)
            yield data, t, mask


class NM:
    """Runs along dim 1, which pieces do not cut."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, entry: Entry) -> Iterator[Masked]:
        for piece in pieces(entry, sizes.PIECE):
            data, t = self._job.load(piece)
            (mask,) = ops.nm_masks([t], [], *self._job.request.nm, 1, dtype=torch.uint8)
            yield data, t, mask


class Blocks:
    """Blocks of smallest norm: one read for the norms, one for the masks."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, entry: Entry) -> Iterator[Masked]:
        block = self._job.request.block
        cut = list(pieces(entry, sizes.PIECE, step=block[0]))
        norms = [ops.block_norms([self._job.load(piece)[1]], block)[0] for piece in cut]
        if not norms:
            return
        (kept,) = ops.topk_masks([torch.cat(norms)], [], self._job.amount, dtype=torch.bool)
        for piece, units in zip(cut, kept.split([len(n) for n in norms]), strict=True):
            data, t = self._job.load(piece)
            (mask,) = ops.block_masks([units], [], [t], block, dtype=torch.uint8)
            yield data, t, mask


class Magnitude:
    """The entries of smallest magnitude, of all tensors together or of each."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._of_all = Threshold(job, job.chosen) if job.request.scope == "global" else None

    def __call__(self, entry: Entry) -> Iterator[Masked]:
        if self._of_all is not None:
            return self._of_all.masks(entry)
        if entry.size > sizes.WHOLE:
            return Threshold(self._job, [entry]).masks(entry)
        return self._at_once(entry)

    def _at_once(self, entry: Entry) -> Iterator[Masked]:
        for piece in pieces(entry, entry.size):
            data, t = self._job.load(piece)
            (mask,) = ops.topk_masks([t], [], self._job.amount, dtype=torch.uint8)
            yield data, t, mask


#: By the names of the command line.
METHODS: dict[str, Callable[[Job], Method]] = {
    "magnitude": Magnitude,
    "row": Rows,
    "block": Blocks,
    "nm": NM,
}


class Threshold:
    """The key of the last entry to be pruned of all of some tensors, found digit by digit.

    Each digit takes a read of the tensors: two for 16-bit ones, three for float32, six for float64
    or where one is float64. Of the entries that equal the threshold the first of the file are
    pruned. That is what :func:`fastprune.global_unstructured` does with tensors in this order.
    """

    def __init__(self, job: Job, entries: Sequence[Entry]) -> None:
        self._job = job
        dtypes = [entry.torch_dtype for entry in entries if entry.torch_dtype is not None]
        self._keys = reduce(torch.promote_types, dtypes)
        passes = _Passes(job, entries, self._keys)
        total = sum(entry.numel for entry in entries)
        amount = job.amount
        count = _C._budget(amount, total) if isinstance(amount, float) else amount
        upstream._validate_pruning_amount(count, total)
        self._key, self._ties = 0, 0
        if count > 0:
            top = _C._max_key(str(self._keys).removeprefix("torch."))
            self._key, less, _ = parts.radix_select(
                [passes], (0, top), count, _Passes.histogram, parts.Exchange()
            )
            self._ties = count - less.total  # of which those of earlier tensors are taken away

    def masks(self, entry: Entry) -> Iterator[Masked]:
        """Of one of the tensors; to be called for each, in their order."""
        for piece in flat_pieces(entry, sizes.PIECE):
            data, t = self._job.load(piece)
            part = _part(t, self._keys)
            _, below, equal, _ = part.sweep(self._key, self._key, self._key)
            due = min(self._ties, equal)
            self._ties -= due
            part.fixup(self._key, below, due, False)
            (mask,) = part.masks()
            yield data, t, mask


@dataclass
class _Passes:
    """Tensors in a file as a part of a selection, read anew for each histogram."""

    job: Job
    entries: Sequence[Entry]
    keys: torch.dtype
    counts: bool = True
    done: int = field(default=0, init=False)

    def histogram(self, first: int, shift: int) -> Tensor:
        """As that of a part that is in memory."""
        self.done += 1
        size = sum(entry.size for entry in self.entries)
        advance = self.job.progress(f"counting magnitudes, read {self.done}", size)
        counts = torch.zeros(1 << parts.BIN_BITS, dtype=torch.int64, device="cpu")
        for entry in self.entries:
            for piece in flat_pieces(entry, sizes.PIECE):
                _, t = self.job.load(piece)
                counts += _part(t, self.keys).histogram(first, shift, False).cpu()
                advance(piece.size)
        return counts


def _part(t: Tensor, keys: torch.dtype) -> Any:
    return ops.topk_part([t], [], keys, dtype=torch.uint8)
