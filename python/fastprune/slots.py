"""Where a module keeps a pruned tensor, past ``Module.__getattr__`` and ``__setattr__``.

Each of these takes about as long as the product of a small layer, and both run in every forward.
They are skipped only where a module's class has not put its own in their place, as RNNs do to keep
their flat weights in order, and fx while it traces, and where no attribute hides what they find.
So it goes for ``register_parameter`` and ``register_buffer``, which spend most of their time on an
error that says that the name is free.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .reading import ReadsProducts

_GETATTR = nn.Module.__getattr__
_SETATTR = nn.Module.__setattr__
_REGISTER_PARAMETER = nn.Module.register_parameter
_REGISTER_BUFFER = nn.Module.register_buffer
#: Called with every new parameter and buffer; None where this torch has another name for them.
_PARAMETER_HOOKS: Any = getattr(torch_module, "_global_parameter_registration_hooks", None)
_BUFFER_HOOKS: Any = getattr(torch_module, "_global_buffer_registration_hooks", None)


def has_own_setattr(module: nn.Module) -> bool:
    """Whether the module's class does more with an attribute than to keep it."""
    return type(module).__setattr__ is not _SETATTR


def _is_free(module: nn.Module, name: str) -> bool:
    """Whether it is sure, without much asking, that a module has no attribute of that name."""
    kind: Any = type(module)
    attributes = module.__dict__
    return (
        getattr(kind, "__getattr__", None) is _GETATTR
        and kind.__getattribute__ is object.__getattribute__
        and name not in attributes
        and name not in attributes["_parameters"]
        and name not in attributes["_buffers"]
        and name not in attributes["_modules"]
        and not hasattr(kind, name)
    )


def add_parameter(module: nn.Module, name: str, param: nn.Parameter) -> None:
    """``module.register_parameter(name, param)`` of a Parameter that was one of the module."""
    if (
        type(module).register_parameter is _REGISTER_PARAMETER
        and "register_parameter" not in module.__dict__
        and _PARAMETER_HOOKS is not None
        and not _PARAMETER_HOOKS
        and type(param) is nn.Parameter
        and param.is_leaf
        and _is_free(module, name)
    ):
        module._parameters[name] = param
    else:
        module.register_parameter(name, param)


def add_buffer(module: nn.Module, name: str, tensor: Tensor) -> None:
    """``module.register_buffer(name, tensor)``."""
    buffers = module._buffers
    if (
        type(module).register_buffer is _REGISTER_BUFFER
        and "register_buffer" not in module.__dict__
        and _BUFFER_HOOKS is not None
        and not _BUFFER_HOOKS
        and type(tensor) is Tensor
        and (name in buffers or _is_free(module, name))
    ):
        buffers[name] = tensor
        module._non_persistent_buffers_set.discard(name)
    else:
        module.register_buffer(name, tensor)


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
        parameters, buffers = module._parameters, module._buffers
        if type(parameters) is type(buffers) is dict:
            orig, mask = parameters.get(orig_name), buffers.get(mask_name)
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
