"""Classes made at run time: a module's own class with something in front of it.

They keep the name of the class they derive from, so that ``repr`` and messages stay. A module's
``__class__`` is set to one and back; torch.compile looks at the class before it reuses a graph.
torch.nn.utils.parametrize does likewise, with a class for each module that it expects in front:
such a class is made again over the other one.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_classes: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def derive(mixin: Any, kind: type[nn.Module]) -> type[nn.Module]:
    """The class that derives from ``mixin`` and ``kind``."""
    if _is_of_parametrize(kind):
        return _again(kind, derive(mixin, kind.__bases__[0]))
    key = mixin, kind
    if key not in _classes:
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        if hasattr(kind, "__deepcopy__") and hasattr(mixin, "deepcopy"):
            names["__deepcopy__"] = mixin.deepcopy
        _classes.setdefault(key, type(kind.__name__, (mixin, kind), names))
    return _classes[key]


def underlying(kind: Any) -> Any:
    """The class that ``kind``, made by ``derive``, derives from."""
    if _is_of_parametrize(kind):
        return _again(kind, underlying(kind.__bases__[0]))
    return kind.__bases__[1]


def set_class(module: nn.Module, kind: type) -> None:
    """``module.__class__ = kind``, whatever a ``__setattr__`` of the module's does."""
    object.__setattr__(module, "__class__", kind)


def _is_of_parametrize(kind: type) -> bool:
    return len(kind.__bases__) == 1 and kind.__module__ == "torch.nn.utils.parametrize"


def _again(kind: type, base: type) -> type:
    """A class of parametrize's, with its properties, over another base."""
    left_out = ("__dict__", "__weakref__")
    names = {name: value for name, value in vars(kind).items() if name not in left_out}
    return type(kind)(kind.__name__, (base,), names)
