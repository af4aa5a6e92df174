"""How a pruned module is copied: what ``__deepcopy__`` of a pruning method does.

A pruned tensor is a product, which torch refuses to deep-copy while it has a gradient. A module
copies its hooks before the attributes that were set later, so the hook leaves the product of now,
detached, in the memo, which is what the module's copy gets; its first forward makes it anew. What
reads the copy's weight without a forward, as torch.ao.quantization does, gets what remove would.

For this a method has to know its module. That is not kept as an attribute, as ``vars(method)`` is
to hold what upstream's does, nor in a slot, as a user's class with slots could not be mixed with it
then.
"""

from __future__ import annotations

import weakref
from copy import deepcopy
from copyreg import dispatch_table
from typing import Any, TypeVar

from torch import Tensor, nn

from .tying import holders

_Method = TypeVar("_Method")


class Home(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a method, with one to its module."""

    __slots__ = ("key", "module", "older", "original")
    key: int
    module: weakref.ref[nn.Module]
    original: int  # the id of the Parameter that it prunes, if that is known
    older: Home | None  # another that prunes it


#: By the id of the method; an entry goes when its method dies.
homes: dict[int, Home] = {}


def _forget(home: Any, homes: Any = homes, holders: Any = holders) -> None:
    homes.pop(home.key, None)
    key = home.original
    if holders.get(key) is home:
        if home.older is None:
            del holders[key]
        else:
            holders[key] = home.older
        return
    newer = holders.get(key)
    while newer is not None:
        if newer.older is home:
            newer.older = home.older
        newer = newer.older


def remember_module(method: Any, module: nn.Module, original: Tensor | None) -> None:
    """Note that ``method`` is a hook of ``module``, and of which Parameter; none is kept alive.

    ``original`` is None where that is known by an earlier method of the same tensor.
    """
    home = Home(method, _forget)
    home.key = key = id(method)
    home.module = weakref.ref(module)
    homes[key] = home
    if original is None:
        home.original = 0
    else:
        home.original = key = id(original)
        home.older = holders.get(key)
        holders[key] = home


def forget_module(method: Any) -> None:
    """Note that ``method`` is a hook no longer."""
    home = homes.get(id(method))
    if home is not None:
        _forget(home)


def module_of(method: Any) -> nn.Module | None:
    """The module whose hook the method is, if that is known and still there."""
    home = homes.get(id(method))
    return None if home is None else home.module()


def copy_method(method: _Method, memo: dict[int, Any]) -> _Method:
    """``copy.deepcopy`` of a method, which lets its module be copied too."""
    module = module_of(method)
    if module is not None:
        name = method._tensor_name  # type: ignore[attr-defined]
        pruned = module.__dict__.get(name)
        if isinstance(pruned, Tensor) and not pruned.is_leaf and id(pruned) not in memo:
            memo[id(pruned)] = _copy_of_product(pruned, method, module, name)
    return _default_deepcopy(method, memo)


def _copy_of_product(pruned: Tensor, method: Any, module: nn.Module, name: str) -> Tensor:
    """The product of now: an optimizer may have changed the original since the last forward."""
    from .hook import detached_product  # which imports this file

    if hasattr(module, name + "_orig") and hasattr(module, name + "_mask"):
        return detached_product(method, module)
    return pruned.detach().clone()  # one of both was deleted by hand


def _default_deepcopy(method: _Method, memo: dict[int, Any]) -> _Method:
    """What ``copy.deepcopy`` does for a class without ``__deepcopy__``."""
    reductor = dispatch_table.get(type(method))
    reduced: Any = method.__reduce_ex__(4) if reductor is None else reductor(method)
    if isinstance(reduced, str):  # the name of a global
        return method
    function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    copy: Any = function(*deepcopy(arguments, memo))
    memo[id(method)] = copy
    if state is not None:
        _set_state(copy, deepcopy(state, memo))
    for item in items or ():
        copy.append(deepcopy(item, memo))
    for key, value in pairs or ():
        copy[deepcopy(key, memo)] = deepcopy(value, memo)
    return copy  # type: ignore[no-any-return]


def _set_state(copy: Any, state: Any) -> None:
    if hasattr(copy, "__setstate__"):
        copy.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    copy.__dict__.update(attributes or {})
    for name, value in (slots or {}).items():
        setattr(copy, name, value)
