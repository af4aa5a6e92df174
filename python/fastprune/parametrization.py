"""Pruning by ``torch.nn.utils.parametrize``: the product is computed where the tensor is read."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, TypeVar

import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import masking
from .apply import check_scores, decides, select, stack
from .hook import applies_as_ours
from .lookup import is_in_place
from .native import ranks_original
from .ops import masked_mul
from .superseded import is_unsaid, keep_before, note_said

__all__ = ["parametrized"]

_Module = TypeVar("_Module", bound=nn.Module)


class Masked(nn.Module):
    """The parametrization: a tensor times ``mask``, which ``method`` made."""

    mask: Tensor

    def __init__(self, method: upstream.BasePruningMethod, mask: Tensor) -> None:
        super().__init__()
        #: None while its only method is replaced.
        self.method: Any = method
        self.register_buffer("mask", mask)

    def forward(self, original: Tensor) -> Tensor:
        if self.method is None or applies_as_ours(self.method):
            return masked_mul(original, self.mask)
        name = self.method._tensor_name
        module: Any = SimpleNamespace(**{name + "_orig": original, name + "_mask": self.mask})
        result: Tensor = self.method.apply_mask(module)
        return result

    def right_inverse(self, value: Tensor) -> Tensor:
        return value

    def extra_repr(self) -> str:
        return type(self.method).__name__


def parametrized(
    module: _Module,
    name: str,
    method: upstream.BasePruningMethod,
    importance_scores: Tensor | None = None,
) -> _Module:
    """Prune ``module.<name>`` by a parametrization instead of a hook.

    For modules whose hook would not fire, or where other parametrizations are in use; see
    :func:`torch.nn.utils.parametrize.register_parametrization`. The mask is the one that
    ``method`` makes elsewhere. What was pruned so before is built upon, in a
    :class:`PruningContainer`. :func:`remove` and :func:`is_pruned` know it, and so does
    :func:`torch.nn.utils.parametrize.cached`.

    >>> m = prune.parametrized(nn.Linear(8, 4), "weight", prune.L1Unstructured(amount=0.5))
    >>> list(m.state_dict())
    ['bias', 'parametrizations.weight.original', 'parametrizations.weight.0.mask']

    Args:
        module: holds the tensor to prune.
        name: of a parameter, of any shape, or of a parametrized tensor.
        method: an instance of a pruning method, ours or any other; a copy of it is kept.
        importance_scores: rank these instead of the tensor; of its shape.

    Returns:
        The module; the mask has the shape and dtype of the tensor.

    Raises:
        AttributeError: the module has nothing of that name.
        TypeError: what it has is no parameter; or a hook prunes it; or ``method`` is no instance
            of a pruning method.
        AssertionError, RuntimeError, ValueError: as the method raises them in ``apply``.
    """
    if not isinstance(method, upstream.BasePruningMethod):
        raise TypeError(f"expected method to be an instance of BasePruningMethod, got {method!r}")
    if name + "_orig" in module._parameters:
        raise TypeError(f"{name} of {module} is pruned by a hook, expected it to be removed first")
    if is_in_place(module, name):
        raise TypeError(f"{name} of {module} is pruned in place, expected it to be removed first")
    if not parametrize.is_parametrized(module, name):
        tensor = getattr(module, name)
        if not isinstance(tensor, nn.Parameter):
            raise TypeError(
                f"expected {name} of {module} to be a Parameter, got {type(tensor).__name__}"
            )
    add_method(copy.copy(method), module, name, importance_scores)
    return module


def add_method(
    method: Any,
    module: nn.Module,
    name: str,
    importance_scores: Tensor | None = None,
    selected: tuple[Tensor, Tensor | None] | None = None,
) -> Any:
    """What ``apply_method`` does where the mask belongs to a parametrization; all or nothing."""
    value: Tensor = getattr(module, name)
    if importance_scores is not None:
        check_scores(module, name, importance_scores, value)
    method._tensor_name = name
    masked = find_masked(module, name)
    hook, ours, mask = method, True, None
    if masked is not None and masked.method is not None:
        mask = masked.mask.detach()
        if is_unsaid(masked.method, masked.mask):
            keep_before(method, mask)
        hook = stack(copy.copy(masked.method), method)
        ours = decides(hook)
    if selected is None:
        scores = importance_scores
        if scores is None:
            scores = original_of(module, name) if ranks_original(method) else value
        t = value.detach()
        ranked = method if ours else None
        selected = select(hook, ranked, scores, mask, t, t, repeated=mask is not None)
    if masked is None:
        masked = Masked(hook, selected[0])
        parametrize.register_parametrization(module, name, masked)
    else:
        masked.method, masked.mask = hook, selected[0]
    note_said(hook, masked.mask)
    return hook


def masks_in(module: nn.Module) -> list[Masked]:
    """The parametrizations that prune tensors of ``module``."""
    if not parametrize.is_parametrized(module):
        return []
    chains: Any = module._modules["parametrizations"]
    return [p for chain in chains.values() for p in chain if isinstance(p, Masked)]


def names_masked(module: nn.Module) -> list[str]:
    """The tensors of ``module`` that a parametrization prunes."""
    if not masks_in(module):
        return []
    chains: Any = module._modules["parametrizations"]
    return [name for name in chains if find_masked(module, name) is not None]


def is_alone(module: nn.Module, name: str) -> bool:
    """Whether the mask is the only parametrization of ``module.<name>``."""
    chain: Any = module.parametrizations[name]  # type: ignore[index]
    return len(chain) == 1


def mask_of(module: nn.Module, name: str) -> Tensor | None:
    """The mask of ``module.<name>``, whatever keeps it pruned."""
    if is_in_place(module, name):
        return masking.mask_of(module, name)
    masked = find_masked(module, name)
    mask: Tensor | None = getattr(module, name + "_mask", None) if masked is None else masked.mask
    return mask


def find_masked(module: nn.Module, name: str) -> Masked | None:
    """The parametrization that prunes ``module.<name>``."""
    if not parametrize.is_parametrized(module, name):
        return None
    found = [p for p in module.parametrizations[name] if isinstance(p, Masked)]  # type: ignore[index, union-attr]
    return found[0] if found else None


def original_of(module: nn.Module, name: str) -> Tensor:
    """What a mask of ``module.<name>`` is multiplied with; a parameter, where that is one."""
    if not parametrize.is_parametrized(module, name):
        tensor: Tensor | None = getattr(module, name + "_orig", None)
        return getattr(module, name) if tensor is None else tensor
    chain: Any = module.parametrizations[name]  # type: ignore[index]
    if isinstance(chain[0], Masked):
        original: Tensor = chain.original
        return original
    value: Tensor = getattr(module, name)
    return value


def remove_masked(module: nn.Module, name: str) -> None:
    """Make ``module.<name>`` a plain tensor again, pruned for good."""
    chain: Any = module.parametrizations[name]  # type: ignore[index]
    if not is_alone(module, name):
        raise RuntimeError(
            f"{name} of {module} has other parametrizations than its mask, "
            f"{[type(p).__name__ for p in chain if not isinstance(p, Masked)]}; "
            "torch.nn.utils.parametrize.remove_parametrizations removes all of them"
        )
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
