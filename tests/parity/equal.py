"""Whether two results are equal: kind, shape, dtype, flags, graph and each bit of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def difference(ours: Any, theirs: Any, at: str = "result") -> str | None:
    """Where two results first differ; None if nowhere."""
    if isinstance(theirs, Tensor):
        return _tensor_difference(ours, theirs, at)
    if type(ours) is not type(theirs):
        return f"{at}: {type(ours).__name__}, expected {type(theirs).__name__}"
    if isinstance(theirs, Mapping):
        if list(ours) != list(theirs):
            return f"{at}: keys {list(ours)}, expected {list(theirs)}"
        pairs = [(ours[key], theirs[key], f"{at}[{key!r}]") for key in theirs]
    elif isinstance(theirs, (list, tuple)):
        if len(ours) != len(theirs):
            return f"{at}: length {len(ours)}, expected {len(theirs)}"
        pairs = [(a, b, f"{at}[{i}]") for i, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    else:
        return None if ours == theirs else f"{at}: {ours!r}, expected {theirs!r}"
    return next((found for pair in pairs if (found := difference(*pair)) is not None), None)


def _tensor_difference(ours: Any, theirs: Tensor, at: str) -> str | None:
    for what in ("__class__", "shape", "dtype", "layout", "device", "requires_grad", "is_leaf"):
        a, b = getattr(ours, what, None), getattr(theirs, what)
        if a != b:
            return f"{at}: {what} {a}, expected {b}"
    # Where torch.compile breaks its graphs is its own affair.
    if nodes(ours) != nodes(theirs) and "CompiledFunctionBackward" not in nodes(theirs):
        return f"{at}: grad_fn {nodes(ours)}, expected {nodes(theirs)}"
    if theirs.is_meta:
        return None
    return None if torch.equal(_bits(ours), _bits(theirs)) else f"{at}: other values"


def nodes(t: Tensor) -> list[str]:
    """The type of a tensor's grad_fn, and of those that it passes gradients on to."""
    node: Any = t.grad_fn
    if node is None:
        return []
    return [
        type(node).__name__,
        *(type(following).__name__ for following, _ in node.next_functions),
    ]


def _bits(t: Tensor) -> Tensor:
    """The bytes of a tensor's values in logical order."""
    t = t.detach()
    if hasattr(t, "full_tensor"):  # DTensor
        t = t.full_tensor().clone()  # waits, if it is on its way
    if is_traceable_wrapper_subclass(t):
        names, _ = t.__tensor_flatten__()
        return torch.cat([_bits(getattr(t, name)) for name in names])
    if t.layout != torch.strided:
        t = t.to_dense()
    t = t.as_subclass(Tensor).resolve_conj().resolve_neg().contiguous()
    return t.reshape(-1).view(torch.uint8)
