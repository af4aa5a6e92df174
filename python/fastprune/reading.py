"""Modules whose weights are read by their parent, so that their hook never fires.

``nn.MultiheadAttention`` reads ``out_proj.weight`` and never calls ``out_proj``. A hook's product
would stay the one of the day it was pruned: its graph is gone after the first backward, and
training does not change it. For these modules the product is computed where it is read, in a class
of the module's own that derives from its class. The hook stays, as ``remove`` and ``is_pruned``
look for it, and does nothing when it is called.
"""

from __future__ import annotations

import copyreg
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from .derived import derive, set_class, underlying
from .lookup import pruning_hooks

#: Modules that torch.nn makes for a parent that reads their weights.
READ_BY_PARENT = NonDynamicallyQuantizableLinear


class ReadsProducts(nn.Module):
    """Mixin of such modules: a pruned tensor is a product made whenever it is read."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Nothing of what the module's class does for classes that a user derives from it."""

    def __getattr__(self, name: str) -> Any:
        hook = _hook_of(self, name)
        if hook is not None:
            return hook.apply_mask(self)
        if _is_pruned(self, name):  # upstream takes the old hook away before it looks
            return getattr(self, name + "_mask") * getattr(self, name + "_orig")
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        # A product that upstream's `apply` sets before it registers the hook would be kept.
        if isinstance(value, nn.Parameter) or not _is_pruned(self, name) or _hook_of(self, name):
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__ or not _is_pruned(self, name):
            super().__delattr__(name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(max(2, protocol))
        function, arguments, *state = reduced
        kind, others = underlying(type(self)), arguments[1:]
        if function is copyreg.__newobj__:  # type: ignore[attr-defined]
            return _new, (kind, *others), *state
        return _make, (function, kind, *others), *state


def start_reading(module: nn.Module) -> None:
    """Compute the products of ``module`` where they are read, from now on."""
    if not isinstance(module, ReadsProducts):
        set_class(module, derive(ReadsProducts, type(module)))


def stop_reading(module: nn.Module, but: Any) -> None:
    """Give ``module`` its class back, if no hook but ``but`` prunes it."""
    if all(hook is but for _, hook in pruning_hooks(module)):
        set_class(module, underlying(type(module)))


def _hook_of(module: nn.Module, name: str) -> Any:
    found = (hook for _, hook in pruning_hooks(module) if hook._tensor_name == name)
    return next(found, None)


def _is_pruned(module: nn.Module, name: str) -> bool:
    attributes = module.__dict__
    orig, mask = name + "_orig", name + "_mask"
    return orig in attributes.get("_parameters", ()) and mask in attributes.get("_buffers", ())


def _new(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    """What pickle calls for a module of such a class, which it does not find by name."""
    derived = derive(ReadsProducts, kind)
    _allow((derived, f"{__name__}.{kind.__module__}.{kind.__qualname__}"))
    return derived.__new__(derived, *arguments)


def _allow(what: Any) -> None:
    """So that ``torch.load(weights_only=True)``, if it is told of ``kind``, takes this, too."""
    torch.serialization.add_safe_globals([what])


_allow(_new)


def _make(function: Any, kind: type[nn.Module], *arguments: Any) -> nn.Module:
    """The same where the class says how its objects are made."""
    module: nn.Module = function(derive(ReadsProducts, kind), *arguments)
    return module
