"""What to prune in a file, and how; and what the methods need for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .tensorfile import Entry, Piece, TensorFile

#: Bytes that are read, pruned and written at a time. Larger pieces are not faster.
PIECE = 16 << 20
#: Bytes of a tensor up to which it is read once for its own threshold, rather than once a digit.
WHOLE = 64 << 20

#: Called with what is being done and its size in bytes; what it returns, with the bytes done.
Progress = Callable[[str, int], Callable[[int], None]]


def silent(label: str, total: int) -> Callable[[int], None]:
    """Tells nobody."""
    return lambda size: None


@dataclass(frozen=True)
class Request:
    """What to prune, and how.

    Args:
        method: ``magnitude``, ``row``, ``block`` or ``nm``.
        amount: a float is a fraction, an int a number: of entries, by ``row`` of those of each
            row, by ``block`` of blocks. For ``nm`` None.
        scope: of ``magnitude``: ``local``, each tensor by itself, or ``global``, all together.
        nm: for ``nm``, how many of how many entries along dim 1 stay.
        block: for ``block``, the indices of the first two dims that a block has.
        include: regular expressions, of which a tensor's name must match one; empty: any name.
        exclude: those of which it must match none.
        device: where to compute.
    """

    method: str = "magnitude"
    amount: int | float | None = None
    scope: str = "local"
    nm: tuple[int, int] = (2, 4)
    block: tuple[int, int] = (4, 4)
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Job:
    """A request, and the file and the tensors in it that it is about."""

    file: TensorFile
    request: Request
    chosen: Sequence[Entry]
    progress: Progress

    def load(self, piece: Piece) -> tuple[bytearray, Tensor]:
        """Its bytes here, and the tensor on the device, which shares them on the CPU."""
        data, t = self.file.tensor(piece)
        return data, t.to(self.request.device)

    @property
    def amount(self) -> int | float:
        """The request's, for methods that have one."""
        assert self.request.amount is not None
        return self.request.amount
