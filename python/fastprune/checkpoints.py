"""State dicts of pruned models: hooks for one that is to be loaded, and a dense one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .apply import apply_method
from .hook import detached_product
from .lookup import IN_PLACE, all_pruning_hooks, is_in_place
from .methods import CustomFromMask
from .parametrization import is_alone, names_masked
from .refreshing import start_refreshing
from .rollback import transaction

__all__ = ["attach", "dense_state_dict"]

_Module = TypeVar("_Module", bound=nn.Module)


def attach(model: _Module, state_dict: Mapping[str, Any]) -> _Module:
    """Prepare an unpruned model for the state dict of a pruned one, which then loads strictly.

    Such a state dict has ``<name>_orig`` and ``<name>_mask`` where the model has ``<name>``, as
    :mod:`torch.nn.utils.prune` leaves them. For each pair this registers a :class:`CustomFromMask`
    with a mask of ones, of the dtype of the mask to be loaded. It reads no values. Parameters that
    are pruned already stay as they are. A transaction: if anything fails, the model is as it was.

    >>> state_dict = prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.5).state_dict()
    >>> model = prune.attach(nn.Linear(8, 4), state_dict)
    >>> model.load_state_dict(state_dict)
    <All keys matched successfully>
    >>> model.weight_mask.sum()
    tensor(16.)

    A model on the meta device takes ``load_state_dict(state_dict, assign=True)``.

    Args:
        model: whose parameters have the shapes of the state dict's; on any device, of any dtype.
        state_dict: of tensors, on any device, of any dtype. Its keys are those of the model,
            without the prefix of a wrapper such as ``module.``.

    Returns:
        The model.

    Raises:
        TypeError: ``state_dict`` is no mapping.
        RuntimeError: a pair does not fit, as :meth:`torch.nn.Module.load_state_dict` raises it:
            half of it is missing, the model has no such parameter, or a shape differs. All pairs
            that do not fit are listed, by key, with the expected and the actual value.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"expected state_dict to be dict-like, got {type(state_dict).__name__}")
    modules = dict(model.named_modules(remove_duplicate=False))
    plain_names = _names_in_pairs(modules, state_dict)
    wrong = [w for plain in plain_names for w in _misfits(modules, plain, state_dict)]
    if wrong:
        kind = type(model).__name__
        raise RuntimeError("\n\t".join([f"Error(s) in attaching a state_dict to {kind}:", *wrong]))
    new = {}  # a module may be in the model under several names
    for plain in plain_names:
        path, _, name = plain.rpartition(".")
        if not _is_pruned(modules[path], name):
            new[id(modules[path]), name] = modules[path], name, state_dict[plain + "_mask"].dtype
    with transaction(*(module for module, _, _ in new.values())):
        for module, name, dtype in new.values():
            # The hook's mask is the buffer, so that it has what is loaded into that.
            mask = torch.ones_like(module._parameters[name].detach(), dtype=dtype)  # type: ignore[union-attr]
            apply_method(CustomFromMask(mask), module, name, selected=(mask, None))
    for module in {id(module): module for module, _, _ in new.values()}.values():
        start_refreshing(module)
    return model


def _is_pruned(module: nn.Module, name: str) -> bool:
    return any(hook._tensor_name == name for hook in all_pruning_hooks(module))


def _names_in_pairs(modules: dict[str, nn.Module], state_dict: Mapping[str, Any]) -> list[str]:
    """The tensors of which the state dict has a pair, or half of one.

    What the model itself calls ``<name>_orig`` or ``<name>_mask``, such as a buffer
    ``attention_mask``, belongs to a pair only where ``<name>`` is pruned. A single key beside which
    the model has no parameter is left to ``load_state_dict``.
    """
    names: dict[str, None] = {}
    for key in state_dict:
        plain = key[:-5]
        if not key.endswith(("_orig", "_mask")):
            continue
        both = plain + "_orig" in state_dict and plain + "_mask" in state_dict
        path, _, name = key.rpartition(".")
        module = modules.get(path)
        if module is None:
            pair = both
        elif name in module._parameters or name in module._buffers:
            pair = _is_pruned(module, name[:-5])
        else:
            pair = both or name[:-5] in module._parameters
        if pair:
            names[plain] = None
    return list(names)


def _misfits(
    modules: dict[str, nn.Module], plain: str, state_dict: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong with a pair of the state dict, a line each."""
    path, _, name = plain.rpartition(".")
    keys = plain + "_orig", plain + "_mask"
    missing = [key for key in keys if key not in state_dict]
    if missing:
        (there,) = {*keys} - {*missing}
        yield f'Missing key "{missing[0]}": expected it beside "{there}".'
        return
    if path not in modules:
        first = next((key for key, _ in modules[""].named_parameters()), None)
        yield (
            f'Unexpected key "{keys[0]}": the model has no module "{path}". Keys of the model look '
            f'like "{first}"; remove the prefix of a wrapper, such as "module.", first.'
        )
        return
    module = modules[path]
    parameter = module._parameters.get(name)
    if is_in_place(module, name):
        yield f'Unexpected key "{keys[0]}": "{plain}" is pruned in place; call restore first.'
        return
    if _is_pruned(module, name):
        likes = [module._parameters.get(name + "_orig"), module._buffers.get(name + "_mask")]
    elif parameter is None:
        actual = type(getattr(module, name, None)).__name__
        yield f'Unexpected key "{keys[0]}": expected "{plain}" to be a Parameter, got {actual}.'
        return
    else:
        likes = [parameter, parameter]
    for key, like in zip(keys, likes, strict=True):
        value = state_dict[key]
        if not isinstance(value, Tensor):
            yield f'"{key}": expected a Tensor, got {type(value).__name__}.'
        elif like is not None and is_lazy(like):
            yield f'"{key}": "{plain}" has no shape yet, run a forward of the model first.'
        elif like is not None and value.shape != like.shape:
            yield f"size mismatch for {key}: expected {like.shape}, got {value.shape}."


def dense_state_dict(model: nn.Module) -> dict[str, Any]:
    """The state dict that the model would have after ``remove`` of all its masks.

    Pruned tensors stand under their plain names, as ``<name>_orig * <name>_mask``, where
    ``<name>_orig`` stands in ``model.state_dict()``; masks are left out. So it loads strictly into
    an unpruned model. The model itself is untouched; see :func:`torch.nn.utils.prune.remove`.

    >>> model = prune.l1_unstructured(nn.Linear(8, 4), "weight", amount=0.5)
    >>> dense = prune.dense_state_dict(model)
    >>> sorted(dense), int((dense["weight"] == 0).sum())
    (['bias', 'weight'], 16)
    >>> nn.Linear(8, 4).load_state_dict(dense)
    <All keys matched successfully>

    Args:
        model: pruned by fastprune or by torch, in whole, in part or not at all.

    Returns:
        A state dict of new tensors, without a gradient, that share no memory with the model. Of
        a Parameter or module that is in the model several times there is one copy. Tensors have
        the shapes, dtypes and devices of the model's.

    Raises:
        RuntimeError: the mask of a tensor has no ``<name>_orig`` beside it in the state dict, as
            when that is parametrized.
    """
    with torch.no_grad():
        state: Any = model.state_dict(keep_vars=True)
        products = _products(model, state)
        copies: dict[int, Tensor] = {}
        dense: Any = OrderedDict()
        for key, value in state.items():
            if key in products:
                plain, product = products[key]
                if plain is not None:
                    dense[plain] = product
            elif not isinstance(value, Tensor) or is_lazy(value):
                dense[key] = value
            else:
                copy = copies.get(id(value))
                copies[id(value)] = dense[key] = value.detach().clone() if copy is None else copy
    if hasattr(state, "_metadata"):
        dense._metadata = state._metadata
    return dense  # type: ignore[no-any-return]


def _products(model: nn.Module, state: Mapping[str, Any]) -> dict[str, tuple[str | None, Any]]:
    """By key of an original or a mask: the plain key and the pruned tensor; None for a mask."""
    products: dict[str, tuple[str | None, Any]] = {}
    made: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by original: masks and products
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name in module.__dict__.get(IN_PLACE, ()):
            products[f"{prefix}{name}_mask"] = None, None
        for name in names_masked(module):
            chain = f"{prefix}parametrizations.{name}"
            if not is_alone(module, name):
                raise RuntimeError(
                    f"{prefix}{name} has other parametrizations than its mask; remove them first"
                )
            products[f"{chain}.0.mask"] = None, None
            products[f"{chain}.original"] = prefix + name, getattr(module, name).detach()
        for hook in all_pruning_hooks(module):
            name = hook._tensor_name
            plain = f"{path}.{name}" if path else name
            orig, mask = state.get(plain + "_orig"), state.get(plain + "_mask")
            # Taken out by a hook, or converted by torch.ao.quantization.
            if orig is None and mask is None:
                continue
            if orig is None:
                raise RuntimeError(
                    f'expected "{plain}_orig" beside "{plain}_mask" in the state dict of the '
                    "model, got none; if it is parametrized, remove its parametrizations first"
                )
            products[plain + "_mask"] = None, None
            if mask is None:  # not persistent
                mask = getattr(module, name + "_mask")
            known = made.setdefault(id(orig), [])
            product = next((p for m, p in known if _is_same(m, mask)), None)
            if product is None:
                product = _product(hook, module, orig, mask)
                known.append((mask, product))
            products[plain + "_orig"] = plain, product
    return products


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a is b or (
        a.shape == b.shape and a.dtype == b.dtype and not a.is_meta and torch.equal(a, b)
    )


def _product(hook: Any, module: nn.Module, orig: Tensor, mask: Tensor) -> Tensor:
    """What ``remove`` would leave of the original."""
    name = hook._tensor_name
    kept = module._parameters.get(name + "_orig"), module._buffers.get(name + "_mask")
    if orig is kept[0] and mask is kept[1]:
        return detached_product(hook, module)
    return mask.to(orig.dtype) * orig.detach()  # a hook of the state dict has replaced one
