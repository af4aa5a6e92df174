"""The inputs of the operator tests: values, layouts, masks, sizes, amounts."""

from collections.abc import Callable

import torch
from torch import Tensor

from support.compare import INTEGER_OF_WIDTH

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
MASK_DTYPES = [*FLOATS, torch.bool, torch.uint8]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64]
PRIME = 10007
SIZES = [0, 1, 2, 31, 32, 33, 1023, 1024, 1025, PRIME]
SHAPE = (7, 8, 3, 5)  # four dims, as channels_last needs

Kind = Callable[[int, torch.dtype], Tensor]


def _with(n: int, dtype: torch.dtype, special: list[float]) -> Tensor:
    """Normal values, one tenth of them replaced by the special ones."""
    replacement = torch.tensor(special)[torch.randint(len(special), (n,))]
    return torch.where(torch.rand(n) < 0.1, replacement, torch.randn(n)).to(dtype)


def _denormals(n: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(n, dtype=torch.float64) * torch.finfo(dtype).smallest_normal / 4).to(dtype)


def _any_bits(n: int, dtype: torch.dtype) -> Tensor:
    raw = torch.randint(-(1 << 63), (1 << 63) - 1, (n,), dtype=torch.int64)
    return raw.to(INTEGER_OF_WIDTH[dtype.itemsize]).view(dtype)


KINDS: dict[str, Kind] = {
    "normal": lambda n, dtype: torch.randn(n).to(dtype),
    "uniform": lambda n, dtype: torch.rand(n).to(dtype),
    "all_equal": lambda n, dtype: torch.full((n,), -0.375, dtype=dtype),
    "two_values": lambda n, dtype: torch.tensor([0.25, -0.75])[torch.randint(2, (n,))].to(dtype),
    "mostly_zeros": lambda n, dtype: (torch.randn(n) * (torch.rand(n) < 0.01)).to(dtype),
    "sorted": lambda n, dtype: torch.linspace(0, 3, n).to(dtype),
    "reversed": lambda n, dtype: torch.linspace(3, 0, n).to(dtype),
    "scaled": lambda n, dtype: (torch.randn(n) * torch.logspace(-3, 3, n)).to(dtype),
    "nan": lambda n, dtype: _with(n, dtype, [float("nan"), -float("nan")]),
    "inf": lambda n, dtype: _with(n, dtype, [float("inf"), -float("inf")]),
    "all_nan": lambda n, dtype: torch.full((n,), float("nan"), dtype=dtype),
    "zeros_of_both_signs": lambda n, dtype: _with(n, dtype, [0.0]) * _with(n, dtype, [-0.0, 0.0]),
    "denormals": _denormals,
    "any_bits": _any_bits,
}


def values(kind: str, shape: int | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Contiguous values of a kind, drawn from the global generator."""
    shape = (shape,) if isinstance(shape, int) else shape
    return KINDS[kind](int(torch.Size(shape).numel()), dtype).view(shape)


def _sliced(t: Tensor) -> Tensor:
    wide = t.new_empty((*t.shape[:-1], 2 * t.shape[-1]))
    view = wide[..., ::2]
    view.copy_(t)
    return view


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": _sliced,
    "sliced_transposed": lambda t: _sliced(t.transpose(0, -1)).transpose(0, -1),
    "offset": lambda t: torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(t.shape),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "expanded": lambda t: t[:1].expand_as(t),  # repeats the first row
}
DENSE = ["contiguous", "transposed", "offset", "channels_last"]

MASKS: dict[str, Callable[[int], Tensor]] = {
    "ones": lambda n: torch.ones(n),
    "zeros": lambda n: torch.zeros(n),
    "random": lambda n: (torch.rand(n) < 0.7).float(),
    "sparse": lambda n: (torch.rand(n) < 0.02).float(),
    "non_binary": lambda n: torch.tensor([0.0, 1.0, 1.0, 2.0, 3.0])[torch.randint(5, (n,))],
    "fractions": lambda n: torch.tensor([-0.0, 0.5, 1.0, -1.0, 1e-3])[torch.randint(5, (n,))],
}


def mask(kind: str, shape: int | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous mask of a kind. Kinds with fractions are for floating-point masks."""
    shape = (shape,) if isinstance(shape, int) else shape
    flat = MASKS[kind](int(torch.Size(shape).numel()))
    return (flat != 0 if dtype == torch.bool else flat.to(dtype)).view(shape)


def amounts(active: int) -> list[float]:
    """Counts and fractions, both ends included."""
    counts = {0, min(1, active), max(0, active - 1), active}
    return [*sorted(counts), 0.0, 1e-4, 0.3, 0.5, 1.0]


def name(value: object) -> str:
    """Test ids: 'float16' rather than 'dtype3'."""
    return str(value).removeprefix("torch.")
