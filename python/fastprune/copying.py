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
from typing import Any, TypeVar

from torch import Tensor, nn

from .reading import ReadsProducts

_Method = TypeVar("_Method")


class _Home(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a method, with one to its module."""

    __slots__ = ("key", "module", "reads")
    key: int
    module: weakref.ref[nn.Module]
    #: Whether the module computes its product where it is read, so that the hook has nothing to do.
    reads: bool


#: By the id of the method; an entry goes when its method dies.
homes: dict[int, _Home] = {}


def _forget(home: Any, homes: dict[int, _Home] = homes) -> None:
    homes.pop(home.key, None)


def remember_module(method: Any, module: nn.Module) -> _Home:
    """Note that ``method`` is a hook of ``module``; neither is kept alive."""
    home = _Home(method, _forget)
    home.key = key = id(method)
    home.module = weakref.ref(module)
    home.reads = isinstance(module, ReadsProducts)
    homes[key] = home
    return home


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
    reduced: Any = method.__reduce_ex__(4)
    function, arguments, state = (*reduced, None)[:3]
    copy: Any = function(*deepcopy(arguments, memo))
    memo[id(method)] = copy
    if state is None:
        return copy  # type: ignore[no-any-return]
    state = deepcopy(state, memo)
    if hasattr(copy, "__setstate__"):
        copy.__setstate__(state)
        return copy  # type: ignore[no-any-return]
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    copy.__dict__.update(attributes or {})
    for name, value in (slots or {}).items():
        setattr(copy, name, value)
    return copy  # type: ignore[no-any-return]
