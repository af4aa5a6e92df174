"""Classes made at run time: a module's own class with something in front of it.

They keep the name of the class they derive from, so that ``repr`` and messages stay. A module's
``__class__`` is set to one and back; torch.compile looks at the class before it reuses a graph.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_classes: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def derive(mixin: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    """The class that derives from ``mixin`` and ``kind``."""
    key = mixin, kind
    if key not in _classes:
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        _classes.setdefault(key, type(kind.__name__, (mixin, kind), names))
    return _classes[key]


def underlying(module: nn.Module) -> Any:
    """The class that the class of ``module``, made by ``derive``, derives from."""
    return type(module).__bases__[1]
