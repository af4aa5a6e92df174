"""The forward pre-hook that keeps a tensor pruned."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.compiler import is_compiling

from . import _C, fsdp2
from .copying import copy_method, forget_module, homes, remember_module
from .fsdp2 import MANAGED
from .lookup import SHARDS, OwnHook, methods_of
from .quantized import is_converted
from .reading import ReadsProducts, stop_reading
from .refreshing import stop_refreshing
from .sharded import on_other_mesh, remove
from .slots import has_own_setattr, original_and_mask, store

#: Upstream's own, which under `patch` is not what upstream's class has.
_REMOVE: Any = upstream.BasePruningMethod.remove


class Hook(OwnHook):
    """What a method does once it is attached to a module; part of every pruning method."""

    _tensor_name: str

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Forward pre-hook: refresh ``module.<name>`` from ``<name>_orig`` and ``<name>_mask``."""
        try:
            if MANAGED in module.__dict__ and _is_shard(self, module):
                return
            if is_compiling():  # what upstream does, and nothing else that dynamo would guard on
                if not isinstance(module, ReadsProducts):
                    setattr(module, self._tensor_name, self.apply_mask(module))
                return
            if id(self) not in homes and isinstance(module, nn.Module):  # copied, or from a file
                remember_module(self, module, module._parameters.get(self._tensor_name + "_orig"))
            name = self._tensor_name
            product = None
            if applies_as_ours(self):
                # A `__setattr__` of the module's own may keep the last product, or refuse this one.
                last = () if has_own_setattr(module) else (module.__dict__, name)
                product = _C.product_if_plain(*original_and_mask(module, name), *last)
            store(module, name, self.apply_mask(module) if product is None else product)
        except AttributeError:
            if not is_converted(module, self._tensor_name):
                raise

    def apply_mask(self, module: nn.Module) -> Tensor:
        """``<name>_orig`` times ``<name>_mask``, with the gradient of the former.

        Returns:
            A tensor of the shape and dtype of ``<name>_orig``.

        Raises:
            AttributeError: the method has not been applied to a tensor.
        """
        if not is_compiling():
            name = getattr(self, "_tensor_name", None)
            if name is None:
                kind = AssertionError if hasattr(self, "_tensor_name") else AttributeError
                raise kind(f"Module {module} has to be pruned")
            masked = module.__dict__.get(SHARDS, {}).get(name)
            if masked is not None:  # under FSDP2
                result: Tensor = masked.product(module)
                return result
            product = _C.product_if_plain(*original_and_mask(module, name))
            if product is not None:
                return product
        mask: Tensor = getattr(module, self._tensor_name + "_mask")
        orig: Tensor = getattr(module, self._tensor_name + "_orig")
        if not is_compiling() and on_other_mesh(mask, orig):  # a whole mask and an FSDP2 shard
            mask, orig = fsdp2.shards(mask, module, self._tensor_name)
        pruned_tensor = mask.to(dtype=orig.dtype) * orig  # fx names the node after this variable
        return pruned_tensor

    def remove(self, module: nn.Module) -> None:
        """Make ``<name>`` a parameter again, pruned for good; the hook is the caller's to remove.

        As :meth:`torch.nn.utils.prune.BasePruningMethod.remove`; also where the parameter is a
        DTensor or under ``fully_shard``.

        Args:
            module: whose hook this is.

        Raises:
            AttributeError: the method has not been applied to a tensor.
        """
        if not remove(self, module):
            _REMOVE(self, module)
        if isinstance(module, ReadsProducts):
            stop_reading(module, self)
        stop_refreshing(module, self)
        for method in (self, *methods_of(self)):
            forget_module(method)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return copy_method(self, memo)


def _is_shard(hook: Any, module: nn.Module) -> bool:
    """Whether FSDP2 manages what the hook prunes; if so, the product is in place."""
    from . import shard_masks

    if is_compiling() and SHARDS not in module.__dict__:
        return False
    name = hook._tensor_name
    masked = shard_masks.find(module, name)
    if masked is None:
        return False
    if not isinstance(module, ReadsProducts):
        setattr(module, name, masked.product(module))
    return True


def applies_as_ours(hook: Any) -> bool:
    """Whether ``apply_mask`` is ours, so that it need not be asked for the product."""
    return type(hook).apply_mask is Hook.apply_mask and "apply_mask" not in hook.__dict__


def detached_product(hook: Any, module: nn.Module) -> Tensor:
    """The pruned tensor as a forward would make it now, detached, in memory of its own."""
    with torch.no_grad():
        product: Tensor = hook.apply_mask(module).detach()
    return product if applies_as_ours(hook) else product.clone()  # it may be the original
