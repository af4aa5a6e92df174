"""Where a module keeps a pruned tensor, past ``Module.__getattr__`` and ``__setattr__``.

Each of these takes about as long as the product of a small layer, and both run in every forward.
They are skipped only where a module's class has not put its own in their place, as RNNs do to keep
their flat weights in order, and fx while it traces.
"""

from __future__ import annotations

from torch import Tensor, nn

_GETATTR = nn.Module.__getattr__
_SETATTR = nn.Module.__setattr__


def has_own_setattr(module: nn.Module) -> bool:
    """Whether the module's class does more with an attribute than to keep it."""
    return type(module).__setattr__ is not _SETATTR


def original(module: nn.Module, name: str) -> Tensor:
    """``module.<name>_orig``."""
    if type(module).__getattr__ is _GETATTR:
        orig = module._parameters.get(name + "_orig")
        if orig is not None:
            return orig
    result: Tensor = getattr(module, name + "_orig")
    return result


def mask_of(module: nn.Module, name: str) -> Tensor:
    """``module.<name>_mask``."""
    if type(module).__getattr__ is _GETATTR:
        mask = module._buffers.get(name + "_mask")
        if mask is not None:
            return mask
    result: Tensor = getattr(module, name + "_mask")
    return result


def store(module: nn.Module, name: str, product: Tensor, *, was_parameter: bool = False) -> None:
    """``module.<name> = product``.

    What is in the module's dict already, or was its parameter a moment ago, cannot be a buffer, a
    submodule or a property of its class, which ``__setattr__`` would have to look for.
    """
    attributes = module.__dict__
    if type(module).__setattr__ is _SETATTR and (was_parameter or name in attributes):
        attributes[name] = product
    else:
        setattr(module, name, product)
