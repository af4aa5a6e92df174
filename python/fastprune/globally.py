"""What ``global_unstructured`` does: one budget for many parameters."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from sys import modules
from typing import Any

import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.parameter import is_lazy

from .apply import apply_method, check_is_tensor, current
from .dtensors import DTENSOR
from .keywords import choose_factors, has_keywords
from .lazy import no_shape
from .lookup import is_in_place, pairs_of, parameters_of
from .native import kind_of, native_kind, ranks_original
from .parametrization import mask_of, original_of
from .parts import are_parts, common_dtype
from .patterns import Entries
from .replacing import replaced
from .rollback import transaction
from .sharded import check_selection, explain, get_shards
from .superseded import mark_round, share_round
from .tying import by_parameter, holders
from .untraced import untraced


def prune_globally(
    parameters: Iterable[tuple[nn.Module, str]],
    pruning_method: type[upstream.BasePruningMethod],
    importance_scores: Mapping[tuple[nn.Module, str], Tensor] | None,
    options: dict[str, Any],
    from_mask: Any,
    container: Any,
    group: Any = None,
    replaces: bool = False,
) -> None:
    """:func:`global_unstructured` with classes of ours or upstream's.

    Args:
        parameters: as there.
        pruning_method: as there.
        importance_scores: as there.
        options: passed to the method.
        from_mask: ``CustomFromMask``, which becomes the hook.
        container: ``PruningContainer``, for methods that no operator decides.
        group: as there.
        replaces: ``replace`` there.
    """
    if is_dynamo_compiling():
        return untraced(
            prune_globally,
            parameters,
            pruning_method,
            importance_scores,
            options,
            from_mask,
            container,
            group,
            replaces,
        )
    pairs = pairs_of("global_unstructured", parameters)
    if importance_scores is not None and not isinstance(importance_scores, Mapping):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    if not pairs and group is None:
        raise ValueError("global_unstructured(): expected at least one parameter, got none")
    exchange = None
    if group is not None or DTENSOR in modules:
        from .spread import exchange_of

        get_shards(pairs, pruning_method)
        exchange = exchange_of(kind_of(pruning_method), pairs, group)
    # The last message of an exchange comes while everything can still be undone.
    together = nullcontext() if exchange is None else exchange.together()
    replacing = replaced(pairs) if replaces else nullcontext()
    with transaction(*(module for module, _ in pairs)), together, replacing:
        method = make_unstructured(pruning_method, options)
        hooks = _prune_globally(
            pairs, method, importance_scores or {}, from_mask, container, exchange
        )
    for hook in hooks:
        share_round(hook)


def make_unstructured(kind: Any, options: dict[str, Any]) -> Any:
    """A method of this class, or by this function, which has to be an unstructured one."""
    try:
        method = kind(**options)
    except TypeError as error:
        if isinstance(kind, type):
            raise
        raise TypeError(
            "expected pruning_method to be a class such as L1Unstructured, or a function that "
            f"makes a method, got {kind!r}, which failed: {error}"
        ) from error
    of_class = has_keywords(method) and type(method).PRUNING_TYPE == "unstructured"
    if method.PRUNING_TYPE != "unstructured" and not of_class:
        raise TypeError(
            'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. '
            f"Found method {kind} of type {method.PRUNING_TYPE}"
        )
    return method


def _prune_globally(
    pairs: list[tuple[nn.Module, str]],
    method: Any,
    given: Mapping[tuple[nn.Module, str], Tensor],
    from_mask: Any,
    container: Any,
    exchange: Any,
) -> list[Any]:
    """What is inside of the transaction; the new hooks."""
    if exchange is None:
        check_selection(method, pairs)
    of_pairs = _scores_of(method, pairs, given)
    groups = by_parameter(pairs)
    choose_factors(method, [[pairs[i] for i in group] for group in groups])
    scores = [of_pairs[_first_given(group, pairs, given)] for group in groups]
    old = [_old_mask([pairs[i] for i in group]) for group in groups]
    originals = _originals([pairs[group[0]] for group in groups])
    kind = native_kind(method)
    native, products = True, None
    if exchange is not None:
        from . import spread

        new = spread.select(method, kind, scores, old, exchange, originals, active_only=True)
    else:
        native = kind is not None and _accepts(kind, method, old, scores, originals)
        try:
            if native:
                if not (_ranks_magnitudes(kind) and are_parts(scores)):
                    scores, old = _promoted(method, scores, old)
                new, products = kind.select(method, scores, old, originals, active_only=True)
            else:
                scores, old = _promoted(method, scores, old)
                likes = [current(*pairs[group[0]]) for group in groups]
                new = _select_by_upstream(container, method, scores, old, likes)
        except RuntimeError as error:
            explain(error, method, pairs)
            raise
    hooks = []
    for g, group in enumerate(groups):
        for i in group:
            module, name = pairs[i]
            # A module that is not listed may have pruned the Parameter, too.
            tied = i != group[0] or id(module._parameters.get(name)) in holders
            mask, selected = new[g], None
            if native and (not tied or is_in_place(module, name)):
                # It holds the old mask already, so there is nothing to combine it with.
                mask = mask.to(getattr(module, name).dtype)
                selected = mask, None if products is None else products[g]
            round_ = from_mask(mask)
            mark_round(round_)
            try:
                hooks.append(apply_method(round_, module, name, selected=selected))
            except RuntimeError as error:
                explain(error, round_, [(module, name)])
                raise
    return hooks


def _promoted(
    method: Any, scores: list[Tensor], masks: list[Tensor | None]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Scores and masks in the dtype to which the scores promote."""
    dtype = common_dtype(scores)
    if not ranks_original(method):  # which may need the gradient of its argument
        scores = [score.to(dtype) for score in scores]
    return scores, [None if mask is None else mask.to(dtype) for mask in masks]


def _ranks_magnitudes(kind: Any) -> bool:
    """Whether a method, of which this is the native kind, ranks entries by magnitude."""
    pattern = None if kind is None else kind.pattern
    return isinstance(pattern, Entries) and not pattern.signed and not pattern.largest


def _first_given(
    group: list[int],
    pairs: list[tuple[nn.Module, str]],
    given: Mapping[tuple[nn.Module, str], Tensor],
) -> int:
    """The first of several pairs of one Parameter that has importance scores, or just the first."""
    if not given or len(group) == 1:
        return group[0]
    has_scores = (i for i in group if given.get((pairs[i][0], pairs[i][1])) is not None)
    return next(has_scores, group[0])


def _old_mask(pairs: list[tuple[nn.Module, str]]) -> Tensor | None:
    """What all pairs of one Parameter have left of it; None for ones."""
    masks = [mask_of(module, name) for module, name in pairs]
    there = [mask for mask in masks if mask is not None]
    return functools.reduce(torch.mul, there) if there else None


def _scores_of(
    method: Any,
    pairs: list[tuple[nn.Module, str]],
    given: Mapping[tuple[nn.Module, str], Tensor],
) -> list[Tensor]:
    """What to rank for each pair, in the shape of its parameter."""
    scores: list[Tensor] = []
    for module, name in pairs:
        param = current(module, name)
        if is_lazy(param):
            raise no_shape(param, module, name)
        if not isinstance(param, Tensor):  # as the bias of a layer that has none
            raise AttributeError(
                f"expected {name} of {module} to be a Parameter, got {type(param).__name__}"
            )
        score = given.get((module, name))
        if score is None:
            score = original_of(module, name) if ranks_original(method) else param
        check_is_tensor(module, name, score)
        if score.numel() != param.numel():
            raise IndexError(
                "importance_scores should have the same shape as parameter "
                f"{name} of {module}, got {score.shape} vs {param.shape}"
            )
        if scores and score.is_meta != scores[0].is_meta:
            raise TypeError(
                f"expected {name} of {module} to be on a device with data, as the parameters "
                f"before it, or all of them on meta, got {score.device} after {scores[0].device}"
            )
        if score.device != param.device and not param.is_meta:
            score = score.to(param.device)
        scores.append(score if score.shape == param.shape else score.reshape(param.shape))
    return scores


def _originals(pairs: list[tuple[nn.Module, str]]) -> list[Tensor] | None:
    """The unpruned parameter of each pair.

    None if one has none, which apply_method will report, or if the products have to be computed by
    themselves, as those of inference tensors, which get a gradient outside of inference mode.
    """
    originals = parameters_of(pairs)
    return None if any(t is None or t.is_inference() for t in originals) else originals


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
    container: Any,
    method: Any,
    scores: list[Tensor],
    masks: list[Tensor | None],
    likes: list[Tensor],
) -> list[Tensor]:
    """The masks that upstream computes on one flat tensor, which is on the first one's device.

    Masks of ones are of the class of ``likes``, the parameters.
    """
    method._tensor_name = "temp"
    device = scores[0].device
    flat = torch.cat([score.reshape(-1).to(device) for score in scores])
    each = zip(masks, scores, likes, strict=True)
    old = [torch.ones_like(t, dtype=s.dtype) if m is None else m for m, s, t in each]
    flat_mask = torch.cat([mask.reshape(-1).to(device) for mask in old])
    mask = container(method).compute_mask(flat, flat_mask)
    parts = mask.split([score.numel() for score in scores])
    return [
        part.view(score.shape).to(score.device) for part, score in zip(parts, scores, strict=True)
    ]
