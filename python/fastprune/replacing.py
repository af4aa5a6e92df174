"""``replace=True``: a method takes the place of the newest one of a tensor.

The newest is undone, so that the tensor is as it was before it, and then the new one is applied as
ever, all in one transaction. The mask of before is known where a method remembers it, as those do
that were applied with ``replace=True``, or where the methods before have given masks.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

from .apply import detach, find_hook
from .caching import resumed
from .copying import remember_module
from .dtensors import is_dtensor
from .fsdp2 import MANAGED
from .lookup import SUSPENDED, is_in_place, methods_of
from .methods import CustomFromMask, Identity
from .parametrization import find_masked
from .reading import ReadsProducts
from .slots import add_buffer, original_and_mask, store
from .superseded import BASE, has_round_of, is_round, keep_before, note_said, with_round
from .tying import tied_mask

_IDENTITIES = (Identity, upstream.Identity)
_GIVEN = (CustomFromMask, upstream.CustomFromMask)


def asks_to_replace(kind: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the keywords of a call ask to replace; ``replace`` is taken out of them.

    Where the constructor of a user's class takes an argument of that name, that is meant.
    """
    if "replace" not in kwargs or _takes_replace(kind):
        return False
    return bool(kwargs.pop("replace"))


def _takes_replace(kind: Any) -> bool:
    make: Any = kind
    if isinstance(kind, type):
        make = kind.__init__  # type: ignore[misc]
    if make is object.__init__:
        return False
    parameters = inspect.signature(make).parameters
    return "replace" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@contextmanager
def replaced(pairs: Iterable[tuple[nn.Module, str]]) -> Iterator[None]:
    """Undo the newest method of each (module, name), in whose place others are applied inside.

    Inside of a transaction, which restores all if anything is raised here.

    Raises:
        ValueError: the mask before the newest method of some tensor is not known.
        NotImplementedError: it is pruned in place, or spread over processes.
    """
    bases: dict[tuple[int, str], tuple[nn.Module, str, Tensor | None]] = {}
    for module, name in pairs:
        if (id(module), name) not in bases:
            bases[id(module), name] = module, name, _undo_newest(module, name)
    yield
    for module, name, base in bases.values():
        if base is not None:
            newest = methods_of(_hook_of(module, name))[-1]
            keep_before(newest, base)


def _undo_newest(module: nn.Module, name: str) -> Tensor | None:
    """The mask of the methods that are left, or None if there are none."""
    if SUSPENDED in module.__dict__:
        with resumed(module):  # an ordinary module inside
            return _undo_newest(module, name)
    if is_in_place(module, name):
        raise NotImplementedError(
            f"{name} of {module} is pruned in place, where pruned values are lost: expected the "
            "ordinary form for replace=True, which prune.restore brings back"
        )
    masked = find_masked(module, name)
    if masked is not None:
        hook = masked.method
        base = _base_of(hook, masked.mask.detach(), module, name)
        masked.mask = torch.ones_like(masked.mask) if base is None else base
        masked.method = None if base is None else _without_newest(hook, base)
        if base is not None:
            note_said(masked.method, masked.mask)
        return base
    found = find_hook(module, name)
    if found is None:
        return None
    key, hook = found
    orig, mask = original_and_mask(module, name)
    if MANAGED in module.__dict__ or is_dtensor(orig):
        raise NotImplementedError(
            f"{name} of {module} is spread over processes: expected it to be whole for "
            "replace=True. Prune before fully_shard or distribute_tensor, or upon the old mask."
        )
    base = _base_of(hook, mask.detach(), module, name)
    if base is None:
        setattr(module, name, detach(module, key, hook))
        return None
    left = _without_newest(hook, base)
    for copied in set(methods_of(left)) - set(methods_of(hook)):
        remember_module(copied, module, orig)
    module._forward_pre_hooks[key] = left
    add_buffer(module, name + "_mask", base)
    note_said(left, base)  # it is kept in the end, and need not be by the method that follows
    if not isinstance(module, ReadsProducts):
        store(module, name, left.apply_mask(module))
    return base


def _base_of(hook: Any, mask: Tensor, module: nn.Module, name: str) -> Tensor | None:
    """What all methods but the newest left, or None if there is no other; ``mask`` is of now."""
    *earlier, newest = methods_of(hook)
    if not earlier:
        return None
    if BASE in newest.__dict__:
        remembered: Tensor = newest.__dict__[BASE].whole()
        return remembered.to(mask.device)
    if type(newest) in _IDENTITIES:
        return mask
    base = torch.ones_like(mask)
    for method in reversed(earlier):
        if type(method) in _IDENTITIES:
            continue
        if type(method) not in _GIVEN or has_round_of(method, newest):
            raise ValueError(
                f"expected the mask before the newest method of {name} of {module} to be known, "
                f"got {type(newest).__name__} after {type(method).__name__}, of which it is not "
                "kept. Apply the one to be replaced with replace=True, too, or put "
                "prune.identity before the one that replaces, which then takes its place."
            )
        base *= method.mask.detach().to(base.device, base.dtype)
        if is_round(method):  # which has what those before it pruned
            break
    tied = tied_mask(module._parameters.get(name + "_orig"), module, name)  # type: ignore[arg-type]
    return base if tied is None else base * tied.to(base.dtype)


def _without_newest(hook: Any, base: Tensor) -> Any:
    """The container without its last method; earlier rounds that share its mask get the base."""
    *earlier, newest = methods_of(hook)
    left = copy.copy(hook)
    left._pruning_methods = tuple(with_round(earlier, newest, base))
    return left


def _hook_of(module: nn.Module, name: str) -> Any:
    """The hook that prunes ``module.<name>``, in whatever form."""
    masked = find_masked(module, name)
    if masked is not None:
        return masked.method
    if SUSPENDED in module.__dict__:
        for hook in module.__dict__[SUSPENDED].hooks.values():
            if hook._tensor_name == name:
                return hook
    found = find_hook(module, name)
    assert found is not None
    return found[1]
