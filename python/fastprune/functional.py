"""The functions of torch.nn.utils.prune, on our methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from .caching import is_cached, resumed
from .container import PruningContainer
from .globally import prune_globally
from .keywords import MISSING, passed
from .lookup import (
    IN_PLACE,
    KINDS,
    SUSPENDED,
    is_in_place,
    not_a_module,
)
from .masking import forget, let_go
from .methods import (
    CustomFromMask,
    Identity,
    L1Unstructured,
    LnStructured,
    RandomStructured,
    RandomUnstructured,
)
from .parametrization import find_masked, masks_in, remove_masked
from .refreshing import stop_refreshing
from .replacing import asks_to_replace
from .scores import Score
from .sharded import is_group
from .untraced import untraced

__all__ = [
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]

_Module = TypeVar("_Module", bound=nn.Module)

#: Upstream's own, which under `patch` are not what its module has.
_REMOVE: Any = upstream.remove


def identity(module: _Module, name: str, *, replace: bool = False) -> _Module:
    """Register mask and hook for ``module.<name>`` without pruning.

    As :func:`torch.nn.utils.prune.identity`.

    >>> m = prune.identity(nn.Linear(4, 2), "weight")
    >>> list(m.state_dict()), m.weight_mask.shape
    (['bias', 'weight_orig', 'weight_mask'], torch.Size([2, 4]))

    Args:
        module: holds the tensor.
        name: of the parameter, of any shape and dtype.
        replace: in place of the newest method, see :func:`l1_unstructured`.

    Returns:
        The module, with a mask of ones, ``<name>_mask``, of the parameter's shape and dtype.

    Raises:
        AttributeError: the module has nothing of that name.
        TypeError: what it has is no parameter.
        ValueError, NotImplementedError: to replace, as :func:`l1_unstructured`.
    """
    Identity.apply(module, name, **passed(replace=replace))
    return module


def random_unstructured(
    module: _Module,
    name: str,
    amount: int | float | None = None,
    *,
    sparsity: float | None = None,
    replace: bool = False,
) -> _Module:
    """Prune random entries of ``module.<name>``, those upstream prunes with the same seed.

    As :func:`torch.nn.utils.prune.random_unstructured`.

    >>> m = prune.random_unstructured(nn.Linear(8, 4), "weight", amount=10)
    >>> m.weight_mask.sum()
    tensor(22.)

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of any shape; float64, float32, float16 and bfloat16 natively.
        amount: a float in [0, 1] is a fraction of the active entries, an int their number.
        sparsity: in place of ``amount``, as in :func:`l1_unstructured`.
        replace: in place of the newest method, as in :func:`l1_unstructured`.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter; there is
            neither amount nor sparsity.
        ValueError: the amount is out of range, or exceeds the active entries; there are both; the
            mask before a method to replace is not known.
        NotImplementedError: as :func:`l1_unstructured`.
    """
    RandomUnstructured.apply(module, name, amount, **passed(sparsity, replace))
    return module


def l1_unstructured(
    module: _Module,
    name: str,
    amount: int | float | None = None,
    importance_scores: Tensor | None = None,
    *,
    sparsity: float | None = None,
    factor: Tensor | None = None,
    score: Score | None = None,
    replace: bool = False,
) -> _Module:
    """Prune the entries of ``module.<name>`` of smallest magnitude.

    As :func:`torch.nn.utils.prune.l1_unstructured`; among equal magnitudes the lowest index is
    pruned first.

    >>> m = prune.l1_unstructured(nn.Linear(8, 4), "weight", sparsity=0.75)
    >>> m.weight_mask.sum()
    tensor(8.)
    >>> prune.l1_unstructured(m, "weight", sparsity=0.5, replace=True).weight_mask.sum()
    tensor(16.)

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of any shape; float64, float32, float16 and bfloat16 natively.
        amount: a float in [0, 1] is a fraction of the active entries, an int their number.
        importance_scores: rank these instead of the parameter; of its shape.
        sparsity: in place of ``amount``, the fraction of all entries that is pruned in the end,
            those pruned before included. Upon an old mask these are counted, on CUDA too, and one
            number is read back to the host.
        factor: broadcasts to the parameter, and multiplies the magnitudes that are ranked.
        score: called in place of ranking magnitudes, as in :class:`Unstructured`.
        replace: put the method in the place of the newest one of this tensor: what only that pruned
            may return, what others pruned does not. The mask of before has to be known: the newest
            is the only one, was applied with ``replace=True`` itself or is :func:`identity`, or the
            others have given masks, as :func:`custom_from_mask` and :func:`global_unstructured`
            leave them.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter; there is
            neither amount nor sparsity; there are a factor and a score.
        ValueError: the amount is out of range, or exceeds the active entries; there are both; the
            mask before a method to replace is not known.
        AssertionError: the scores have another shape than the parameter.
        RuntimeError: the scores are on another device; the factor does not broadcast.
        NotImplementedError: a parameter is spread over processes, and there is a sparsity, a factor
            or a score, or a method to replace; or it is pruned in place, and there is one.
    """
    L1Unstructured.apply(
        module,
        name,
        amount,
        importance_scores,
        **passed(sparsity, replace, factor, score),
    )
    return module


def random_structured(
    module: _Module,
    name: str,
    amount: int | float | None = None,
    dim: int | None = None,
    *,
    sparsity: float | None = None,
    replace: bool = False,
) -> _Module:
    """Prune random channels of ``module.<name>``, those upstream prunes with the same seed.

    As :func:`torch.nn.utils.prune.random_structured`.

    >>> m = prune.random_structured(nn.Linear(8, 4), "weight", amount=2, dim=1)
    >>> (m.weight_mask == 0).all(dim=0).sum()
    tensor(2)

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of two dims at least; float64, float32, float16 and bfloat16
            natively.
        amount: a float in [0, 1] is a fraction of the active channels, an int their number.
        dim: the dim that counts channels.
        sparsity: in place of ``amount``, as in :func:`ln_structured`.
        replace: in place of the newest method, as in :func:`l1_unstructured`.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter; there is
            neither amount nor sparsity, or no dim.
        ValueError: the amount is out of range, or exceeds the active channels; there are both;
            under two dims; the mask before a method to replace is not known.
        IndexError: ``dim`` is out of range.
        NotImplementedError: as :func:`l1_unstructured`.
    """
    if dim is None:
        raise TypeError("random_structured() missing 1 required argument: 'dim'")
    RandomStructured.apply(module, name, amount, dim, **passed(sparsity, replace))
    return module


def ln_structured(
    module: _Module,
    name: str,
    amount: int | float | None = None,
    n: int | float | str | None = MISSING,
    dim: int | None = None,
    importance_scores: Tensor | None = None,
    *,
    sparsity: float | None = None,
    factor: Tensor | None = None,
    score: Score | None = None,
    replace: bool = False,
) -> _Module:
    """Prune the channels of ``module.<name>`` of smallest ``n``-norm.

    As :func:`torch.nn.utils.prune.ln_structured`; among equal norms the lowest channel is pruned
    first.

    >>> m = prune.ln_structured(nn.Conv2d(3, 8, 5), "weight", amount=0.25, n=2, dim=0)
    >>> m.weight_mask.shape, int((m.weight_mask == 0).flatten(1).all(dim=1).sum())
    (torch.Size([8, 3, 5, 5]), 2)

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of two dims at least; float64, float32, float16 and bfloat16
            natively.
        amount: a float in [0, 1] is a fraction of the active channels, an int their number.
        n: order of the norm: a number, infinity, 'fro' or 'nuc'; see :func:`torch.linalg.norm`.
        dim: the dim that counts channels.
        importance_scores: take norms of these instead of the parameter; of its shape.
        sparsity: in place of ``amount``, the fraction of all channels that is pruned in the end,
            those of which nothing is left included; otherwise as in :func:`l1_unstructured`.
        factor: broadcasts to the parameter; norms are those of ``|t| * |factor|``.
        score: gives a number for each channel in place of its norm, as in :class:`Structured`;
            there need be no ``n`` then.
        replace: in place of the newest method, as in :func:`l1_unstructured`.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter; there is
            neither amount nor sparsity, no ``n`` or dim; there are a factor and a score.
        ValueError: the amount is out of range, or exceeds the active channels; there are both;
            under two dims; the mask before a method to replace is not known.
        IndexError: ``dim`` is out of range.
        AssertionError: the scores have another shape than the parameter.
        RuntimeError: the scores are on another device; the factor does not broadcast.
        NotImplementedError: as :func:`l1_unstructured`.
    """
    if dim is None:
        raise TypeError("ln_structured() missing 1 required argument: 'dim'")
    LnStructured.apply(
        module,
        name,
        amount,
        n,
        dim,
        importance_scores,
        **passed(sparsity, replace, factor, score),
    )
    return module


def remove(module: _Module, name: str) -> _Module:
    """Make ``module.<name>`` a parameter again, pruned for good.

    As :func:`torch.nn.utils.prune.remove`; pruning is not undone.

    >>> m = prune.l1_unstructured(nn.Linear(8, 4), "weight", amount=0.5)
    >>> m = prune.remove(m, "weight")
    >>> type(m.weight).__name__, int((m.weight == 0).sum()), list(m.state_dict())
    ('Parameter', 16, ['bias', 'weight'])

    Args:
        module: holds the pruned tensor.
        name: of the tensor.

    Returns:
        The module, without ``<name>_orig``, ``<name>_mask`` and the hook (or parametrization).

    Raises:
        ValueError: nothing prunes a tensor of that name.
        AttributeError: it is no module.
        RuntimeError: it has other parametrizations than its mask.
    """
    if is_dynamo_compiling():
        untraced(remove, module, name)
        return module
    if not hasattr(module, "_forward_pre_hooks"):
        raise not_a_module(module, "_forward_pre_hooks")
    if find_masked(module, name) is not None:
        remove_masked(module, name)
        return module
    if is_in_place(module, name):
        forget(module, name)
        let_go(module)
        stop_refreshing(module, None)
        return module
    with resumed(module) if is_cached(module) else nullcontext():
        result: _Module = _REMOVE(module, name)
    return result


def is_pruned(module: nn.Module) -> bool:
    """Whether anything in ``module`` is pruned: by a hook, a parametrization or in place.

    As :func:`torch.nn.utils.prune.is_pruned`.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    >>> prune.is_pruned(model)
    False
    >>> m = prune.l1_unstructured(model[0], "weight", amount=0.5)
    >>> prune.is_pruned(model)
    True

    Args:
        module: with all its submodules.

    Returns:
        True or False.

    Raises:
        AttributeError: it is no module.
    """
    for _, each in module.named_modules():
        hooks = each._forward_pre_hooks.values()  # an attribute, which another object may lend
        if hooks and any(isinstance(hook, KINDS) for hook in hooks):
            return True
        attributes = getattr(each, "__dict__", {})
        if SUSPENDED in attributes:
            if attributes[SUSPENDED].hooks:
                return True
        elif IN_PLACE in attributes:
            return True
        if "parametrizations" in attributes.get("_modules", ()) and masks_in(each):
            return True
    return False


def custom_from_mask(module: _Module, name: str, mask: Tensor, *, replace: bool = False) -> _Module:
    """Prune what ``mask`` prunes of ``module.<name>``.

    As :func:`torch.nn.utils.prune.custom_from_mask`.

    >>> mask = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]])
    >>> prune.custom_from_mask(nn.Linear(4, 2), "weight", mask).weight_mask
    tensor([[1., 0., 1., 0.],
            [0., 1., 0., 1.]])

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of any shape.
        mask: of the parameter's shape, of any dtype; multiplied with the mask of earlier pruning.
            For a DTensor a DTensor too, or the whole mask, the same in all processes.
        replace: in place of the newest method, as in :func:`l1_unstructured`.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype, and its placements.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter.
        AssertionError: the mask has another shape than the parameter.
        RuntimeError: the parameter is under ``fully_shard``, and a forward or backward uses it.
        ValueError, NotImplementedError: to replace, as :func:`l1_unstructured`.
    """
    CustomFromMask.apply(module, name, mask, **passed(replace=replace))
    return module


def global_unstructured(
    parameters: Iterable[tuple[nn.Module, str]],
    pruning_method: type[upstream.BasePruningMethod],
    importance_scores: Mapping[tuple[nn.Module, str], Tensor] | None = None,
    *,
    group: Any = None,
    **kwargs: Any,
) -> None:
    """Prune many parameters with one budget over all of them.

    As :func:`torch.nn.utils.prune.global_unstructured`, but a Parameter that is listed several
    times, because modules share it, counts once. Its old mask is the product of theirs, and all of
    them get its new mask. A transaction over all modules: if anything fails, each is as it was.

    >>> up, down = nn.Linear(8, 16), nn.Linear(16, 8)
    >>> parameters = [(up, "weight"), (down, "weight")]
    >>> prune.global_unstructured(parameters, prune.L1Unstructured, amount=0.5)
    >>> up.weight_mask.sum() + down.weight_mask.sum()
    tensor(128.)

    Args:
        parameters: (module, name) pairs; any iterable, a generator too.
        pruning_method: an unstructured method, ours or any other.
        importance_scores: any mapping from pairs to what to rank instead, of the parameter's shape.
            Of several pairs of one Parameter, those of the first that has any.
        group: a process group: one budget over the parameters of all its processes, each of which
            passes its own. Not needed for DTensors, of which all processes pass the same.
        kwargs: passed to the method, such as ``amount``. With ``sparsity``, absolute, all entries
            of all parameters count; a ``factor`` is one tensor for all, or a mapping from pairs.
            ``replace=True`` is not passed, unless the constructor takes an argument of this name:
            in place of the newest method of each parameter, as in :func:`l1_unstructured`.

    Raises:
        TypeError: ``parameters`` is no iterable, ``importance_scores`` no mapping, the method is
            not unstructured, or only some of the parameters are on meta, or are DTensors.
        ValueError: there are no parameters; the amount exceeds the active entries of all; the
            processes of a group prune different DTensors; a mapping has no factor for a parameter;
            or the mask before a method to replace is not known.
        IndexError: importance scores have another number of entries than their parameter.
        NotImplementedError: the method cannot select over processes, and there is a group or a
            parameter is a DTensor; or a parameter is a DTensor or pruned in place, and there is a
            method to replace.
        RuntimeError: another process of the group failed; nothing is pruned in any.
    """
    if group is not None and not is_group(group):  # an argument of a user's method
        kwargs["group"], group = group, None
    replaces = asks_to_replace(pruning_method, kwargs)
    prune_globally(
        parameters,
        pruning_method,
        importance_scores,
        kwargs,
        CustomFromMask,
        PruningContainer,
        group,
        replaces,
    )
