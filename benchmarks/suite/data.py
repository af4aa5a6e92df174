"""What is in the tensors of a case."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from suite import models
from suite.cases import Case

SEED = 20


def make_data(case: Case) -> list[Tensor]:
    """The tensors of a case: the same in every run on the same kind of device."""
    dtype: torch.dtype = getattr(torch, case.dtype)
    if case.data == "pretrained" and case.family == "model":
        return [weight.to(case.device, dtype) for weight in models.load_minilm()]
    generator = torch.Generator(case.device).manual_seed(SEED)
    make = functools.partial(_MAKERS[case.data], dtype=dtype, generator=generator)
    return [make(shape) for shape in case.shapes]


def _normal(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device=generator.device, generator=generator)


def _uniform(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, dtype=dtype, device=generator.device, generator=generator)


def _sorted(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal, from the lowest to the highest."""
    return _normal(shape, dtype, generator).flatten().sort().values.view(tuple(shape))


def _equal(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.full(tuple(shape), 0.5, dtype=dtype, device=generator.device)


def _zeros99(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """99% zeros, the rest normal."""
    rare = _uniform(shape, torch.float32, generator) < 0.01
    return _normal(shape, dtype, generator) * rare


def _few(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Eight distinct values."""
    eighths = torch.randint(1, 9, tuple(shape), device=generator.device, generator=generator)
    return (eighths / 8).to(dtype)


def _channels(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal, with a scale of its own for each row, from 10^-3 to 10^3."""
    exponents = _uniform((shape[0], *[1] * (len(shape) - 1)), torch.float32, generator) * 6 - 3
    return (_normal(shape, dtype, generator) * 10**exponents).to(dtype)


def _layers(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal, with the scale that a layer is initialised with: one over the root of its inputs."""
    inputs = int(np.prod(shape[1:]))
    return _normal(shape, dtype, generator).mul_(inputs**-0.5)


_MAKERS: dict[str, Callable[..., Tensor]] = {
    "normal": _normal,
    "uniform": _uniform,
    "sorted": _sorted,
    "equal": _equal,
    "zeros99": _zeros99,
    "few": _few,
    "channels": _channels,
    "layers": _layers,
    "pretrained": _layers,  # in the shape of another family
}


def half_mask(weight: Tensor) -> Tensor:
    """A mask without the smaller half of the entries, about; among equals a coin decides."""
    magnitude = weight.abs()
    sample = magnitude.flatten()[:: max(weight.numel() >> 16, 1)]
    middle = sample.float().median().to(weight.dtype)
    coin = torch.empty_like(weight).bernoulli_(0.5) == 1
    return ((magnitude > middle) | ((magnitude == middle) & coin)).to(weight.dtype)
