"""The functions of torch.nn.utils.prune, on our methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.nn.utils.prune import is_pruned, remove

from .apply import apply_method
from .container import PruningContainer
from .methods import (
    CustomFromMask,
    Identity,
    L1Unstructured,
    LnStructured,
    RandomStructured,
    RandomUnstructured,
)
from .native import native_kind, ranks_original
from .patterns import common_dtype
from .rollback import transaction

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


def identity(module: _Module, name: str) -> _Module:
    """Register mask and hook for ``module.<name>`` without pruning.

    As :func:`torch.nn.utils.prune.identity`.

    Args:
        module: holds the tensor.
        name: of the parameter, of any shape and dtype.

    Returns:
        The module, with a mask of ones, ``<name>_mask``, of the parameter's shape and dtype.

    Raises:
        AttributeError: the module has nothing of that name.
        TypeError: what it has is no parameter.
    """
    Identity.apply(module, name)
    return module


def random_unstructured(module: _Module, name: str, amount: int | float) -> _Module:
    """Prune random entries of ``module.<name>``, those upstream prunes with the same seed.

    As :func:`torch.nn.utils.prune.random_unstructured`.

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of any shape; float64, float32, float16 and bfloat16 natively.
        amount: a float in [0, 1] is a fraction of the active entries, an int their number.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter.
        ValueError: the amount is out of range, or exceeds the active entries.
    """
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(
    module: _Module,
    name: str,
    amount: int | float,
    importance_scores: Tensor | None = None,
) -> _Module:
    """Prune the entries of ``module.<name>`` of smallest magnitude.

    As :func:`torch.nn.utils.prune.l1_unstructured`; among equal magnitudes the lowest index is
    pruned first.

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of any shape; float64, float32, float16 and bfloat16 natively.
        amount: a float in [0, 1] is a fraction of the active entries, an int their number.
        importance_scores: rank these instead of the parameter; of its shape.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter.
        ValueError: the amount is out of range, or exceeds the active entries.
        AssertionError: the scores have another shape than the parameter.
        RuntimeError: the scores are on another device.
    """
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: _Module, name: str, amount: int | float, dim: int) -> _Module:
    """Prune random channels of ``module.<name>``, those upstream prunes with the same seed.

    As :func:`torch.nn.utils.prune.random_structured`.

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of two dims at least; float64, float32, float16 and bfloat16
            natively.
        amount: a float in [0, 1] is a fraction of the active channels, an int their number.
        dim: the dim that counts channels.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter.
        ValueError: the amount is out of range, or exceeds the active channels; under two dims.
        IndexError: ``dim`` is out of range.
    """
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: _Module,
    name: str,
    amount: int | float,
    n: int | float | str,
    dim: int,
    importance_scores: Tensor | None = None,
) -> _Module:
    """Prune the channels of ``module.<name>`` of smallest ``n``-norm.

    As :func:`torch.nn.utils.prune.ln_structured`; among equal norms the lowest channel is pruned
    first.

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of two dims at least; float64, float32, float16 and bfloat16
            natively.
        amount: a float in [0, 1] is a fraction of the active channels, an int their number.
        n: order of the norm: a number, infinity, 'fro' or 'nuc'; see :func:`torch.linalg.norm`.
        dim: the dim that counts channels.
        importance_scores: take norms of these instead of the parameter; of its shape.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter.
        ValueError: the amount is out of range, or exceeds the active channels; under two dims.
        IndexError: ``dim`` is out of range.
        AssertionError: the scores have another shape than the parameter.
        RuntimeError: the scores are on another device.
    """
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: _Module, name: str, mask: Tensor) -> _Module:
    """Prune what ``mask`` prunes of ``module.<name>``.

    As :func:`torch.nn.utils.prune.custom_from_mask`.

    Args:
        module: holds the tensor to prune.
        name: of the parameter, of any shape.
        mask: of the parameter's shape, of any dtype; multiplied with the mask of earlier pruning.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter.
        AssertionError: the mask has another shape than the parameter.
    """
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(
    parameters: Iterable[tuple[nn.Module, str]],
    pruning_method: type[upstream.BasePruningMethod],
    importance_scores: dict[tuple[nn.Module, str], Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prune many parameters with one budget over all of them.

    As :func:`torch.nn.utils.prune.global_unstructured`. A transaction over all modules: if
    anything fails, each is as it was.

    Args:
        parameters: (module, name) pairs; any iterable, a generator too.
        pruning_method: an unstructured method, ours or any other.
        importance_scores: by pair, what to rank instead of the parameter; of its shape.
        kwargs: passed to the method, such as ``amount``.

    Raises:
        TypeError: ``parameters`` is no iterable, ``importance_scores`` no dict, the method is not
            unstructured, or the parameters are on different devices.
        ValueError: there are no parameters; the amount exceeds the active entries of all.
        AssertionError: importance scores have another shape than their parameter.
    """
    prune_globally(
        parameters, pruning_method, importance_scores, kwargs, CustomFromMask, PruningContainer
    )


def prune_globally(
    parameters: Iterable[tuple[nn.Module, str]],
    pruning_method: type[upstream.BasePruningMethod],
    importance_scores: dict[tuple[nn.Module, str], Tensor] | None,
    options: dict[str, Any],
    from_mask: Any,
    container: Any,
) -> None:
    """:func:`global_unstructured` with classes of ours or upstream's.

    Args:
        parameters: as there.
        pruning_method: as there.
        importance_scores: as there.
        options: passed to the method.
        from_mask: ``CustomFromMask``, which becomes the hook.
        container: ``PruningContainer``, for methods that no operator decides.
    """
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    if importance_scores is not None and not isinstance(importance_scores, dict):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    pairs = list(parameters)
    if not pairs:
        raise ValueError("global_unstructured(): expected at least one parameter, got none")
    method: Any = pruning_method(**options)
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            'Only "unstructured" PRUNING_TYPE supported for '
            f"the `pruning_method`. Found method {pruning_method} of type {method.PRUNING_TYPE}"
        )
    given = importance_scores or {}
    scores = _scores_of(method, pairs, given)
    dtype = common_dtype(scores)
    if not ranks_original(method):  # which may need the gradient of its argument
        scores = [score.to(dtype) for score in scores]
    old = [getattr(module, name + "_mask", None) for module, name in pairs]
    masks = [None if mask is None else mask.to(dtype) for mask in old]
    originals = _originals(pairs)
    once = len(set(pairs)) == len(pairs)
    kind = native_kind(method)
    native = kind is not None and _accepts(kind, method, old, scores, originals)
    if native and (once or ranks_original(method)):
        new, products = kind.select(method, scores, masks, originals, active_only=True)
    else:
        new, products = _select_by_upstream(container, method, scores, masks), None
    with transaction(*(module for module, _ in pairs)):
        for i, (module, name) in enumerate(pairs):
            if not native or not once:
                from_mask.apply(module, name, new[i])
                continue
            # The new mask holds the old one already, so there is nothing to combine it with.
            mask = new[i].to(getattr(module, name).dtype)
            product = None if products is None else products[i]
            apply_method(from_mask(mask), module, name, selected=(mask, product))


def _scores_of(
    method: Any,
    pairs: list[tuple[nn.Module, str]],
    given: dict[tuple[nn.Module, str], Tensor],
) -> list[Tensor]:
    """What to rank for each pair, in the shape of its parameter."""
    scores: list[Tensor] = []
    for module, name in pairs:
        param = getattr(module, name)
        score = given.get((module, name))
        if score is None:
            score = getattr(module, name + "_orig", param) if ranks_original(method) else param
        if score.numel() != param.numel():
            raise AssertionError(
                "importance_scores should have the same shape as parameter "
                f"{name} of {module}, got {score.shape} vs {param.shape}"
            )
        if scores and score.device != scores[0].device:
            raise TypeError(
                f"expected {name} of {module} to be on the device of the parameters before it, "
                f"{scores[0].device}, got {score.device}"
            )
        scores.append(score if score.shape == param.shape else score.reshape(param.shape))
    return scores


def _originals(pairs: list[tuple[nn.Module, str]]) -> list[Tensor] | None:
    """The unpruned parameter of each pair; None if one has none, which apply_method will report."""
    originals = [
        module._parameters.get(name + "_orig", module._parameters.get(name))
        for module, name in pairs
    ]
    return None if any(t is None for t in originals) else originals  # type: ignore[return-value]


def _accepts(
    kind: Any,
    method: Any,
    masks: list[Tensor | None],
    scores: list[Tensor],
    originals: list[Tensor] | None,
) -> bool:
    """Whether the method selects natively among these tensors."""
    accepts = kind.accepts
    pairs = zip(masks, scores, strict=True)
    return all(accepts(method, mask, score) for mask, score in pairs) and all(
        accepts(method, None, t) for t in originals or ()
    )


def _select_by_upstream(
    container: Any, method: Any, scores: list[Tensor], masks: list[Tensor | None]
) -> list[Tensor]:
    """The masks that upstream computes on one flat tensor."""
    method._tensor_name = "temp"
    flat = torch.cat([score.reshape(-1) for score in scores])
    ones = [torch.ones_like(s) if m is None else m for m, s in zip(masks, scores, strict=True)]
    flat_mask = torch.cat([mask.reshape(-1) for mask in ones])
    mask = container(method).compute_mask(flat, flat_mask)
    parts = mask.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]
