"""A safetensors file, read in pieces of bounded size.

The library maps the whole file, and writes only what is in memory as a whole. Here pieces of
tensors are read into memory of our own. That the header is right is for the library to say.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

#: The dtypes that can be pruned, by their names in the header.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """None: it cannot be pruned."""
        return DTYPES.get(self.dtype)

    @property
    def numel(self) -> int:
        """The number of its entries."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Piece:
    """Consecutive indices of the first dim of a tensor, or, if that is cut finer, of entries."""

    entry: Entry
    shape: tuple[int, ...]
    start: int
    size: int


def pieces(entry: Entry, limit: int, *, step: int = 1) -> Iterator[Piece]:
    """A tensor in pieces of at most ``limit`` bytes, each of whole indices of the first dim.

    Args:
        entry: of two dims or more, of a dtype of ``DTYPES``.
        limit: of a piece, in bytes; one of ``step`` indices may have more.
        step: all pieces but the last have a multiple of this many indices.

    Yields:
        Its pieces, in order.
    """
    if entry.numel == 0:
        return
    row = entry.size // entry.shape[0]
    count = max(1, limit // (row * step)) * step
    for first in range(0, entry.shape[0], count):
        n = min(count, entry.shape[0] - first)
        yield Piece(entry, (n, *entry.shape[1:]), entry.start + first * row, n * row)


def flat_pieces(entry: Entry, limit: int) -> Iterator[Piece]:
    """A tensor as a vector, in pieces of at most ``limit`` bytes."""
    width = entry.size // max(1, entry.numel)
    count = max(1, limit // max(1, width))
    for first in range(0, entry.numel, count):
        n = min(count, entry.numel - first)
        yield Piece(entry, (n,), entry.start + first * width, n * width)


class TensorFile:
    """A safetensors file that is open for reading.

    Args:
        path: of the file.

    Raises:
        ValueError: it is no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        if sys.byteorder != "little":
            raise NotImplementedError(f"expected a little-endian machine, got {sys.byteorder}")
        from safetensors import SafetensorError, safe_open

        self.path = path
        self._file: BinaryIO = path.open("rb", buffering=0)
        try:
            self._state = self._stat()
            with safe_open(path, framework="pt") as checked:  # type: ignore[no-untyped-call]
                names = set(checked.keys())
            self.header, self.entries = self._read_header()
        except (SafetensorError, ValueError) as error:
            self._file.close()
            raise ValueError(f"expected {path} to be a safetensors file, got: {error}") from None
        except BaseException:
            self._file.close()
            raise
        assert {entry.name for entry in self.entries} == names

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def tensor(self, piece: Piece) -> tuple[bytearray, Tensor]:
        """A piece as its bytes, and as the tensor of the piece's shape that shares them."""
        data = self.read(piece.start, piece.size)
        dtype = piece.entry.torch_dtype
        assert dtype is not None
        return data, torch.frombuffer(data, dtype=dtype).view(piece.shape)

    def read(self, start: int, size: int) -> bytearray:
        """Bytes of the file."""
        data = bytearray(size)
        view = memoryview(data)
        self._file.seek(start)
        done = 0
        while done < size:
            got = self._file.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                raise OSError(
                    f"expected {size} bytes at {start} of {self.path}, got {done}: it was cut "
                    "meanwhile"
                )
            done += got
        return data

    @property
    def mode(self) -> int:
        """The file's permissions."""
        return os.fstat(self._file.fileno()).st_mode & 0o777

    def check_unchanged(self) -> None:
        """Raise if someone wrote into the file since it was opened."""
        if self._stat() != self._state:
            raise OSError(f"expected {self.path} to stay as it is, but it was changed meanwhile")

    def _stat(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns

    def _read_header(self) -> tuple[bytes, list[Entry]]:
        """The bytes before the data, and the tensors in the order of their data."""
        length = int.from_bytes(self.read(0, 8), "little")
        text = self.read(8, length)
        found = json.loads(text)
        found.pop("__metadata__", None)
        entries = []
        for name, about in found.items():
            start, end = about["data_offsets"]
            entries.append(
                Entry(name, about["dtype"], tuple(about["shape"]), 8 + length + start, end - start)
            )
        entries.sort(key=lambda entry: (entry.start, entry.size))
        at = 8 + length
        for entry in entries:
            width = entry.torch_dtype.itemsize if entry.torch_dtype else None
            if entry.start != at or (width and entry.size != entry.numel * width):
                raise ValueError(
                    f"expected {entry.name} of dtype {entry.dtype} and shape {list(entry.shape)} "
                    f"to start at byte {at}, got {entry.size} bytes at {entry.start}"
                )
            at += entry.size
        if at != self._state[0]:
            raise ValueError(f"expected a file of {at} bytes, got {self._state[0]}")
        return length.to_bytes(8, "little") + bytes(text), entries
