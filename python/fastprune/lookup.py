"""Which hooks of a module prune, and which of its tensors are pruned in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import nn

#: The attribute of a module that says which of its tensors are pruned in place; see masking.py.
IN_PLACE = "_fastprune_in_place"

#: The attribute of a module in `cached` that says what was taken from it; see caching.py.
SUSPENDED = "_fastprune_suspended"

#: The attribute of a module that says which of its tensors are pruned under FSDP2; see
#: shard_masks.py.
SHARDS = "_fastprune_shards"


class OwnHook:
    """Base of our pruning methods. Upstream's is an ABC, which takes long to ask for."""


def pruning_hooks(module: nn.Module) -> list[tuple[int, Any]]:
    """The registered forward pre-hooks that prune, ours or upstream's, with their keys."""
    hooks = module.__dict__.get("_forward_pre_hooks", {})
    return [(k, h) for k, h in hooks.items() if isinstance(h, KINDS)]


def all_pruning_hooks(module: nn.Module) -> list[Any]:
    """The hooks that prune tensors of the module, also while `cached` has suspended them."""
    hooks = [hook for _, hook in pruning_hooks(module)]
    if SUSPENDED in module.__dict__:
        hooks += module.__dict__[SUSPENDED].hooks.values()
    return hooks


def methods_of(hook: Any) -> tuple[Any, ...]:
    """The methods of a container, or the only one."""
    methods: tuple[Any, ...] = getattr(hook, "_pruning_methods", (hook,))
    return methods


#: The classes of pruning methods, in the order in which to ask for them.
KINDS = (OwnHook, upstream.BasePruningMethod)


def is_in_place(module: nn.Module, name: str) -> bool:
    """Whether ``module.<name>`` is in the form of ``in_place``."""
    return name in module.__dict__.get(IN_PLACE, ())


def pairs_of(op: str, parameters: Any) -> list[tuple[nn.Module, str]]:
    """The argument ``parameters`` of a function, as a list."""
    if not isinstance(parameters, Iterable):
        raise TypeError(f"{op}(): parameters is not an Iterable")
    pairs: list[tuple[nn.Module, str]] = []
    for i, pair in enumerate(parameters):
        try:
            module, name = pair
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{op}(): expected parameters to be (module, name) pairs, got "
                f"{type(pair).__name__} at index {i}"
            ) from None
        if not isinstance(name, str):  # named_parameters(), say
            raise TypeError(
                f"{op}(): expected parameters to be (module, name) pairs, got "
                f"({type(module).__name__}, {type(name).__name__}) at index {i}"
            )
        if not hasattr(module, "_parameters"):
            raise not_a_module(module, "_parameters")
        pairs.append((module, name))
    return pairs


def parameters_of(pairs: Iterable[tuple[nn.Module, str]]) -> list[Any]:
    """The unpruned parameter of each pair; None if it has none, which apply will report."""
    found = []
    for module, name in pairs:
        if not hasattr(module._parameters, "get"):
            raise compiled_by_jit(module)
        original = parameter_of(module, name + "_orig")
        found.append(parameter_of(module, name) if original is None else original)
    return found


def parameter_of(module: nn.Module, name: str) -> nn.Parameter | None:
    """``module._parameters[name]``, or None. A dict of a class of the user's may compute it."""
    parameters: Any = module._parameters
    if type(parameters) is dict:
        return parameters.get(name)  # type: ignore[no-any-return]
    if name not in parameters:
        return None
    return parameters[name]  # type: ignore[no-any-return]


def not_a_module(found: Any, without: str) -> AttributeError:
    """What is wrong with something that has no such attribute."""
    kind = type(found).__name__
    return AttributeError(
        f"expected a torch.nn.Module, got a {kind!r} object, which has no {without!r}"
    )


def compiled_by_jit(module: nn.Module) -> Exception:
    """What is wrong with a module whose parameters are in no dictionary; of upstream's type."""
    traced = isinstance(module, torch.jit.TracedModule)  # type: ignore[attr-defined]
    kind = AttributeError if traced else RuntimeError
    return kind(
        f"cannot prune a {type(module).__name__}, to which torch.jit adds no parameters: prune the "
        "module before torch.jit compiles it"
    )
