"""What is measured on data before pruning: norms of the inputs of layers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["input_norms"]

#: Rows of an input that are widened at a time: no copy of a whole input in float32.
_ROWS = 1024


@contextmanager
def input_norms(modules: nn.Module | Iterable[nn.Module]) -> Iterator[Mapping[nn.Module, Tensor]]:
    """Collect the norm of each input feature of layers that are called inside the context.

    The norms are the factor of Wanda (Sun et al., arXiv:2306.11695): of a feature x of n sequences
    √(Σx²/n). As there, n counts what the first dim of an input counts, and an input of two dims is
    one sequence. Of a convolution a feature is what one entry of its kernel is multiplied with.

    >>> layer = nn.Linear(8, 4)
    >>> with prune.input_norms([layer]) as norms:
    ...     y = layer(torch.randn(2, 5, 8))
    >>> norms[layer].shape
    torch.Size([1, 8])
    >>> m = prune.row_unstructured(layer, "weight", 0.5, factor=norms[layer])

    Args:
        modules: :class:`~torch.nn.Linear`, :class:`~torch.nn.Conv1d`, :class:`~torch.nn.Conv2d`
            and ``transformers``' ``Conv1D``; of a single module those among its modules. A layer
            whose weight is used without calling it, as attention does with ``out_proj``, is not
            seen.

    Returns:
        A mapping from each layer that was called to a tensor that broadcasts to its weight:
        float32, or float64 for inputs of float64; on the device of the inputs. It follows calls
        inside the context, and stays as it is afterwards.

    Raises:
        TypeError: one of the modules is of another kind.
    """
    if isinstance(modules, nn.Module):
        modules = [m for m in modules.modules() if _kind(m) is not None]
    norms = _InputNorms()
    handles = []
    try:
        for module in dict.fromkeys(modules):
            kind = _kind(module)
            if kind is None:
                raise TypeError(
                    "expected modules to be Linear, Conv1d, Conv2d or transformers' Conv1D, got "
                    f"{type(module).__name__}"
                )
            handles.append(module.register_forward_pre_hook(norms.hook(kind), with_kwargs=True))
        yield norms
    finally:
        for handle in handles:
            handle.remove()


class _InputNorms(Mapping[nn.Module, Tensor]):
    def __init__(self) -> None:
        #: Of each layer the sums of squares, in the shape of the factor, and n.
        self._sums: dict[nn.Module, tuple[Tensor, int]] = {}

    def __getitem__(self, module: nn.Module) -> Tensor:
        squares, count = self._sums[module]
        return (squares / count).sqrt()

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def hook(self, kind: Any) -> Any:
        @torch.no_grad()
        def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["x" if kind is _sums_of_conv1d_layer else "input"]
            squares, count = kind(module, x.detach())
            if module in self._sums:
                before, counted = self._sums[module]
                squares, count = before + squares, counted + count
            self._sums[module] = squares, count

        return add


def _kind(module: nn.Module) -> Any:
    """The function that sums over an input of the module; None if it is of no known kind."""
    transformers = sys.modules.get("transformers.pytorch_utils")
    if transformers is not None and isinstance(module, transformers.Conv1D):
        return _sums_of_conv1d_layer
    if isinstance(module, nn.Linear):
        return _sums_of_linear
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return _sums_of_convolution
    return None


def _sums_of_linear(module: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    squares = sum(
        (_wide(part).square().sum(0) for part in x.reshape(-1, x.shape[-1]).split(_ROWS)),
        start=_wide(x.new_zeros(x.shape[-1])),
    )
    return squares.unsqueeze(0), x.shape[0] if x.dim() > 2 else 1


def _sums_of_conv1d_layer(module: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """Of transformers' Conv1D: a Linear layer whose weight is [inputs, outputs]."""
    squares, count = _sums_of_linear(module, x)
    return squares.T, count


def _sums_of_convolution(module: Any, x: Tensor) -> tuple[Tensor, int]:
    kernel: tuple[int, ...] = module.kernel_size
    if x.dim() == len(kernel) + 1:
        x = x.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = nn.functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    squares = _wide(x.new_zeros(x.shape[1], *kernel))
    for offset in product(*(range(size) for size in kernel)):
        places: list[slice] = []
        for d, at in enumerate(offset):
            first = at * module.dilation[d]
            span = (kernel[d] - 1) * module.dilation[d]
            places.append(slice(first, x.shape[2 + d] - span + first, module.stride[d]))
        at_offset: tuple[slice | int, ...] = (slice(None), *offset)
        for sequence in x[(slice(None), slice(None), *places)]:
            squares[at_offset] += _wide(sequence).square().flatten(1).sum(1)
    shape = (module.groups, 1, module.in_channels // module.groups, *kernel)
    per_group = module.out_channels // module.groups if module.groups > 1 else 1
    return squares.view(shape).expand(-1, per_group, *shape[2:]).flatten(0, 1), x.shape[0]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
