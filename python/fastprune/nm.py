"""N:M sparsity: of each run of m neighbouring entries the n of largest score stay."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from . import _C, ops
from .groups import Factored, RankedGroups, lowest
from .keywords import passed
from .patterns import Selection
from .scores import Score
from .squares import check_squares, kept_in_squares

__all__ = ["NMStructured", "check_nm", "nm_structured"]

_Module = TypeVar("_Module", bound=nn.Module)


class Runs(RankedGroups):
    """Runs of ``method.m`` entries along ``method.dim``, or squares of 4 x 4 if ``method.both``."""

    operators = ops.nm_masks, ops.nm_prune

    def check(self, method: Any, ts: Sequence[Tensor]) -> None:
        if method.both:
            for t in ts:
                check_squares(t, method.dim)

    def decide(
        self,
        method: Any,
        ranks: Sequence[Tensor],
        likes: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        ts: Sequence[Tensor] | None,
        active_only: bool,
    ) -> Selection:
        if method.both:
            # A mask of ones stands for none: upstream's container, for one, gives that.
            unread = [_unread(mask) for mask in masks]
            likes = [like if m is None else m for like, m in zip(likes, masks, strict=True)]
            masks = unread
        return super().decide(method, ranks, likes, masks, ts, active_only)

    def rule(self, method: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (method.n, method.m, method.dim), {"both": method.both}

    def by_sorting(self, method: Any, values: Tensor, old: Tensor) -> Tensor:
        if method.both:
            return old.masked_fill(~kept_in_squares(values), 0)
        m, dim = method.m, method.dim
        size = in_runs(torch.ones_like(old, dtype=torch.bool), m, dim, False).sum(-1, keepdim=True)
        zeros = in_runs(old == 0, m, dim, False).sum(-1, keepdim=True)
        due = size - size.clamp(max=method.n) - zeros
        active = in_runs(old == 1, m, dim, False)
        pruned = lowest(in_runs(values, m, dim, 0.0), active, due)
        there = pruned.flatten(-2)[..., : old.shape[dim]].movedim(-1, dim)
        return old.masked_fill(there, 0)


class NMStructured(Factored):
    """Keeps, of each run of ``m`` entries along ``dim``, the ``n`` of largest magnitude.

    N:M sparsity (Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From
    Scratch", arXiv:2102.04010; Mishra et al., arXiv:2104.08378). The last run may be shorter: of r
    entries min(r, n) stay. What earlier pruning took counts, and never comes back. Ties go by the
    lowest index. ``n`` is the number that is *kept*: where a library counts zeros (Wanda,
    coremltools), 2:4 is the same, and its 1:4 is 3:4 here.

    With ``both`` 2:4 holds in rows and columns at once, so that the transposed weight, with which
    gradients are computed, obeys too (Hubara et al., "Accelerated Sparse Neural Training",
    arXiv:2102.08124). The matrix of the first two dims is cut into squares of 4 x 4, each index of
    the other dims by itself; of the 90 ways to keep two entries of every row and column of a square
    that with the largest sum of scores is taken. Among equals it is the smallest binary number,
    read row by row: of ones 0011 0011 1100 1100. It starts anew: nothing may be pruned before.

    A ``score``, or the ``scores`` of a subclass, ranks as in :class:`Unstructured`.

    >>> layer = nn.Linear(8, 4)
    >>> method = prune.NMStructured.apply(layer, "weight", n=2, m=4)
    >>> layer.weight_mask.view(4, 2, 4).sum(-1)
    tensor([[2., 2.],
            [2., 2.],
            [2., 2.],
            [2., 2.]])

    Args:
        n: how many entries of a run stay, 0 to ``m``.
        m: entries of a run, 1 to 64.
        dim: along which runs lie; 1 is the inputs of a Linear or convolution layer.
        factor: broadcasts to the tensor; what is ranked is ``|t| * |factor|``.
        score: called in place of ``scores``.
        both: 2:4 in rows and columns at once; ``dim`` is 0 or 1, which is the same.

    Raises:
        ValueError: ``n`` or ``m`` is out of range; or with ``both`` n:m is not 2:4, one of the
            first two dims is not divisible by 4, or entries were pruned before.
        TypeError: there are a factor and a score, or a number is no int.
        IndexError: ``dim`` is out of range.
        RuntimeError: the factor does not broadcast to the tensor.
    """

    PRUNING_TYPE = "global"
    pattern = Runs()

    def __init__(
        self,
        n: int,
        m: int,
        dim: int = 1,
        *,
        factor: Tensor | None = None,
        score: Score | None = None,
        both: bool = False,
    ) -> None:
        for name, number in (("n", n), ("m", m), ("dim", dim)):
            if not isinstance(number, Integral):
                raise TypeError(f"expected {name} to be an int, got {number!r}")
        if not 1 <= m <= 64:
            raise ValueError(f"expected m to be between 1 and 64, got {m}")
        if not 0 <= n <= m:
            raise ValueError(f"expected n to be between 0 and m, {m}, got {n}")
        if both and (n, m) != (2, 4):
            raise ValueError(f"expected 2:4 with both=True, got {n}:{m}")
        self.n, self.m, self.dim, self.both = int(n), int(m), int(dim), both
        super().__init__(factor, score)


def nm_structured(
    module: _Module,
    name: str,
    n: int,
    m: int,
    dim: int = 1,
    *,
    factor: Tensor | None = None,
    score: Score | None = None,
    importance_scores: Tensor | None = None,
    both: bool = False,
    replace: bool = False,
) -> _Module:
    """Keep, of each run of ``m`` entries of ``module.<name>``, the ``n`` of largest magnitude.

    N:M sparsity (Zhou et al., arXiv:2102.04010), see :class:`NMStructured`.

    >>> m = prune.nm_structured(nn.Linear(8, 4), "weight", n=2, m=4)
    >>> prune.check_nm(m.weight, 2, 4)
    True

    Args:
        module: holds the tensor to prune.
        name: of the parameter; float64, float32, float16 and bfloat16 natively.
        n: how many entries of a run stay, 0 to ``m``.
        m: entries of a run, 1 to 64.
        dim: along which runs lie.
        factor: broadcasts to the parameter, and multiplies what is ranked.
        score: called in place of ranking magnitudes, as in :class:`Unstructured`.
        importance_scores: rank these instead of the parameter; of its shape.
        both: 2:4 in rows and columns at once; ``dim`` is 0 or 1, which is the same.
        replace: in place of the newest method, as in :func:`l1_unstructured`.

    Returns:
        The module; ``<name>_mask`` has the parameter's shape and dtype.

    Raises:
        AttributeError, TypeError: the module has nothing of that name, or no parameter; there are a
            factor and a score.
        ValueError: ``n`` or ``m`` is out of range; or with ``both`` n:m is not 2:4, one of the
            first two dims is not divisible by 4, or entries were pruned before.
        IndexError: ``dim`` is out of range.
        AssertionError: the scores have another shape than the parameter.
        RuntimeError: the scores are on another device, or the factor does not broadcast.
        NotImplementedError: to replace, as :func:`l1_unstructured`; ValueError also as there.
    """
    NMStructured.apply(
        module,
        name,
        n,
        m,
        dim,
        factor=factor,
        score=score,
        importance_scores=importance_scores,
        both=both,
        **passed(replace=replace),
    )
    return module


def check_nm(tensor: Tensor, n: int, m: int, dim: int = 1) -> bool:
    """Whether each run of ``m`` entries along ``dim`` has at most ``n`` that are not zero.

    What :func:`torch.sparse.to_sparse_semi_structured` needs of a weight for 2:4.

    >>> prune.check_nm(torch.tensor([[1, 1, 0, 0, 0, 1, 0, 1]]), 2, 4)
    True
    >>> prune.check_nm(torch.tensor([[1, 1, 1, 0, 0, 1, 0, 0]]), 2, 4)
    False

    Args:
        tensor: a mask or a pruned tensor, of any dtype and device.
        n: how many entries of a run may stay.
        m: entries of a run.
        dim: along which runs lie.

    Returns:
        True or False; on CUDA this waits for the device.

    Raises:
        IndexError: ``dim`` is out of range.
    """
    kept = in_runs((tensor != 0).to(torch.int32), m, dim, 0).sum(-1)
    return bool((kept <= n).all())


def _unread(mask: Tensor | None) -> Tensor | None:
    """An old mask that cannot be read here, as under vmap; None for any other.

    Raises:
        ValueError: entries were pruned before.
    """
    if mask is None or is_compiling() or not _C.is_plain(None, mask):
        return mask
    if not bool((mask == 1).all()):
        raise ValueError("expected an old mask of ones with both=True, got one that prunes")
    return None


def in_runs(t: Tensor, m: int, dim: int, filler: float) -> Tensor:
    """Shape ``[..., runs, m]``; the last run is filled up."""
    last = t.movedim(dim, -1)
    padded = torch.nn.functional.pad(last, (0, -last.shape[-1] % m), value=filler)
    return padded.unflatten(-1, (-1, m))
