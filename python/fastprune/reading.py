"""Modules whose weights are read by their parent, so that their hook never fires.

``nn.MultiheadAttention`` reads ``out_proj.weight`` and never calls ``out_proj``. A hook's product
would stay the one of the day it was pruned: its graph is gone after the first backward, and
training does not change it. For these modules the product is computed where it is read, in a class
of the module's own that derives from its class. The hook stays, as ``remove`` and ``is_pruned``
look for it, and does nothing when it is called.
"""

from __future__ import annotations

from typing import Any

import torch.nn.utils.prune as upstream
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from .derived import derive, underlying

#: Modules that torch.nn makes for a parent that reads their weights.
READ_BY_PARENT = NonDynamicallyQuantizableLinear


class ReadsProducts(nn.Module):
    """Mixin of such modules: a pruned tensor is a product made whenever it is read."""

    def __getattr__(self, name: str) -> Any:
        for hook in self._forward_pre_hooks.values():
            if isinstance(hook, upstream.BasePruningMethod) and hook._tensor_name == name:
                return hook.apply_mask(self)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """As ever. That the class has its own keeps `store` from writing past it."""
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__ or not _is_pruned(self, name):
            super().__delattr__(name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(max(2, protocol))
        function, arguments, *state = reduced
        return _make, (function, underlying(self), *arguments[1:]), *state


def start_reading(module: nn.Module) -> None:
    """Compute the products of ``module`` where they are read, from now on."""
    if not isinstance(module, ReadsProducts):
        module.__class__ = derive(ReadsProducts, type(module))


def stop_reading(module: nn.Module, but: Any) -> None:
    """Give ``module`` its class back, if no hook but ``but`` prunes it."""
    hooks = module._forward_pre_hooks.values()
    if not any(isinstance(h, upstream.BasePruningMethod) and h is not but for h in hooks):
        module.__class__ = underlying(module)


def _is_pruned(module: nn.Module, name: str) -> bool:
    return name + "_orig" in module._parameters and name + "_mask" in module._buffers


def _make(function: Any, kind: type[nn.Module], *arguments: Any) -> nn.Module:
    """What pickle calls for a module of such a class, which it does not find by name."""
    module: nn.Module = function(derive(ReadsProducts, kind), *arguments)
    return module
