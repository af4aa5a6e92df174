"""in_place: the pruned entries of a parameter are zero itself, and training keeps them so.

There is no product and no hook. A module keeps a mask of one byte or one bit an entry, and before
an optimizer's step one operator sets the gradients of all pruned entries to zero: with zero
gradient, zero value and zero state every optimizer of torch leaves an entry at zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.optim import Optimizer

from .apply import check_scores, decides, detach, select, stack
from .caching import is_cached
from .copying import remember_module
from .dtensors import is_dtensor
from .hook import applies_as_ours
from .lookup import IN_PLACE, pruning_hooks
from .masking import (
    Entries,
    Entry,
    forget,
    let_go,
    mask_gradients_of,
    mask_of,
    pairs_in,
    refuse_flattened,
    unwrapped,
    watch,
    zero_everything,
    zero_pruned,
)
from .native import ranks_original
from .notes import has_made, note_mask
from .packing import packed
from .reading import READ_BY_PARENT, start_reading
from .rollback import after_success, transaction
from .slots import store
from .superseded import is_unsaid, keep_before, note_said

__all__ = ["in_place", "mask_gradients", "restore"]

_Module = TypeVar("_Module", bound=nn.Module)


def in_place(
    model: _Module,
    optimizer: Optimizer | None = None,
    *,
    mask_dtype: torch.dtype | str = torch.bool,
    persistent: bool = True,
) -> _Module:
    """Train at the speed of a dense model: prune the parameters themselves, and keep them pruned.

    **The values of pruned entries are lost**: they are zero from now on, in the parameter itself,
    which has its plain name again. In the ordinary form of :mod:`torch.nn.utils.prune` they are
    kept in ``<name>_orig``, and every forward and backward multiplies with a mask.

    Before each ``optimizer.step()`` the gradients of pruned entries are set to zero, those of all
    tensors by one operator; what the optimizer's state holds for pruned entries is set to zero
    once. So they stay exactly zero, with momentum, weight decay, Adam's moments and gradient
    accumulation. Without an optimizer each gradient is masked as it is accumulated.

    Under DDP the order is, with an optimizer: backward, the reduction over processes, then, once a
    step and in every process, the masks. After ``backward`` pruned entries still have gradients.
    Without an optimizer each process masks a gradient as soon as it has accumulated it, and the
    masked ones are reduced: after ``backward`` gradients of pruned entries are zero. Both come to
    the same as long as all processes have the same masks (:func:`check_ranks`).

    Parameters are the same objects as before: optimizers, DDP and compilers see ordinary ones.
    :func:`l1_unstructured` and the other functions, :func:`global_unstructured`, :func:`is_pruned`
    and :func:`remove` know this form and keep it; :func:`restore` brings the ordinary form back.
    Loading a state dict sets pruned entries to zero again; other writes to the parameter do not,
    after which this is to be called again. Called again, it also takes what has been pruned since,
    and adds the optimizer. A copy of the model (``deepcopy``, ``pickle``) has this form too, as if
    it had been passed here without an optimizer. ``AveragedModel`` averages buffers with
    ``use_buffers=True``, which masks are.

    >>> model = prune.l1_unstructured(nn.Linear(8, 4), "weight", amount=0.75)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> model = prune.in_place(model, optimizer)
    >>> model(torch.randn(2, 8)).square().sum().backward()
    >>> optimizer.step()
    >>> type(model.weight).__name__, int((model.weight == 0).sum())
    ('Parameter', 24)

    As the masks of :func:`torch.nn.utils.prune.remove`, but kept.

    Args:
        model: pruned, with all its submodules; masks of 0 and 1.
        optimizer: any, of the parameters of ``model``; as it is, or as accelerate or Lightning wrap
            it.
        mask_dtype: torch.bool, or ``"bits"`` for one bit an entry; see :func:`packed`.
        persistent: whether masks are in the state dict, as ``<name>_mask``.

    Returns:
        The model.

    Raises:
        ValueError: ``mask_dtype`` is neither; a mask is not of 0 and 1 or requires a gradient; or
            modules that share a parameter have different masks of it.
        TypeError: a method has an ``apply_mask`` of its own; ``optimizer`` is none.
        RuntimeError: inside of :class:`cached`.
        NotImplementedError: a parameter is a DTensor, or FSDP1 (``FullyShardedDataParallel``) has
            flattened it; if that comes afterwards, the optimizer's step raises this.
            ``fully_shard`` may come afterwards, and then the optimizer, which is to be passed in a
            second call.
    """
    if optimizer is not None:
        optimizer = unwrapped(optimizer)
    if mask_dtype not in (torch.bool, "bits"):
        raise ValueError(f'expected mask_dtype to be torch.bool or "bits", got {mask_dtype!r}')
    for module, name in pairs_in(model.modules()):
        refuse_flattened(module, name, name)
    found = [pair for module in model.modules() for pair in _hooked(module)]
    kept = [_check(module, hook) for module, hook in found]
    _check_tied(model, found, kept)
    with transaction(*(module for module, _ in found)):
        for (module, hook), mask in zip(found, kept, strict=True):
            _convert(module, hook, mask, bits=mask_dtype == "bits", persistent=persistent)
    modules = [module for module in model.modules() if IN_PLACE in module.__dict__]
    zero_pruned(pairs_in(modules))
    watch(modules, optimizer)
    return model


def restore(model: _Module) -> _Module:
    """Bring the ordinary form back: ``<name>_orig``, ``<name>_mask`` and the hook are there again.

    Undoes :func:`in_place`, but for the values that are lost: pruned entries of ``<name>_orig`` are
    zero. The methods applied so far are those of the hook. As
    :func:`torch.nn.utils.prune.custom_from_mask` leaves a module.

    >>> layer = prune.in_place(prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.5))
    >>> list(layer.state_dict()), layer.weight_mask.dtype
    (['bias', 'weight', 'weight_mask'], torch.bool)
    >>> list(prune.restore(layer).state_dict()), layer.weight_mask.dtype
    (['bias', 'weight_orig', 'weight_mask'], torch.float32)

    Args:
        model: with all its submodules; those that are not pruned in place are left alone.

    Returns:
        The model.

    Raises:
        RuntimeError: inside of :class:`cached`.
    """
    modules = [module for module in model.modules() if IN_PLACE in module.__dict__]
    for module in modules:
        _refuse_cached(module)
    with transaction(*modules):
        for module in modules:
            for name, entry in module.__dict__[IN_PLACE].items():
                orig: Any = module._parameters[name]
                dtype = orig.dtype if entry.dtype.is_floating_point else entry.dtype
                was_made = has_made(entry.method, module._buffers[name + "_mask"])  # type: ignore[arg-type]
                mask = mask_of(module, name).to(dtype)
                forget(module, name)
                module.register_parameter(name + "_orig", orig)
                del module._parameters[name]
                module.register_buffer(name + "_mask", mask)
                if isinstance(module, READ_BY_PARENT):
                    start_reading(module)
                else:
                    product = entry.method.apply_mask(module)
                    store(module, name, product, was_parameter=True)
                module.register_forward_pre_hook(entry.method)
                remember_module(entry.method, module, orig)
                if was_made:
                    note_mask(entry.method, mask)
    for module in modules:
        let_go(module)
    return model


def mask_gradients(model: nn.Module) -> None:
    """Set the gradients of entries that :func:`in_place` has pruned to zero.

    To be called before :func:`torch.nn.utils.clip_grad_norm_`, so that pruned entries do not count:

    >>> model = prune.in_place(prune.l1_unstructured(nn.Linear(8, 4), "weight", 0.5))
    >>> model(torch.randn(2, 8)).square().sum().backward()
    >>> prune.mask_gradients(model)
    >>> norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    >>> int((model.weight.grad == 0).sum())
    16

    Args:
        model: with all its submodules.

    Returns:
        None.

    Raises:
        RuntimeError: a gradient has another shape or device than its mask.
    """
    mask_gradients_of(pairs_in(model.modules()))


def add_method(
    method: Any,
    module: nn.Module,
    name: str,
    importance_scores: Tensor | None,
    selected: tuple[Tensor, Tensor | None] | None,
) -> Any:
    """What ``apply_method`` does for a tensor that is pruned in place; inside a transaction."""
    entries: dict[str, Entry] = module.__dict__[IN_PLACE]
    entry = entries[name]
    param = module._parameters[name]
    assert param is not None
    if importance_scores is not None:
        check_scores(module, name, importance_scores, param)
    method._tensor_name = name
    mask = mask_of(module, name).to(entry.dtype)
    if is_unsaid(entry.method, module._buffers[name + "_mask"]):
        keep_before(method, mask)
    hook = stack(copy.copy(entry.method), method)
    if selected is None:
        t = param.detach()
        scores = importance_scores
        if scores is None:
            scores = param if ranks_original(method) else t
        ranked = method if decides(hook) else None
        selected = select(hook, ranked, scores, mask, t, t, repeated=True)
    new = _as_bool(selected[0], module, name)
    held = packed(new) if entry.bits else new
    module.register_buffer(name + "_mask", held, entry.persistent)
    note_said(hook, held)
    module.__dict__[IN_PLACE] = Entries(module, {**entries, name: entry._replace(method=hook)})
    after_success(lambda: zero_everything([(module, name)]))
    return hook


# ---- to the form and back ----


def _hooked(module: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """The module with each of its hooks that prune."""
    _refuse_cached(module)
    for _, hook in pruning_hooks(module):
        yield module, hook


def _refuse_cached(module: nn.Module) -> None:
    if is_cached(module):
        raise RuntimeError(f"expected {module} to be outside of cached(), got it inside")


def _check(module: nn.Module, hook: Any) -> Tensor:
    """The mask as bool, in the layout of the parameter."""
    name = hook._tensor_name
    refuse_flattened(module, name + "_orig", name)
    orig: Tensor = getattr(module, name + "_orig")
    mask: Tensor = getattr(module, name + "_mask")
    if is_dtensor(orig):
        raise NotImplementedError(
            f"expected {name} of {module} to be no DTensor, got one: call in_place before "
            "fully_shard; under tensor parallelism it is not supported"
        )
    if not applies_as_ours(hook) and type(hook).apply_mask is not _APPLY_MASK:
        raise TypeError(
            f"expected {name} of {module} to be pruned by a product with its mask, got a "
            f"{type(hook).__name__} with an apply_mask of its own"
        )
    if mask.requires_grad:
        raise ValueError(f"expected the mask of {name} of {module} to need no gradient")
    return torch.empty_like(orig, dtype=torch.bool).copy_(_as_bool(mask, module, name))


def _as_bool(mask: Tensor, module: nn.Module, name: str) -> Tensor:
    """The mask as bool, which this form keeps; ValueError if that loses anything."""
    kept = mask != 0
    if not torch.equal(kept.to(mask.dtype), mask):
        raise ValueError(f"expected the mask of {name} of {module} to hold 0 and 1 only")
    return kept


#: Upstream's own, of hooks that upstream has made.
_APPLY_MASK = upstream.BasePruningMethod.apply_mask


def _check_tied(model: nn.Module, found: list[tuple[nn.Module, Any]], kept: list[Tensor]) -> None:
    pairs = pairs_in(model.modules())
    first = {id(module._parameters[name]): mask_of(module, name) for module, name in pairs}
    for (module, hook), mask in zip(found, kept, strict=True):
        orig = getattr(module, hook._tensor_name + "_orig")
        if not torch.equal(first.setdefault(id(orig), mask), mask):
            raise ValueError(
                f"expected modules that share {hook._tensor_name} of {module} to have one mask, "
                "got different ones, which one parameter cannot have"
            )


def _convert(module: nn.Module, hook: Any, kept: Tensor, *, bits: bool, persistent: bool) -> None:
    name = hook._tensor_name
    dtype = getattr(module, name + "_mask").dtype
    key = next(key for key, other in pruning_hooks(module) if other is hook)
    was_made = has_made(hook, module._buffers[name + "_mask"])  # type: ignore[arg-type]
    setattr(module, name, detach(module, key, hook))  # an RNN's list of weights, too
    held = packed(kept) if bits else kept
    module.register_buffer(name + "_mask", held, persistent)
    if was_made:
        note_mask(hook, held)
    entries = module.__dict__.get(IN_PLACE, {})
    module.__dict__[IN_PLACE] = Entries(
        module, {**entries, name: Entry(hook, bits, persistent, dtype)}
    )
