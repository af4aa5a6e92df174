"""A case and its axes: each axis is varied alone around a centre case, not crossed with others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

Shape = tuple[int, ...]

DTYPES = ("float32", "float16", "bfloat16", "float64")
DATA = ("normal", "uniform", "sorted", "equal", "zeros99", "few", "channels")
CENTRE = (2048, 2048)
SMALL = (100, 100)
QUICK = (1024, 1024)
LARGE = (4096, 4096)
SIZES: tuple[Shape, ...] = ((25, 40), SMALL, (250, 400), QUICK, CENTRE, LARGE, (8192, 8192))
#: Where the goals for a GPU are stated.
HUGE = (8192, 8192)
GPU_SIZES: tuple[Shape, ...] = (*SIZES, (16384, 16384))


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        family: the kind of work; each has a table.
        variant: the work within the family.
        device: "cpu" or "cuda".
        dtype: of the tensors, as a name in torch.
        shapes: of the tensors to prune.
        data: the kind of values, a name that suite/data.py knows.
        amount: the share to prune.
        quick: whether the short run includes it.
        peak: whether to measure its peak memory on the CPU.
    """

    family: str
    variant: str
    device: str
    dtype: str = "float32"
    shapes: tuple[Shape, ...] = (CENTRE,)
    data: str = "normal"
    amount: float = 0.5
    quick: bool = False
    peak: bool = False

    @property
    def name(self) -> str:
        """Unique, and the same in every run."""
        amount = f"{self.amount * 100:g}%"
        parts = (self.device, self.family, self.variant, self.dtype, self.numel, self.data, amount)
        return "/".join(map(str, parts))

    @property
    def numel(self) -> int:
        """Elements of all tensors together."""
        return sum(map(math.prod, self.shapes))

    @property
    def widest(self) -> int:
        """Elements of the largest tensor."""
        return max(map(math.prod, self.shapes))

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype.itemsize


def sizes_of(device: str) -> tuple[Shape, ...]:
    """The sizes for a device."""
    return GPU_SIZES if device == "cuda" else SIZES


def by_size(centre: Case, sizes: Sequence[Shape]) -> Iterator[Case]:
    """The case at each size; the short run has two of them, on a GPU four."""
    quick = {SMALL, QUICK} | ({LARGE, HUGE} if centre.device == "cuda" else set())
    for shape in sizes:
        peak = centre.peak and shape in (CENTRE, LARGE)
        yield replace(centre, shapes=(shape,), quick=shape in quick, peak=peak)


def selection(centre: Case, sizes: Sequence[Shape]) -> Iterator[Case]:
    """Selection among elements depends on every axis."""
    yield from by_size(centre, sizes)
    centre = replace(centre, peak=False)
    yield from (replace(centre, dtype=dtype) for dtype in DTYPES[1:])
    if centre.device == "cuda":
        yield replace(centre, dtype="bfloat16", shapes=(HUGE,), quick=True)
        yield replace(centre, shapes=((2048, 2048, 3, 3),), quick=True)  # a convolution's
    yield from (replace(centre, amount=amount) for amount in (0.05, 0.95))
    yield from (replace(centre, data=data) for data in DATA[1:])
