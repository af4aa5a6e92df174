"""When the native operators are taken: methods of ours, on plain tensors.

Everything else goes the way of torch.nn.utils.prune, whose result is the one that is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor
from torch.compiler import is_compiling

from . import _C

_F = TypeVar("_F", bound=Callable[..., Any])

#: By the function itself: an attribute of it would be copied to what wraps it.
_native_types: dict[Any, str] = {}


def native(pruning_type: str) -> Callable[[_F], _F]:
    """Marks a ``compute_mask`` that takes two things more than upstream's.

    ``default_mask=None`` stands for ones; ``active_only=True`` ranks only what that mask left
    active by ``pruning_type``, which is what a :class:`PruningContainer` asks for.
    """

    def mark(compute_mask: _F) -> _F:
        _native_types[compute_mask] = pruning_type
        return compute_mask

    return mark


def is_native(method: Any) -> bool:
    """Whether ``compute_mask`` is one of ours, means what ``PRUNING_TYPE`` says, and is not traced.

    A subclass, another library or a mock may have replaced either.
    """
    kind = _native_types.get(getattr(method.compute_mask, "__func__", None))
    return kind is not None and kind == method.PRUNING_TYPE and not is_compiling()


def are_plain(masks: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> bool:
    """Whether the operators take old masks and tensors as they are; see :func:`_C.is_plain`."""
    pairs = zip(masks, tensors, strict=True)
    return not is_compiling() and all(_C.is_plain(mask, t) for mask, t in pairs)
