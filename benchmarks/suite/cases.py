"""Which cases are run: every axis is varied around a centre, rather than all of them crossed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from suite import models

Shape = tuple[int, ...]

DTYPES = ("float32", "float16", "bfloat16", "float64")
DATA = ("normal", "uniform", "sorted", "equal", "zeros99", "few", "channels")
CENTRE = (2048, 2048)
SMALL = (100, 100)
QUICK = (1024, 1024)
LARGE = (4096, 4096)
SIZES: tuple[Shape, ...] = ((25, 40), SMALL, (250, 400), QUICK, CENTRE, LARGE, (8192, 8192))
GPU_SIZES: tuple[Shape, ...] = (*SIZES, (16384, 16384))


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        family: what kind of work, one table and one plot each.
        variant: which work of that family.
        device: "cpu" or "cuda".
        dtype: of the tensors, as a name in torch.
        shapes: of the tensors to prune.
        data: what is in them, a name that workloads.py knows.
        amount: the share to prune.
        quick: belongs to the short run too.
        peak: on the CPU, measure the peak memory too.
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


def all_cases(device: str, dtype: str | None = None) -> list[Case]:
    """Every case for a device; with a dtype, every case in that dtype."""
    cases = list(_cases(device))
    if dtype is not None:
        cases = [replace(case, dtype=dtype) for case in cases if case.dtype in ("float32", dtype)]
    return list({case.name: case for case in cases}.values())


def _cases(device: str) -> Iterator[Case]:
    sizes = GPU_SIZES if device == "cuda" else SIZES
    yield from _selection(Case("local", "dense", device, peak=True), sizes)
    yield from _selection(Case("iterative", "half-pruned", device, peak=True), sizes)
    yield from _selection(Case("mask", "dense", device), sizes)
    yield from _by_size(Case("mask", "half-pruned", device), sizes)
    yield from _structured(device, sizes)
    yield from _by_size(Case("random", "unstructured", device), sizes[1:])
    yield from _by_size(Case("random", "structured-dim0", device), (SMALL, QUICK, LARGE))
    yield from _by_size(Case("custom", "dense", device), (SMALL, QUICK, CENTRE, LARGE))
    yield from _global(device)
    yield from _masked_mul(device, sizes)
    yield from _hooks(device)
    yield from _models(device)


def _by_size(centre: Case, sizes: Sequence[Shape]) -> Iterator[Case]:
    """The case at each size; the short run has a small and a middling one, and a large one where
    there is a GPU.
    """
    quick = {SMALL, QUICK} | ({LARGE} if centre.device == "cuda" else set())
    for shape in sizes:
        peak = centre.peak and shape in (CENTRE, LARGE)
        yield replace(centre, shapes=(shape,), quick=shape in quick, peak=peak)


def _selection(centre: Case, sizes: Sequence[Shape]) -> Iterator[Case]:
    """What selects among elements depends on all axes."""
    yield from _by_size(centre, sizes)
    centre = replace(centre, peak=False)
    yield from (replace(centre, dtype=dtype) for dtype in DTYPES[1:])
    yield from (replace(centre, amount=amount) for amount in (0.05, 0.95))
    yield from (replace(centre, data=data) for data in DATA[1:])


def _structured(device: str, sizes: Sequence[Shape]) -> Iterator[Case]:
    for variant in ("dim0", "last-dim"):
        centre = Case("structured", variant, device, peak=True)
        yield from _by_size(centre, sizes)
        centre = replace(centre, peak=False)
        yield from (replace(centre, dtype=dtype) for dtype in DTYPES[1:])
        yield from (replace(centre, amount=amount) for amount in (0.05, 0.95))
        yield replace(centre, variant=f"mask-{variant}", shapes=(LARGE,))


def _global(device: str) -> Iterator[Case]:
    many: tuple[Shape, ...] = 100 * (SMALL,)
    wide: tuple[Shape, ...] = 64 * ((512, 512),)
    for variant in ("dense", "half-pruned"):
        centre = Case("global", variant, device)
        yield replace(centre, shapes=many, quick=True)
        yield replace(centre, shapes=1000 * ((32, 32),))
        yield replace(centre, shapes=wide, peak=True)
    dense = Case("global", "dense", device, shapes=wide)
    yield from (replace(dense, amount=amount) for amount in (0.05, 0.95))
    yield replace(dense, dtype="bfloat16")
    yield replace(dense, data="channels")


def _masked_mul(device: str, sizes: Sequence[Shape]) -> Iterator[Case]:
    for variant in ("forward", "backward"):
        centre = Case("masked_mul", variant, device)
        yield from _by_size(centre, sizes)
        yield from (replace(centre, dtype=dtype) for dtype in DTYPES[1:])
    yield from _by_size(Case("masked_mul", "forward-bool-mask", device), (SMALL, QUICK, LARGE))


def _hooks(device: str) -> Iterator[Case]:
    for variant in ("hook", "layer"):
        yield Case("hook", variant, device, shapes=((64, 64),), quick=True)
        yield Case("hook", variant, device, shapes=(LARGE,))


def _models(device: str) -> Iterator[Case]:
    shapes = {
        "resnet50": models.resnet50(),
        "bert-base": models.bert_base(),
        "vit-b16": models.vit_b16(),
    }
    for scope in ("local", "global"):
        model = Case("model", f"minilm-{scope}", device, data="pretrained")
        quick, peak = scope == "global", scope == "global"
        yield replace(model, shapes=tuple(models.minilm_l6()), quick=quick, peak=peak)
        for name, layers in shapes.items():
            yield Case("model", f"{name}-{scope}", device, shapes=tuple(layers), data="layers")
        llama = Case("model", f"llama-1b-{scope}", device, "bfloat16", data="layers")
        yield replace(llama, shapes=tuple(models.llama_1b()))
