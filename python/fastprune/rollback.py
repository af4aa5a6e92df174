"""Leaving modules as they were when pruning them fails."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

from .derived import set_class
from .fsdp2 import MANAGED
from .lookup import IN_PLACE, SUSPENDED, compiled_by_jit, not_a_module, pruning_hooks
from .parametrization import masks_in
from .reading import READ_BY_PARENT
from .slots import has_own_setattr

#: What of a module pruning changes, beside its attributes themselves.
_HOLDERS = (
    "_parameters",
    "_buffers",
    "_non_persistent_buffers_set",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


_PLAIN = (dict, OrderedDict)


class transaction:
    """Leave the modules exactly as they were if anything is raised inside, even an interrupt."""

    __slots__ = ("after", "before")

    def __init__(self, *modules: nn.Module) -> None:
        #: Each container that pruning changes, with a copy of its content.
        self.before: list[tuple[Any, Any]] = []
        #: What cannot be undone, for the end; None where no module is in place or under FSDP.
        self.after: list[Callable[[], None]] | None = None
        before = self.before
        for module in {id(module): module for module in modules}.values():
            attributes = getattr(module, "__dict__", None)
            if attributes is None:
                raise not_a_module(module, _HOLDERS[0])
            before.append((attributes, attributes.copy()))
            for name in _HOLDERS:
                try:
                    holder = attributes[name]
                except KeyError:
                    raise not_a_module(module, name) from None
                if holder is None:
                    raise not_a_module(module, name)
                if not hasattr(holder, "copy"):
                    raise compiled_by_jit(module)
                before.append((holder, _content(holder) if holder else ()))
            if attributes["_forward_pre_hooks"]:
                for _, hook in pruning_hooks(module):
                    before.append((hook.__dict__, hook.__dict__.copy()))
            if SUSPENDED in attributes:
                suspended = attributes[SUSPENDED]
                before.append((suspended.__dict__, suspended.__dict__.copy()))
                for hook in suspended.hooks.values():
                    before.append((hook.__dict__, hook.__dict__.copy()))
            if IN_PLACE in attributes or MANAGED in attributes:
                self.after = []
            if "parametrizations" in attributes["_modules"]:
                for masked in masks_in(module):
                    before.append((masked._buffers, masked._buffers.copy()))
                    before.append((masked.__dict__, masked.__dict__.copy()))
            if isinstance(module, READ_BY_PARENT):
                before.append((module, type(module)))
            if has_own_setattr(module):  # an RNN puts the product into a list, too
                lists = [value for value in attributes.values() if type(value) is list]
                before += [(value, value.copy()) for value in lists]

    def __enter__(self) -> None:
        if self.after is not None:
            _open().append(self.after)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self.after is not None:
            outer = _open()
            outer.pop()
            if kind is None and outer:
                outer[-1] += self.after
            elif kind is None:
                _run_all(self.after)
        if kind is None:
            return
        for holder, content in self.before:
            if type(holder) is list:
                holder[:] = content
            elif isinstance(holder, READ_BY_PARENT):
                set_class(holder, content)
            else:
                holder.clear()
                holder.update(content)


def _content(holder: Any) -> Any:
    """A copy of what is in it, past what a class of the user's does when it is copied or asked."""
    if type(holder) in _PLAIN or not isinstance(holder, dict):
        return holder.copy()
    return [(key, dict.__getitem__(holder, key)) for key in holder]


def _run_all(actions: list[Callable[[], None]]) -> None:
    """Even if one fails, whose error is raised in the end."""
    failed: BaseException | None = None
    for action in actions:
        try:
            action()
        except BaseException as error:
            failed = failed or error
    if failed is not None:
        raise failed


_local = threading.local()


def _open() -> list[list[Callable[[], None]]]:
    """The transactions of this thread with something for the end."""
    if not hasattr(_local, "open"):
        _local.open = []
    result: list[list[Callable[[], None]]] = _local.open
    return result


def after_success(action: Callable[[], None]) -> None:
    """Run ``action`` when the transaction has succeeded; it may change what cannot be restored."""
    _open()[-1].append(action)
