"""Block sparsity: blocks of neighbouring entries are kept or pruned whole, by tensor or tied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from numbers import Integral, Real
from operator import index
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from . import ops
from .apply import apply_method
from .budgets import check_budget, count_left
from .groups import Groups, MagnitudeOrScore
from .keywords import passed
from .methods import CustomFromMask
from .parametrization import mask_of, original_of
from .patterns import Entries, Selection, are_plain
from .replacing import replaced
from .rollback import transaction
from .scored import has_score
from .scores import Score
from .tying import holders

__all__ = ["BlockStructured", "block_structured", "tied_structured"]

_Module = TypeVar("_Module", bound=nn.Module)

#: How units, of which each has a number, are selected.
_BY_MAGNITUDE, _BY_VALUE = Entries(), Entries(signed=True)


class Blocks(Groups):
    """Blocks of ``method.block`` in the first two dims; a block ranks by ``method.norm``."""

    def masks(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        dtype: torch.dtype | None,
    ) -> Sequence[Tensor]:
        kept = _kept_blocks(method, ranks, masks)
        return ops.block_masks(kept, masks, ranks, method.block, dtype=dtype)

    def prune(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor],
    ) -> Selection:
        return ops.block_prune(_kept_blocks(method, ranks, masks), masks, ts, method.block)

    def without_operators(self, method: Any, rank: Tensor, old: Tensor) -> Tensor:
        real = rank.abs() if rank.is_complex() else rank
        (kept,) = _kept_blocks(method, [real], [old], native=False)
        return old.masked_fill(~expanded(kept, old, method.block), 0)


class BlockStructured(MagnitudeOrScore):
    """Prunes the blocks of smallest norm, as block sparsity has it (Gray et al., "GPU Kernels for
    Block-Sparse Weights"; Narang et al., "Block-Sparse Recurrent Neural Networks",
    arXiv:1711.02782).

    A tensor is cut into blocks of ``block`` in its first two dims; all other dims, a kernel, are
    within a block. Blocks at the edges may be smaller, so what counts is the mean over a block. A
    block with no entry left is not counted. Ties go by the lowest block, row by row.

    A ``score``, or the ``scores`` of a subclass, gives a number for each entry; a block ranks by
    the mean of them.

    >>> layer = nn.Linear(8, 4)
    >>> method = prune.BlockStructured.apply(layer, "weight", amount=0.5, block=(4, 4))
    >>> layer.weight_mask.sum()  # one of two blocks
    tensor(16.)

    Args:
        amount: of what remains: a float in [0, 1] is a fraction of the active blocks, an int their
            number.
        block: how many indices of the first dim and of the second a block has; one number for both.
        norm: its order, any number or infinity.
        sparsity: in place of ``amount``, the fraction of all blocks that is pruned in the end.
        score: called in place of ``scores``.

    Raises:
        ValueError: the amount is out of range, or exceeds the active blocks; amount and sparsity
            are given; ``block`` is not one or two positive numbers.
        TypeError: neither is given; the sparsity is no float, or the norm no number.
    """

    PRUNING_TYPE = "global"
    pattern = Blocks()

    def __init__(
        self,
        amount: int | float | None = None,
        block: int | Sequence[int] = (4, 4),
        norm: float = 2,
        *,
        sparsity: float | None = None,
        score: Score | None = None,
    ) -> None:
        check_budget(type(self).__name__, amount, sparsity)
        self.amount: Any = amount
        self.sparsity = sparsity
        self.block = _checked_block(block)
        self.norm = _checked_norm(norm)
        self.score = score


def block_structured(
    module: _Module,
    name: str,
    amount: int | float | None = None,
    block: int | Sequence[int] = (4, 4),
    norm: float = 2,
    *,
    sparsity: float | None = None,
    score: Score | None = None,
    importance_scores: Tensor | None = None,
    replace: bool = False,
) -> _Module:
    """Prune the blocks of ``module.<name>`` of smallest norm.

    Block sparsity (Narang et al., arXiv:1711.02782), see :class:`BlockStructured`.

    >>> m = prune.block_structured(nn.Linear(8, 8), "weight", amount=2, block=(4, 4))
    >>> int(m.weight_mask.sum())
    32

    Args:
        module: holds the tensor to prune.
        name: of the parameter; float64, float32, float16 and bfloat16 natively.
        amount: of what remains: a float in [0, 1] is a fraction of the active blocks, an int their
            number.
        block: how many indices of the first dim and of the second a block has; one number for both.
        norm: its order, any number or infinity.
        sparsity: in place of ``amount``, the fraction of all blocks that is pruned in the end.
        score: gives a number for each entry, as in :class:`Unstructured`, and a block their mean.
        importance_scores: take norms of these instead of the parameter; of its shape.
        replace: in place of the newest method, as in :func:`l1_unstructured`.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter; there is
            neither amount nor sparsity.
        ValueError: the amount is out of range, or exceeds the active blocks; ``block`` is not one
            or two positive numbers.
        AssertionError: the scores have another shape than the parameter.
        RuntimeError: the scores are on another device.
        NotImplementedError: to replace, as :func:`l1_unstructured`; ValueError also as there.
    """
    BlockStructured.apply(
        module,
        name,
        amount,
        block,
        norm,
        sparsity=sparsity,
        score=score,
        importance_scores=importance_scores,
        **passed(replace=replace),
    )
    return module


def tied_structured(
    parameters: Iterable[tuple[nn.Module, str, int]],
    amount: int | float | None = None,
    size: int = 1,
    norm: float = 2,
    *,
    sparsity: float | None = None,
    replace: bool = False,
) -> None:
    """Prune units that several tensors share, such as attention heads (Michel et al., "Are Sixteen
    Heads Really Better than One?", arXiv:1905.10650).

    A unit is ``size`` neighbouring indices of a dim of each tensor. Unit i is pruned in all of them
    or in none. Its score is the sum, in float64, of its norms in all tensors, as
    :class:`BlockStructured` has them.

    >>> heads = nn.ModuleDict({name: nn.Linear(8, 8) for name in "qkvo"})
    >>> parameters = [(heads[name], "weight", 0) for name in "qkv"]
    >>> prune.tied_structured([*parameters, (heads["o"], "weight", 1)], amount=2, size=2)
    >>> heads["o"].weight_mask[0].sum()
    tensor(4.)

    Args:
        parameters: modules, names and the dim, 0 or 1, along which units lie.
        amount: of what remains: a float in [0, 1] is a fraction of the active units, an int their
            number. A unit is active if some tensor has an entry of it left.
        size: indices of a unit.
        norm: its order, any number or infinity.
        sparsity: in place of ``amount``, the fraction of all units that is pruned in the end.
        replace: in place of the newest method of each tensor, as in :func:`l1_unstructured`.

    Raises:
        ValueError: there are no parameters; they have different numbers of units; the amount is out
            of range, or exceeds the active units; ``size`` is not positive; or the mask before a
            method to replace is not known.
        NotImplementedError: to replace, as :func:`l1_unstructured`.
        TypeError: there is neither amount nor sparsity; ``norm`` is no number; ``parameters`` are
            not such triples; or one is no parameter.
        IndexError: a dim is neither 0 nor 1.
    """
    tied = _triples(parameters)
    if not tied:
        raise ValueError("tied_structured(): expected at least one parameter, got none")
    check_budget("tied_structured", amount, sparsity)
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(f"expected size to be a positive number, got {size!r}")
    norm = _checked_norm(norm)
    budget = SimpleNamespace(amount=amount, sparsity=sparsity)
    total: Any = None
    active: Any = None
    found = []
    replacing = replaced((m, name) for m, name, _ in tied) if replace else nullcontext()
    with transaction(*(module for module, _, _ in tied)), replacing:
        for module, name, dim in tied:
            t, old = original_of(module, name), mask_of(module, name)
            if not isinstance(t, Tensor):
                raise TypeError(
                    f"expected {name} of {module} to be a Parameter, got {type(t).__name__}"
                )
            if not -t.dim() <= dim < t.dim() or dim % t.dim() > 1:
                raise IndexError(f"expected the dim of {name} of {module} to be 0 or 1, got {dim}")
            block = [max(1, n) for n in (*t.shape[:2], 1)[:2]]
            block[dim % t.dim()] = size
            native = are_plain([old], [t]) and t.is_floating_point()
            ranked = t.detach() if old is None else t.detach() * old
            (norms,) = _norms([ranked], _checked_block(block), norm, native)
            there = torch.ones_like(norms, dtype=torch.bool)
            if old is not None:
                there = _active_units(old, block, native)
            device = norms.device if total is None else total.device
            shape = norms.shape
            norms, there = norms.flatten().to(device), there.flatten().to(device)
            if total is not None and len(norms) != len(total):
                raise ValueError(
                    f"expected {name} of {module} to have {len(total)} units of {size}, as the "
                    f"parameters before it, got {len(norms)}"
                )
            total = norms if total is None else total + norms
            active = there if active is None else active | there
            found.append((module, name, t, old, block, native, shape))
        kept = _kept_units(budget, total, active, by_value=False)
        for module, name, t, old, block, native, shape in found:
            units = kept.to(t.device).view(shape)
            selected: Any = None
            if native and (old is None or old.dtype == t.dtype):
                (mask,), (product,) = ops.block_prune(
                    [units], [] if old is None else [old], [t], block
                )
                # Of a Parameter that other modules have as well, apply_method combines their masks.
                if id(module._parameters.get(name)) not in holders:
                    selected = mask, product
            else:
                mask = expanded(units, t, block).to(t.dtype)
            apply_method(CustomFromMask(mask), module, name, selected=selected)


def _triples(parameters: Any) -> list[tuple[nn.Module, str, int]]:
    triples = list(parameters)
    for i, triple in enumerate(triples):
        if not isinstance(triple, Sequence) or len(triple) != 3 or not isinstance(triple[1], str):
            raise TypeError(
                "tied_structured(): expected parameters to be (module, name, dim) triples, got "
                f"{triple!r} at index {i}"
            )
        index(triple[2])
    return triples


def _kept_blocks(
    method: Any,
    ranks: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    native: bool = True,
) -> list[Tensor]:
    """Which blocks of each tensor stay."""
    block = method.block
    is_signed = has_score(method)
    kept = []
    for rank, mask in zip(ranks, masks or [None] * len(ranks), strict=True):
        if is_signed:  # the mean of the values, which may be negative
            parts = [rank.clamp(min=0), rank.clamp(max=0)]
            positive, negative = _norms(parts, block, 1, native)
            scores = positive - negative
        else:
            (scores,) = _norms([rank], block, method.norm, native)
        active = None if mask is None else _active_units(mask, block, native)
        kept.append(_kept_units(method, scores, active, by_value=is_signed or not native))
    return kept


def _active_units(mask: Tensor, block: Sequence[int], native: bool) -> Tensor:
    """Which blocks have an entry that is not pruned."""
    real = mask if mask.is_floating_point() else (mask != 0).to(torch.bfloat16)
    (largest,) = _norms([real], block, math.inf, native)
    return largest != 0


def _kept_units(method: Any, scores: Tensor, active: Tensor | None, by_value: bool) -> Tensor:
    """Which units stay: bool, of the shape of the scores. Active None: all are."""
    amount = method.amount
    if method.sparsity is not None:
        left = scores.numel() if active is None else int(active.sum())
        amount = count_left(method.sparsity, scores.numel(), left)
    like = torch.empty_like(scores, dtype=torch.bool) if active is None else active
    pattern = _BY_VALUE if by_value else _BY_MAGNITUDE
    budget = SimpleNamespace(amount=amount)
    (kept,), _ = pattern.decide(budget, [scores], [like], [active], None, True)
    return kept


def _norms(ts: Sequence[Tensor], block: Sequence[int], p: float, native: bool) -> list[Tensor]:
    if native:
        return ops.block_norms(ts, block, p)
    return [_norms_by_padding(t, block, p) for t in ts]


def _norms_by_padding(t: Tensor, block: Sequence[int], p: float) -> Tensor:
    """The norms of tensors that the operators do not take."""
    x = t.abs().double().reshape(*(*t.shape[:2], 1)[:2], -1)
    rows, cols = x.shape[:2]
    fill = math.inf if p == -math.inf else 0.0
    x = torch.nn.functional.pad(x, (0, 0, 0, -cols % block[1], 0, -rows % block[0]), value=fill)
    x = x.unflatten(1, (-1, block[1])).unflatten(0, (-1, block[0])).movedim(1, 2).flatten(2)
    if math.isinf(p):
        return x.amax(-1) if p > 0 else x.amin(-1)
    inner = t[0, 0].numel() if t.dim() > 2 else 1
    heights = torch.full((x.shape[0],), block[0], device=t.device)
    widths = torch.full((x.shape[1],), block[1], device=t.device)
    heights[-1] -= -rows % block[0]
    widths[-1] -= -cols % block[1]
    sizes = heights.unsqueeze(1) * widths * inner
    terms = (x != 0).double() if p == 0 else x**p
    means = terms.sum(-1) / sizes
    return means if p in (0, 1) else means ** (1 / p)


def expanded(units: Tensor, like: Tensor, block: Sequence[int]) -> Tensor:
    """The mask of entries, bool."""
    rows, cols = (*like.shape[:2], 1)[:2]
    whole = units.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:rows, :cols]
    if like.dim() < 2:
        return whole.reshape(like.shape)
    return whole.reshape(rows, cols, *[1] * (like.dim() - 2)).expand(like.shape)


def _checked_block(block: int | Sequence[int]) -> tuple[int, int]:
    """Of one number a square."""
    try:
        rows, cols = (index(n) for n in (block if isinstance(block, Sequence) else (block, block)))
    except (TypeError, ValueError):
        rows = cols = 0
    if rows < 1 or cols < 1:
        raise ValueError(f"expected block to be one or two positive numbers, got {block}")
    return rows, cols


def _checked_norm(norm: float) -> float:
    if not isinstance(norm, Real):
        raise TypeError(f"expected norm to be a number or infinity, got {norm!r}")
    return float(norm)
