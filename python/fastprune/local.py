"""local_unstructured: many tensors, each with a threshold of its own, by one operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from sys import maxsize, modules
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch.nn.utils.prune as upstream
from torch import Tensor, nn
from torch.compiler import is_compiling, is_dynamo_compiling

from . import _C, methods
from .apply import apply_method, attach, check_scores, decides, find_hook, take_over
from .base import BasePruningMethod
from .dtensors import DTENSOR
from .fsdp2 import is_managed
from .globally import make_unstructured
from .keywords import factor_of, has_keywords, kind_by_amount, with_amount
from .lookup import SUSPENDED, is_in_place, pairs_of, parameter_of
from .native import in_layout_of, kind_of, native_kind, ranks_original
from .parametrization import mask_of
from .patterns import Entries
from .replacing import asks_to_replace, replaced
from .rollback import transaction
from .sharded import check_selection, get_shards
from .slots import original_and_mask
from .tying import by_parameter, holders
from .untraced import untraced

__all__ = ["local_unstructured"]

_Pair: TypeAlias = tuple[nn.Module, str]
_Amount: TypeAlias = int | float
_Amounts: TypeAlias = _Amount | Sequence[_Amount] | Mapping[_Pair, _Amount]


def local_unstructured(
    parameters: Iterable[_Pair],
    pruning_method: type[upstream.BasePruningMethod],
    amount: _Amounts | None = None,
    importance_scores: Mapping[_Pair, Tensor] | None = None,
    *,
    sparsity: _Amounts | None = None,
    **kwargs: Any,
) -> None:
    """Prune many parameters, each with a budget and a threshold of its own.

    What a loop over :meth:`torch.nn.utils.prune.BasePruningMethod.apply` does, with one call of an
    operator for all tensors that it takes. A Parameter that is listed several times, because
    modules share it, is pruned once, and all of them get its new mask. A transaction over all
    modules: if anything fails, each is as it was.

    >>> up, down = nn.Linear(8, 16), nn.Linear(16, 8)
    >>> prune.local_unstructured(
    ...     [(up, "weight"), (down, "weight")], prune.L1Unstructured, amount=[0.5, 0.75]
    ... )
    >>> up.weight_mask.sum(), down.weight_mask.sum()
    (tensor(64.), tensor(32.))

    Args:
        parameters: (module, name) pairs; any iterable.
        pruning_method: an unstructured method, ours or any other.
        amount: a float in [0, 1] is a fraction of a parameter's active entries, an int their
            number. One for all parameters, a sequence with one for each, or a mapping from pairs.
        importance_scores: by pair, what to rank instead of the parameter; of its shape.
        sparsity: in place of ``amount``, the fractions of all entries of the parameters that are
            pruned in the end; one, a sequence or a mapping as well.
        kwargs: passed to the method, beside ``amount``. A ``factor`` is one tensor for all, or a
            mapping from pairs. ``replace=True`` is not passed, unless the constructor takes an
            argument of this name: in place of the newest method of each parameter, as in
            :func:`l1_unstructured`.

    Raises:
        TypeError: ``parameters`` is no iterable, ``importance_scores`` no mapping, the method is
            not unstructured, or there is neither amount nor sparsity.
        ValueError: the number of amounts is not that of the parameters, or a pair has none, or no
            factor; an amount is out of range, or exceeds the active entries of its parameter; there
            are amounts and sparsities; the mask before a method to replace is not known.
        AttributeError, AssertionError, RuntimeError, NotImplementedError: as the method's
            ``apply``.
    """
    if is_dynamo_compiling():
        return untraced(
            local_unstructured,
            parameters,
            pruning_method,
            amount,
            importance_scores,
            sparsity=sparsity,
            **kwargs,
        )
    pairs = pairs_of("local_unstructured", parameters)
    if importance_scores is not None and not isinstance(importance_scores, Mapping):
        raise TypeError("local_unstructured(): importance_scores must be of type dict")
    kind: Any = pruning_method
    exchange = None
    if DTENSOR in modules:
        from .spread import exchange_of_each

        get_shards(pairs, kind)
        exchange = exchange_of_each(kind_of(kind), pairs)
    with nullcontext() if exchange is None else exchange.together():
        replaces = asks_to_replace(kind, kwargs)
        options = _options(kind, pairs, kwargs, amount=amount, sparsity=sparsity)
        made = [make_unstructured(kind, each) for each in options]
        if exchange is not None:
            exchange.start(0, [])
        elif made and kind_of(kind) is None:
            check_selection(made[0], pairs)
    given = importance_scores or {}
    batch = _Batch() if _applies_as_ours(kind) else None
    replacing = replaced(pairs) if replaces else nullcontext()
    with transaction(*(module for module, _ in pairs)), replacing:
        for i, *others in by_parameter(pairs):
            if others and pairs[i] not in given:
                i = next((j for j in others if pairs[j] in given), i)
            module, name = pairs[i]
            scores = given.get((module, name))
            if batch is None or others or not batch.take(made[i], module, name, scores):
                if batch is not None:
                    batch.flush()
                if scores is not None:
                    options[i]["importance_scores"] = scores
                kind.apply(module, name, **options[i])
            for j in others:
                if pairs[j] != (module, name):
                    _take_mask_of(module, name, made[j], *pairs[j])
        if batch is not None:
            batch.flush()


def _options(
    kind: Any, pairs: Sequence[_Pair], kwargs: dict[str, Any], **budgets: _Amounts | None
) -> list[dict[str, Any]]:
    """What the constructor gets for each pair."""
    options = [dict(kwargs) for _ in pairs]
    if kind_of(kind) is not None and isinstance(kwargs.get("factor"), Mapping):
        for pair, each in zip(pairs, options, strict=True):
            each["factor"] = factor_of(kwargs["factor"], pair)
    for word, given in budgets.items():
        if given is not None:
            for value, each in zip(_amounts(word, given, pairs), options, strict=True):
                each[word] = value
    return options


def _amounts(word: str, given: _Amounts, pairs: Sequence[_Pair]) -> list[_Amount]:
    """One for each pair."""
    if isinstance(given, Mapping):
        for module, name in pairs:
            if (module, name) not in given:
                raise ValueError(f"expected {word} to have one for {name} of {module}, got none")
        return [given[pair] for pair in pairs]
    if not isinstance(given, Sequence):
        return [given] * len(pairs)
    if len(given) != len(pairs):
        raise ValueError(
            f"expected one {word}, or one for each of {len(pairs)} parameters, got {len(given)}"
        )
    return list(given)


def _applies_as_ours(kind: type) -> bool:
    """Whether ``kind.apply`` ends in ours, and nothing but upstream's own classes comes before."""
    for base in kind.__mro__:
        function = getattr(vars(base).get("apply"), "__func__", None)
        if function is BasePruningMethod.apply.__func__:  # type: ignore[attr-defined]
            return True
        if "apply" in vars(base) and base.__module__ not in (upstream.__name__, methods.__name__):
            return False
    return False


def _take_mask_of(
    module: nn.Module, name: str, method: Any, other: nn.Module, other_name: str
) -> None:
    """Prune a Parameter of another module, too, as it is pruned in ``module``."""
    new, old = mask_of(module, name), mask_of(other, other_name)
    assert new is not None
    # A buffer of its own, as modules may be moved one by one.
    mask = new.clone() if old is None else new * old
    apply_method(method, other, other_name, selected=(mask, None))


class _Batch:
    """Tensors that one call of an operator selects from, in order."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.places: list[tuple[Any, nn.Module, str, Any]] = []  # method, and what find_hook found
        self.originals: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.masks: list[Tensor | None] = []

    def take(self, method: Any, module: nn.Module, name: str, scores: Tensor | None) -> bool:
        """Add a tensor; False where ``apply_method`` does more than to select and to attach."""
        attributes = module.__dict__
        if (
            SUSPENDED in attributes
            or "parametrizations" in attributes["_modules"]
            or is_in_place(module, name)
            or is_managed(module)
            or _kind_of(method) is None
        ):
            return False
        mask: Tensor | None = None
        old = find_hook(module, name)
        original: Any = parameter_of(module, name if old is None else name + "_orig")
        if type(original) is not nn.Parameter:
            return False
        if old is None:
            if id(original) in holders:
                return False
        elif isinstance(old[1], upstream.PruningContainer) and not decides(old[1]):
            return False
        else:
            mask = original_and_mask(module, name)[1].detach()
        if scores is not None:
            check_scores(module, name, scores, original)
        elif old is None or ranks_original(method):
            scores = original
        else:
            scores = getattr(module, name)
        assert scores is not None
        dtype, device = original.dtype, original.device
        if (
            scores.dtype != dtype
            or scores.device != device
            or not _C.is_plain(mask, scores, original)
        ):
            return False
        if mask is not None and mask.dtype != dtype:
            return False
        if type(method.amount) is int and method.amount > maxsize:
            return False  # an error in any case, and no operator takes it
        if self.scores and (dtype != self.scores[0].dtype or device != self.scores[0].device):
            self.flush()
        self.places.append((method, module, name, old))
        self.originals.append(original)
        self.scores.append(in_layout_of(original, scores))
        self.masks.append(mask)
        return True

    def flush(self) -> None:
        """Prune the tensors."""
        if not self.places:
            return
        methods = [place[0] for place in self.places]
        kind = _kind_of(methods[0])
        factors: list[Tensor | None] = []
        if has_keywords(methods[0]):
            each = zip(methods, self.scores, self.masks, strict=True)
            methods = [with_amount(method, (s,), (m,)) for method, s, m in each]
            if methods[0].factor is not None:
                factors = [method.factor for method in methods]
        each = zip(methods, self.scores, self.masks, strict=True)
        ranks = [kind.rank(method, (s,), (m,), True)[0] for method, s, m in each]
        ranks = [in_layout_of(t, r) for t, r in zip(self.originals, ranks, strict=True)]
        amounts = SimpleNamespace(amount=[method.amount for method in methods])
        try:
            new, products = kind.pattern.decide(
                amounts, ranks, self.scores, self.masks, self.originals, True, factors
            )
        except ValueError as error:
            self._name_tensor(error, amounts.amount)
            raise
        for i, (method, module, name, old) in enumerate(self.places):
            original = self.originals[i]
            hook = take_over(method, module, name, original, old)
            selected = new[i], None if products is None else products[i]
            attach(hook, module, name, selected, original if old is None else None)
        self.clear()

    def _name_tensor(self, error: ValueError, amounts: Sequence[_Amount]) -> None:
        """Raise the error of a count that does not fit with the name of its tensor."""
        for (_, module, name, _), amount, mask, t in zip(
            self.places, amounts, self.masks, self.originals, strict=True
        ):
            active = t.numel() if mask is None else int((mask == 1).sum())
            if not isinstance(amount, float) and amount > active:
                raise ValueError(f"{error}, for {name} of {module}") from None


def _kind_of(method: Any) -> Any:
    """The class that ranks for the method, if an operator selects single entries by its ranks."""
    kind = native_kind(method)
    if kind is None or is_compiling():
        return None
    if has_keywords(method):
        kind = kind_by_amount(method)
    return kind if isinstance(getattr(kind, "pattern", None), Entries) else None
