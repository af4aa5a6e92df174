"""Which module a pruning method runs in; its ``__deepcopy__`` needs to know.

Not an attribute of the method, as ``vars(method)`` is to hold what upstream's does, nor a slot, as
a user's class with slots could not be mixed with it then.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

#: By the id of the method, which its weak reference takes out when it dies.
homes: dict[int, tuple[weakref.ref[Any], weakref.ref[nn.Module]]] = {}


def settle(method: Any, module: nn.Module) -> None:
    """Remember that ``method`` runs in ``module``; neither is kept alive."""
    key = id(method)

    def forget(_: Any, homes: dict[int, Any] = homes) -> None:
        homes.pop(key, None)

    homes[key] = weakref.ref(method, forget), weakref.ref(module)


def home_of(method: Any) -> nn.Module | None:
    """Where the method runs, if that is known and still there."""
    entry = homes.get(id(method))
    return None if entry is None else entry[1]()
