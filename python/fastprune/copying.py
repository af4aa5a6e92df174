"""How a pruned module is copied: what ``__deepcopy__`` of a pruning method does.

A pruned tensor is a product, which torch refuses to deep-copy while it has a gradient. A module
copies its hooks before the attributes that were set later, so the hook leaves a detached copy of
the product in the memo, which is what the module's copy gets; its first forward makes it anew.

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

_Method = TypeVar("_Method")


class _Home(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a method, with one to its module."""

    __slots__ = ("key", "module")
    key: int
    module: weakref.ref[nn.Module]


#: By the id of the method; an entry goes when its method dies.
homes: dict[int, _Home] = {}


def _forget(home: Any, homes: dict[int, _Home] = homes) -> None:
    homes.pop(home.key, None)


def remember_module(method: Any, module: nn.Module) -> None:
    """Note that ``method`` is a hook of ``module``; neither is kept alive."""
    home = _Home(method, _forget)
    home.key = key = id(method)
    home.module = weakref.ref(module)
    homes[key] = home


def module_of(method: Any) -> nn.Module | None:
    """The module whose hook the method is, if that is known and still there."""
    home = homes.get(id(method))
    return None if home is None else home.module()


def copy_method(method: _Method, memo: dict[int, Any]) -> _Method:
    """``copy.deepcopy`` of a method, which lets its module be copied too."""
    module = module_of(method)
    pruned = None if module is None else module.__dict__.get(method._tensor_name)  # type: ignore[attr-defined]
    if isinstance(pruned, Tensor) and not pruned.is_leaf:
        memo.setdefault(id(pruned), pruned.detach().clone())
    return _default_deepcopy(method, memo)


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
