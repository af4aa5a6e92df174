"""PruningContainer: the methods applied to one tensor, one after another."""

from __future__ import annotations

from typing import Any

import torch.nn.utils.prune as upstream
from torch import Tensor

from .base import BasePruningMethod
from .lookup import KINDS
from .native import select_one


class PruningContainer(upstream.PruningContainer, BasePruningMethod):  # type: ignore[misc]
    """The methods applied to one tensor, in order.

    See :class:`torch.nn.utils.prune.PruningContainer`.
    The last one decides on what the earlier ones left active.

    >>> layer = nn.Linear(8, 4)
    >>> for amount in (0.5, 0.25):
    ...     layer = prune.l1_unstructured(layer, "weight", amount)
    >>> (container,) = layer._forward_pre_hooks.values()
    >>> type(container).__name__, [method.amount for method in container]
    ('PruningContainer', [0.5, 0.25])
    >>> layer.weight_mask.sum()  # half of 32, then a quarter of those 16
    tensor(12.)
    """

    def __init__(self, *methods: upstream.BasePruningMethod) -> None:
        self._pruning_methods: tuple[upstream.BasePruningMethod, ...] = ()
        if len(methods) == 1 and not hasattr(methods[0], "_tensor_name"):
            raise AttributeError(
                f"expected a pruning method with a tensor's name, got {type(methods[0]).__name__}"
            )
        for method in methods:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: upstream.BasePruningMethod | None) -> None:
        """Append a method.

        Raises:
            TypeError: it is no pruning method.
            ValueError: it prunes a tensor of another name.
        """
        if isinstance(method, KINDS):
            name = self.__dict__.setdefault("_tensor_name", method._tensor_name)
            if name == method._tensor_name:
                self._pruning_methods += (method,)
                return
        super().add_pruning_method(method)

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:  # type: ignore[override]
        """The mask of the last method on the active part of ``t``; the rest of ``default_mask``
        passes through.

        Active are, by the method's ``PRUNING_TYPE``: entries whose mask is 1 ('unstructured'),
        channels along ``method.dim`` with a mask entry that is not 0 ('structured'), or everything
        ('global').

        Returns:
            A mask of the shape and dtype of ``t``.
        """
        method: Any = self._pruning_methods[-1]
        selected = select_one(method, t, default_mask, None, True)
        if selected is None:
            result: Tensor = super().compute_mask(t, default_mask)
            return result
        return selected[0]


#: By their ids, the functions by which the last method of a container decides natively: ours, and
#: under :func:`~fastprune.patch` the one in upstream's class.
deciding: dict[int, Any] = {id(PruningContainer.compute_mask): PruningContainer.compute_mask}
