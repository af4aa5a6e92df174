"""Which module a pruning method runs in; its ``__deepcopy__`` needs to know.

Not an attribute of the method, as ``vars(method)`` is to hold what upstream's does, nor a slot, as
a user's class with slots could not be mixed with it then.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn


class _Home(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a method, with one to its module."""

    __slots__ = ("key", "module")
    key: int
    module: weakref.ref[nn.Module]


#: By the id of the method; an entry goes when its method dies.
homes: dict[int, _Home] = {}


def _forget(home: Any, homes: dict[int, _Home] = homes) -> None:
    homes.pop(home.key, None)


def settle(method: Any, module: nn.Module) -> None:
    """Remember that ``method`` runs in ``module``; neither is kept alive."""
    home = _Home(method, _forget)
    home.key = key = id(method)
    home.module = weakref.ref(module)
    homes[key] = home


def home_of(method: Any) -> nn.Module | None:
    """Where the method runs, if that is known and still there."""
    home = homes.get(id(method))
    return None if home is None else home.module()
