"""What ``apply`` does with a new method: how a mask comes to a module."""

from __future__ import annotations

from functools import partial
from sys import modules
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from . import fsdp2
from .caching import resumed
from .copying import remember_module
from .dtensors import DTENSOR
from .fsdp2 import MANAGED
from .hook import Hook, applies_as_ours
from .lazy import no_shape
from .lookup import SUSPENDED, is_in_place, methods_of, parameter_of, pruning_hooks
from .native import native_kind, ranks_original, select_one
from .reading import READ_BY_PARENT, ReadsProducts, start_reading, stop_reading
from .sharded import on_other_mesh, prepare
from .slots import add_buffer, add_parameter, original_and_mask, store
from .superseded import is_unsaid, keep_before, make_room, note_said
from .tying import holders, tied_mask

if TYPE_CHECKING:
    from .exchange import GroupExchange


def apply_method(
    method: Any,
    module: nn.Module,
    name: str,
    importance_scores: Tensor | None = None,
    selected: tuple[Tensor, Tensor | None] | None = None,
    exchange: GroupExchange | None = None,
) -> Any:
    """Prune ``module.<name>`` by ``method``, building on an earlier hook, inside a transaction.

    Args:
        method: will be the hook, or the last of its container.
        module: holds the tensor.
        name: of the tensor, without ``_orig``.
        importance_scores: what to rank instead of it.
        selected: the new mask, and the pruned tensor or None, where they are known already.
        exchange: with the processes that the tensor is spread over.

    Returns:
        The hook: the method, or the container that holds it and its predecessors.
    """
    if SUSPENDED in module.__dict__:
        with resumed(module):  # an ordinary module inside
            return apply_method(method, module, name, importance_scores, selected, exchange)
    if "parametrizations" in module._modules:
        from . import parametrization  # which imports this file

        if parametrization.find_masked(module, name) is not None:
            return parametrization.add_method(method, module, name, importance_scores, selected)
    if is_in_place(module, name):
        from . import inplace  # which imports this file

        return inplace.add_method(method, module, name, importance_scores, selected)
    old = find_hook(module, name)
    t = orig = _check_prunable(module, name, importance_scores, pruned=old is not None)
    if DTENSOR in modules:
        prepare(
            method,
            module,
            name,
            pruned=old is not None,
            selects=exchange is not None or selected is not None,
        )
    hook = take_over(method, module, name, orig, old)
    ours, mask = True, None
    if old is not None:
        ours = decides(hook)
        t, mask = original_and_mask(module, name)
        mask = mask.detach()
    elif id(orig) in holders:  # another module has it, too
        mask = tied_mask(orig, module, name)
    if selected is None:
        scores = importance_scores
        if scores is None:  # upstream ranks what earlier pruning left, a product without a gradient
            scores = t if ranks_original(method) else orig
        ranked = method if ours else None
        kind = None
        if exchange is not None:
            from . import spread

            kind = native_kind(ranked)
            if not spread.selects(kind):
                exchange.start(0, [])
                kind = None
        if exchange is not None and kind is not None:
            repeated = old is not None
            (new,) = spread.select(
                method, kind, (scores,), (mask,), exchange, (orig,), active_only=repeated
            )
            selected = new.to(scores.dtype if repeated else orig.dtype), None
        else:
            selected = select(hook, ranked, scores, mask, t, orig, repeated=old is not None)
    attach(hook, module, name, selected, orig if old is None else None)
    if MANAGED in module.__dict__:
        mask_shards(module, name)
    return hook


def mask_shards(module: nn.Module, name: str) -> None:
    """Once the transaction has succeeded, let FSDP2 know, if it manages ``module.<name>``."""
    from . import shard_masks
    from .rollback import after_success  # which imports this file

    managed = fsdp2.find_cached(module, name) or fsdp2.find_cached(module, name + "_orig")
    if managed is not None:
        after_success(partial(shard_masks.after_pruning, module, name, managed))


def take_over(
    method: Any,
    module: nn.Module,
    name: str,
    orig: Tensor,
    old: tuple[int, upstream.BasePruningMethod] | None,
) -> Any:
    """Rename the parameter, or take away its hook; the new hook, which is not registered yet.

    ``old`` is what :func:`find_hook` found.
    """
    method._tensor_name = name
    if old is None:
        add_parameter(module, name + "_orig", orig)  # type: ignore[arg-type]
        del module._parameters[name]
        return method
    key, hook = old
    mask = module._buffers.get(name + "_mask")
    if is_unsaid(hook, mask):
        keep_before(method, mask)  # type: ignore[arg-type]
    del module._forward_pre_hooks[key]
    return stack(hook, method)


def attach(
    hook: Any,
    module: nn.Module,
    name: str,
    selected: tuple[Tensor, Tensor | None],
    original: Tensor | None,
) -> None:
    """Register the hook and the mask, and set the product, which is computed if it is None.

    ``original`` is the parameter, or None where ``module.<name>`` was pruned before.
    """
    mask, product = selected
    add_buffer(module, name + "_mask", mask)
    if isinstance(module, READ_BY_PARENT):
        module.__dict__.pop(name, None)
        start_reading(module)
    else:
        if product is None or not applies_as_ours(hook):
            product = hook.apply_mask(module)
        store(module, name, product, was_parameter=original is not None)  # type: ignore[arg-type]
    module.register_forward_pre_hook(hook)
    remember_module(hook, module, original)
    note_said(hook, module._buffers.get(name + "_mask"))


def detach(module: nn.Module, key: int, hook: Any) -> Tensor:
    """Undo what :func:`attach` and :func:`take_over` did; the parameter, which has no name then."""
    name = hook._tensor_name
    del module._forward_pre_hooks[key]
    if isinstance(module, ReadsProducts):
        stop_reading(module, hook)
    module.__dict__.pop(name, None)
    orig: Any = module._parameters.pop(name + "_orig")
    del module._buffers[name + "_mask"]
    module._non_persistent_buffers_set.discard(name + "_mask")
    return orig  # type: ignore[no-any-return]


def select(
    hook: Any,
    method: Any,
    scores: Tensor,
    mask: Tensor | None,
    t: Tensor,
    like: Tensor,
    *,
    repeated: bool,
) -> tuple[Tensor, Tensor | None]:
    """The new mask of one tensor, and its product with ``t`` if one operator computes both.

    Args:
        hook: the method, or the container whose last method it is.
        method: None if the hook has a ``compute_mask`` of its own.
        scores: what to rank.
        mask: the mask to build upon, or None for ones.
        t: what the mask will be multiplied with.
        like: gives a mask of ones its shape and dtype.
        repeated: whether only what the mask leaves active is counted and ranked.
    """
    if method is not None:
        selected = select_one(method, scores, mask, t, repeated)
        if selected is not None:
            return selected
    # Upstream's way, which writes into the mask it is given.
    if mask is None:
        mask = torch.ones_like(like)
    else:
        mask = mask.clone(memory_format=torch.contiguous_format)
    if on_other_mesh(mask, t):  # an FSDP2 shard, for which masks are given, not selected
        scores = mask
    return hook.compute_mask(scores, default_mask=mask), None


def stack(hook: upstream.BasePruningMethod, method: Any) -> Any:
    """The hook as a container with one more method.

    A method of ours replaces upstream's own container by ours, but not one that derives from it.
    A method of upstream's, which comes here under :func:`~fastprune.patch`, stays among upstream's
    classes.
    """
    from . import container  # which imports this file; a whole module, as that is faster

    kind = container.PruningContainer
    ours = isinstance(method, Hook)
    is_container = isinstance(hook, upstream.PruningContainer)
    make_room(methods_of(hook), method)
    if is_container and not (ours and type(hook) is upstream.PruningContainer):
        stacked: Any = hook
        stacked.add_pruning_method(method)
    elif ours:
        stacked = kind(*(hook if is_container else (hook,)), method)  # type: ignore[misc]
    else:
        stacked = upstream.PruningContainer(hook)
        stacked.add_pruning_method(method)
    return stacked


def decides(stacked: Any) -> bool:
    """Whether a container's last method decides, as its ``compute_mask`` is ours."""
    from .container import deciding  # which imports this file

    own = id(type(stacked).compute_mask) in deciding
    return own and "compute_mask" not in stacked.__dict__


def find_hook(module: nn.Module, name: str) -> tuple[int, upstream.BasePruningMethod] | None:
    """The hook that prunes ``module.<name>``, ours or upstream's, and its key."""
    if not module._forward_pre_hooks:
        return None
    found = [(key, hook) for key, hook in pruning_hooks(module) if hook._tensor_name == name]
    if len(found) > 1:
        raise AssertionError(
            f"Avoid adding multiple pruning hooks to the same tensor {name} of module {module}: "
            f"expected at most 1, found {len(found)}. Use a PruningContainer."
        )
    return found[0] if found else None


def current(module: nn.Module, name: str) -> Tensor:
    """``module.<name>``, computed anew if the module has moved since: ``to`` moves no product."""
    tensor: Tensor = getattr(module, name)
    original = module._parameters.get(name + "_orig")
    if original is None or original.device == tensor.device:
        return tensor
    found = find_hook(module, name)
    return tensor if found is None else found[1].apply_mask(module)


def _check_prunable(module: nn.Module, name: str, scores: Tensor | None, *, pruned: bool) -> Tensor:
    """``module.<name>``, after the checks that need no computing."""
    parameter = parameter_of(module, name)  # past Module.__getattr__
    orig = current(module, name) if parameter is None else parameter
    if not pruned and parameter is None:
        if isinstance(orig, nn.Parameter):  # as that of what torch.compile returns
            raise KeyError(
                f"expected {name} to be a parameter of {type(module).__name__}, got one of another "
                "module, which that shows as its own: prune that module"
            )
        # A wrapper that shows those of a pruned module.
        if hasattr(module, name + "_orig") and name + "_orig" not in module._parameters:
            raise KeyError(
                f"attribute '{name}_orig' already exists: {type(module).__name__} shows another "
                "module's as its own; prune that module"
            )
        kind = KeyError if orig is None and name not in module._parameters else TypeError
        raise kind(f"expected {name} of {module} to be a Parameter, got {type(orig).__name__}")
    # torch's error for a shape that is asked for, or for a mask that is made
    if type(orig) is not nn.Parameter and is_lazy(orig):
        raise no_shape(orig, module, name, ValueError if scores is None else RuntimeError)
    if scores is not None:
        check_scores(module, name, scores, orig)
    result: Tensor = orig
    return result


def check_is_tensor(module: nn.Module, name: str, scores: Any) -> None:
    """Raise if ``scores``, for ``module.<name>``, are a list or an array."""
    if not hasattr(scores, "is_cpu"):
        raise AttributeError(
            f"expected importance_scores of {name} of {module} to be a Tensor, got "
            f"{type(scores).__name__}"
        )


def check_scores(module: nn.Module, name: str, scores: Tensor, orig: Tensor) -> None:
    """Raise if ``scores`` cannot be ranked in place of ``module.<name>``, which is ``orig``."""
    check_is_tensor(module, name, scores)
    if scores.shape != orig.shape:
        raise AssertionError(
            "importance_scores should have the same shape as parameter "
            f"{name} of {module}, got {scores.shape} vs {orig.shape}"
        )
    # Upstream writes by the indices of the scores, which may be on the CPU.
    if scores.device != orig.device and not scores.is_cpu and not orig.is_meta:
        raise RuntimeError(
            "importance_scores should be on the device of parameter "
            f"{name} of {module}, got {scores.device} vs {orig.device}"
        )
