"""BasePruningMethod: how a method is applied, to a module or to a tensor.

It inherits from its counterpart in torch.nn.utils.prune, so that code that knows only that
(``remove``, ``is_pruned``, Lightning's callback) works on ours.
"""

from __future__ import annotations

from sys import modules
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from .apply import apply_method
from .dtensors import DTENSOR
from .hook import Hook
from .native import kind_of, select_one
from .rollback import transaction
from .sharded import explain, get_shards
from .untraced import untraced

#: Upstream's own, which under `patch` is not what upstream's class has.
_PRUNE: Any = upstream.BasePruningMethod.prune


class BasePruningMethod(Hook, upstream.BasePruningMethod):
    """Base class of pruning methods; see :class:`torch.nn.utils.prune.BasePruningMethod`.

    Subclasses define ``compute_mask(t, default_mask)`` and ``PRUNING_TYPE`` as they do upstream.
    A method that has only a score of its own is shorter, and faster, as an
    :class:`~fastprune.Unstructured` or :class:`~fastprune.Structured`.

    >>> class EverySecond(prune.BasePruningMethod):
    ...     PRUNING_TYPE = "unstructured"
    ...     def compute_mask(self, t, default_mask):
    ...         mask = default_mask.clone()
    ...         mask.view(-1)[::2] = 0
    ...         return mask
    >>> layer = nn.Linear(4, 2)
    >>> method = EverySecond.apply(layer, "weight")
    >>> layer.weight_mask
    tensor([[0., 1., 0., 1.],
            [0., 1., 0., 1.]])
    """

    @classmethod
    def apply(  # type: ignore[override]
        cls,
        module: nn.Module,
        name: str,
        *args: Any,
        importance_scores: Tensor | None = None,
        **kwargs: Any,
    ) -> BasePruningMethod:
        """Prune ``module.<name>`` and register the hook that keeps it pruned.

        A transaction: if anything fails, the module is as it was, an earlier hook included.

        >>> layer = nn.Linear(8, 4)
        >>> method = prune.L1Unstructured.apply(layer, "weight", amount=0.5)
        >>> type(method).__name__, layer.weight_mask.shape
        ('L1Unstructured', torch.Size([4, 8]))

        Args:
            module: holds the tensor to prune.
            name: of the parameter, on which earlier pruning is built upon.
            args: passed to the constructor.
            importance_scores: rank these instead of the parameter; of its shape.
            kwargs: passed to the constructor, but for ``replace``, which it gets only where it
                takes an argument of this name. ``replace=True`` replaces the newest method of the
                tensor: what only that pruned may return. The mask of before has to be known, as it
                is where the newest is the only one or was itself applied with ``replace=True``.

        Returns:
            The method, or the container that holds it and its predecessors.

        Raises:
            AttributeError: the module has nothing of that name.
            TypeError: what it has is no parameter.
            AssertionError: the scores' shape differs, or two hooks prune the same tensor.
            RuntimeError: the scores are on another device.
            NotImplementedError: entries of a DTensor cannot be selected; or to replace, where the
                tensor is pruned in place or spread over processes.
            ValueError: to replace, where the mask before the newest method is not known.
            RuntimeError: another process that the tensor is spread over failed.
        """
        if is_dynamo_compiling():
            return untraced(
                _apply, cls, module, name, *args, importance_scores=importance_scores, **kwargs
            )
        if "replace" in kwargs and issubclass(cls, BasePruningMethod):  # not under `patch`
            from .replacing import asks_to_replace, replaced  # which imports this file

            if asks_to_replace(cls, kwargs):
                with transaction(module), replaced([(module, name)]):
                    return _apply(
                        cls, module, name, *args, importance_scores=importance_scores, **kwargs
                    )
        exchange = None
        if DTENSOR in modules:
            get_shards([(module, name)], cls)
            kind = kind_of(cls)
            if kind is not None:
                from .spread import exchange_of

                exchange = exchange_of(kind, [(module, name)])
        if exchange is not None:
            with transaction(module), exchange.together():
                method = cls(*args, **kwargs)
                result: BasePruningMethod = apply_method(
                    method, module, name, importance_scores, exchange=exchange
                )
            return result
        method = cls(*args, **kwargs)
        with transaction(module):
            try:
                hook: BasePruningMethod = apply_method(method, module, name, importance_scores)
            except RuntimeError as error:
                explain(error, method, [(module, name)])
                raise
        return hook

    def prune(
        self,
        t: Tensor,
        default_mask: Tensor | None = None,
        importance_scores: Tensor | None = None,
    ) -> Tensor:
        """``t`` times its mask, without a module.

        >>> prune.L1Unstructured(amount=2).prune(torch.tensor([3.0, 1.0, 2.0, -4.0]))
        tensor([ 3.,  0.,  0., -4.])

        Args:
            t: the tensor to prune, of any shape.
            default_mask: the mask to build upon, of the shape of ``t``; default: ones.
            importance_scores: rank these instead of ``t``; of its shape.

        Returns:
            A tensor of the shape of ``t``.

        Raises:
            AssertionError: ``importance_scores`` has another shape than ``t``.
            TypeError: ``t`` is no tensor, and no mask is given.
        """
        if not isinstance(t, Tensor):
            product: Tensor = _PRUNE(self, t, default_mask, importance_scores)
            return product
        scores = t if importance_scores is None else importance_scores
        if scores.shape != t.shape:
            raise AssertionError(
                "importance_scores should have the same shape as tensor t, "
                f"got {scores.shape} vs {t.shape}"
            )
        if default_mask is None or default_mask.dtype == t.dtype:
            selected = select_one(self, scores, default_mask, t, False)
            if selected is not None and selected[1] is not None:
                return selected[1]
            if selected is not None:
                return t * selected[0]
        if default_mask is None:
            default_mask = torch.ones_like(t)
        return t * self.compute_mask(scores, default_mask=default_mask)


_apply: Any = vars(BasePruningMethod)["apply"].__func__
