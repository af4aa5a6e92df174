"""cached: products made once, and no hook while they serve."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch.nn.utils.prune as upstream
from torch import nn

from .derived import derive, underlying
from .reading import ReadsProducts
from .slots import store

__all__ = ["cached"]

_lock = threading.RLock()


class Cached(nn.Module):
    """Mixin of modules in a context. Their copies and pickles are those of ordinary ones."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        ordinary: nn.Module = object.__new__(underlying(self))
        ordinary.__dict__.update(self.__dict__)
        suspended: Suspended = ordinary.__dict__.pop(_SUSPENDED)
        for name in ("_forward_pre_hooks", "_load_state_dict_post_hooks"):
            ordinary.__dict__[name] = copy(ordinary.__dict__[name])
        del ordinary._load_state_dict_post_hooks[suspended.handle.id]
        suspended.put_back(ordinary)
        reduced: Any = ordinary.__reduce_ex__(max(2, protocol))
        return _call, reduced[:2], *reduced[2:]


def _call(function: Any, arguments: Any) -> Any:
    """In place of copyreg's function, which pickle takes only for the class that it sees."""
    return function(*arguments)


#: The attribute of such a module that says what was taken from it.
_SUSPENDED = "_fastprune_suspended"


class Suspended:
    """The pruning hooks of a module in a context."""

    def __init__(self, module: nn.Module) -> None:
        self.contexts = 1
        self.order = list(module._forward_pre_hooks)
        self.hooks: dict[int, Any] = {}
        self.handle = module.register_load_state_dict_post_hook(_after_loading)

    def take(self, module: nn.Module) -> None:
        """Compute the products and take the hooks out, so that torch's call looks for none."""
        hooks = module._forward_pre_hooks
        for key, hook in list(hooks.items()):
            if isinstance(hook, upstream.BasePruningMethod):
                product = hook.apply_mask(module)
                if isinstance(module, ReadsProducts):
                    module.__dict__[hook._tensor_name] = product
                else:
                    store(module, hook._tensor_name, product)
                self.hooks[key] = hook
        for key in self.hooks:
            hooks.pop(key, None)

    def put_back(self, module: nn.Module) -> None:
        """Put the hooks where they were among others."""
        hooks: Any = module._forward_pre_hooks
        later = [key for key in hooks if key not in self.order]
        hooks.update(self.hooks)
        for key in [*self.order, *later]:
            if key in hooks:
                hooks.move_to_end(key)
        if isinstance(module, ReadsProducts):
            for hook in self.hooks.values():
                module.__dict__.pop(hook._tensor_name, None)


class cached:
    """Context manager: every pruned tensor of ``model`` is computed once, and no hook runs inside.

    As :func:`torch.nn.utils.parametrize.cached`. A forward inside takes what it takes without
    pruning. It pays where weights serve many forwards unchanged: evaluation, generation, a layer
    that is used at every time step.

    Pruning again, :func:`remove` and ``load_state_dict`` inside of the context compute the tensors
    anew. Other changes of ``<name>_orig`` or ``<name>_mask``, an optimizer's step above all, are
    not seen until the context is left. Nothing is cached outside of it. A module that is pruned for
    the first time inside keeps its hook. Contexts can be nested, entered again and used in several
    threads; hooks come back when the last one is left.

    With gradients enabled on entry, all forwards inside share one graph of the product: sum their
    losses and call ``backward`` once. A second ``backward`` raises torch's "Trying to backward
    through the graph a second time". Entered under ``torch.no_grad()``, the originals get no
    gradient from forwards inside.

    Tensors pruned by :func:`parametrized` have :func:`torch.nn.utils.parametrize.cached`.

    >>> with torch.no_grad(), prune.cached(model):
    ...     for inputs in loader:
    ...         outputs = model(inputs)

    Args:
        model: with all its submodules.

    Raises:
        AttributeError: the mask of a pruned tensor is gone; all modules are as they were.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._entered: list[list[nn.Module]] = []

    def __enter__(self) -> None:
        entered: list[nn.Module] = []
        with _lock:
            try:
                for module in self.model.modules():
                    if _enter(module):
                        entered.append(module)
            except BaseException:
                _leave(entered)
                raise
            self._entered.append(entered)

    def __exit__(self, *error: object) -> None:
        with _lock:
            _leave(self._entered.pop())


def _enter(module: nn.Module) -> bool:
    """Suspend the hooks of ``module``, if it has any that prune or they are suspended already."""
    if isinstance(module, Cached):
        module.__dict__[_SUSPENDED].contexts += 1
        return True
    hooks = module._forward_pre_hooks.values()
    if not any(isinstance(hook, upstream.BasePruningMethod) for hook in hooks):
        return False
    suspended = Suspended(module)
    try:
        suspended.take(module)
    except BaseException:
        suspended.handle.remove()
        suspended.put_back(module)
        raise
    module.__dict__[_SUSPENDED] = suspended
    module.__class__ = derive(Cached, type(module))
    return True


def _leave(modules: list[nn.Module]) -> None:
    for module in modules:
        suspended: Suspended = module.__dict__[_SUSPENDED]
        suspended.contexts -= 1
        if suspended.contexts == 0:
            module.__class__ = underlying(module)
            del module.__dict__[_SUSPENDED]
            suspended.handle.remove()
            suspended.put_back(module)


@contextmanager
def resumed(module: nn.Module) -> Iterator[None]:
    """An ordinary module out of a cached one; afterwards it is cached again, with new products."""
    with _lock:
        suspended: Suspended = module.__dict__.pop(_SUSPENDED)
        module.__class__ = underlying(module)
        suspended.put_back(module)
        before, suspended.hooks = suspended.hooks, {}
        try:
            yield
            suspended.order = list(module._forward_pre_hooks)
            suspended.take(module)
        except BaseException:
            for key in module._forward_pre_hooks.keys() & before.keys():
                del module._forward_pre_hooks[key]
            suspended.hooks = before
            raise
        finally:
            module.__dict__[_SUSPENDED] = suspended
            module.__class__ = derive(Cached, type(module))


def _after_loading(module: nn.Module, incompatible_keys: Any) -> None:
    if isinstance(module, Cached):
        with resumed(module):
            pass
