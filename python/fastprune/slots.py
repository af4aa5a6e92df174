"""Where a module keeps a pruned tensor, past ``Module.__getattr__`` and ``__setattr__``.

Each of these takes about as long as the product of a small layer, and both run in every forward.
They are skipped only where a module's class has not put its own in their place, as RNNs do to keep
their flat weights in order, and fx while it traces, and where no attribute hides what they find.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .reading import ReadsProducts

_GETATTR = nn.Module.__getattr__
_SETATTR = nn.Module.__setattr__


def has_own_setattr(module: nn.Module) -> bool:
    """Whether the module's class does more with an attribute than to keep it."""
    return type(module).__setattr__ is not _SETATTR


def original_and_mask(module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """``module.<name>_orig`` and ``module.<name>_mask``."""
    kind: Any = type(module)
    orig_name, mask_name = name + "_orig", name + "_mask"
    attributes = module.__dict__
    if (
        getattr(kind, "__getattr__", None) is _GETATTR
        and kind.__getattribute__ is object.__getattribute__
        and orig_name not in attributes
        and mask_name not in attributes
    ):
        orig = module._parameters.get(orig_name)
        mask = module._buffers.get(mask_name)
        if orig is not None and mask is not None:
            return orig, mask
    return getattr(module, orig_name), getattr(module, mask_name)


def store(module: nn.Module, name: str, product: Tensor, *, was_parameter: bool = False) -> None:
    """``module.<name> = product``.

    ``__setattr__`` looks for a parameter, buffer or submodule of that name, and for a property of
    the class. There is none where the module's dict has the name already, or where it was a
    parameter a moment ago, as registering that would have failed. But FSDP1 writes a parameter
    past all that.
    """
    attributes = module.__dict__
    if (
        type(module).__setattr__ is _SETATTR
        and (was_parameter or name in attributes)
        and name not in module._parameters
    ):
        attributes[name] = product
    elif not isinstance(module, ReadsProducts):  # which makes its product where it is read
        setattr(module, name, product)
