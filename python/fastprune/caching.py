"""cached: products made once, and no hook while they serve."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

from torch import nn

from . import fsdp2
from .derived import derive, set_class, underlying
from .lookup import SUSPENDED, pruning_hooks
from .reading import ReadsProducts
from .slots import store

__all__ = ["cached"]

_lock = threading.RLock()


class Cached(nn.Module):
    """Mixin of modules in a context. Their copies and pickles are those of ordinary ones."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Nothing of what the module's class does for classes that a user derives from it."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = _ordinary(self).__reduce_ex__(max(2, protocol))
        return _call, reduced[:2], *reduced[2:]

    def deepcopy(self, memo: dict[int, Any]) -> Any:
        """``__deepcopy__`` of modules whose class has one."""
        return deepcopy(_ordinary(self), memo)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        result: Any = super()._apply(*args, **kwargs)
        if is_cached(self):
            with resumed(self):
                pass
        return result

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        return _ordinary(replica)


def is_cached(module: nn.Module) -> bool:
    """Whether the module is in a context. One that a user makes of its class is not."""
    return SUSPENDED in module.__dict__


def _ordinary(module: nn.Module) -> nn.Module:
    """The module as it is outside of the context; what it holds is shared."""
    ordinary: nn.Module = object.__new__(underlying(type(module)))
    ordinary.__dict__.update(module.__dict__)
    suspended: Suspended | None = ordinary.__dict__.pop(SUSPENDED, None)
    if suspended is not None:
        for name in ("_forward_pre_hooks", "_load_state_dict_post_hooks"):
            ordinary.__dict__[name] = copy(ordinary.__dict__[name])
        ordinary._load_state_dict_post_hooks.pop(suspended.handle.id, None)
        suspended.put_back(ordinary)
    return ordinary


def _call(function: Any, arguments: Any) -> Any:
    """In place of copyreg's function, which pickle takes only for the class that it sees."""
    return function(*arguments)


class Suspended:
    """The pruning hooks of a module in a context."""

    def __init__(self, module: nn.Module) -> None:
        self.contexts = 1
        self.order = list(module._forward_pre_hooks)
        self.hooks: dict[int, Any] = {}
        self.handle = module.register_load_state_dict_post_hook(_after_loading)

    def take(self, module: nn.Module) -> None:
        """Compute the products and take the hooks out, so that torch's call looks for none."""
        for key, hook in pruning_hooks(module):
            product = hook.apply_mask(module)
            if isinstance(module, ReadsProducts):
                module.__dict__[hook._tensor_name] = product
            else:
                store(module, hook._tensor_name, product)
            self.hooks[key] = hook
        for key in self.hooks:
            module._forward_pre_hooks.pop(key, None)

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

    Inside, the class of a pruned module is one that derives from its own, so code that compares
    classes by ``is``, as ``quantize_dynamic`` does, does not know it.

    Modules under ``fully_shard`` are left as they are, as their hook has nothing to compute.

    Tensors pruned by :func:`parametrized` have :func:`torch.nn.utils.parametrize.cached`.

    >>> model = prune.l1_unstructured(nn.Linear(8, 4), "weight", amount=0.5)
    >>> with torch.no_grad(), prune.cached(model):
    ...     for inputs in torch.randn(10, 2, 8):
    ...         outputs = model(inputs)
    >>> outputs.shape
    torch.Size([2, 4])

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
    if is_cached(module):
        module.__dict__[SUSPENDED].contexts += 1
        return True
    hooks = pruning_hooks(module)
    if not hooks:
        return False
    # Their weights are whole in a forward only, and products already.
    if any(fsdp2.find_cached(module, f"{hook._tensor_name}_orig") for _, hook in hooks):
        return False
    kind = derive(Cached, type(module))
    suspended = Suspended(module)
    try:
        suspended.take(module)
        module.__dict__[SUSPENDED] = suspended
        set_class(module, kind)
    except BaseException:
        module.__dict__.pop(SUSPENDED, None)
        suspended.handle.remove()
        suspended.put_back(module)
        raise
    return True


def _leave(modules: list[nn.Module]) -> None:
    for module in modules:
        suspended: Suspended = module.__dict__[SUSPENDED]
        suspended.contexts -= 1
        if suspended.contexts == 0:
            del module.__dict__[SUSPENDED]
            suspended.handle.remove()
            set_class(module, underlying(type(module)))
            suspended.put_back(module)


@contextmanager
def resumed(module: nn.Module) -> Iterator[None]:
    """An ordinary module out of a cached one; afterwards it is cached again, with new products."""
    with _lock:
        suspended: Suspended = module.__dict__.pop(SUSPENDED)
        set_class(module, underlying(type(module)))
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
            module.__dict__[SUSPENDED] = suspended
            set_class(module, derive(Cached, type(module)))


def _after_loading(module: nn.Module, incompatible_keys: Any) -> None:
    if is_cached(module):
        with resumed(module):
            pass
