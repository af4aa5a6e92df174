"""report: what is pruned of a model, counted where its tensors are and read back once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .blocks import BlockStructured, expanded
from .dtensors import is_dtensor
from .inventory import Held, held_in, whole
from .nm import NMStructured, in_runs
from .report_data import Report, TensorReport
from .superseded import was_round

__all__ = ["Report", "report"]

#: The one that hardware knows.
_NM = ((2, 4),)


def report(model: nn.Module, *, nm: Iterable[tuple[int, int]] = _NM) -> Report:
    """Count what is pruned of ``model``: by tensor, by method, by pattern and in total.

    Where :func:`torch.nn.utils.prune.is_pruned` says whether, this says how much, and how. Every
    parameter is there once, also one that modules share, whatever prunes it: our hooks, those of
    :mod:`torch.nn.utils.prune`, :func:`parametrized`, :func:`in_place`, inside of :class:`cached`
    or nothing. What :func:`remove` has pruned for good has zeros, but no mask. Counts of all
    tensors are read back from a device at once: a model on one device waits for it once. The model
    stays as it is.

    Patterns are read from the masks, whatever method made them: whole channels of dim 0 and 1, N:M
    along both dims, and the blocks of each :class:`BlockStructured` that was applied. A very
    small tensor may be 2:4 by chance. Of a mask that leaves no entry it says ``"nothing left"``.

    DTensors are counted whole: all their processes have to call this, and a mask is gathered at one
    byte an entry, one tensor at a time.

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> m = prune.l1_unstructured(model[0], "weight", amount=0.75)
    >>> found = prune.report(model)
    >>> found["0.weight"].sparsity, found.total.zeros
    (0.75, 24)
    >>> text = str(found)  # a table; found.to_dict() is for JSON
    >>> "0.weight" in text
    True

    ``found.plot("mask", "0.weight", path="mask.png")`` draws a mask.

    Args:
        model: with all its submodules.
        nm: pairs of n and m to look for, beside those of each :class:`NMStructured` that was
            applied.

    Returns:
        A :class:`Report`: ``tensors``, ``total``, ``total_of_pruned``, ``by_method`` and
        ``by_pattern``; ``print`` shows a table, ``table()`` is one of rich, ``plot()`` a figure of
        matplotlib and ``to_dict()`` for JSON.

    Raises:
        ValueError: a parameter has no values, as it is on the meta device or lazy; or m of ``nm``
            is not between 1 and 64, or n not between 0 and m.
    """
    runs = [(n, m) for n, m in nm]
    for n, m in runs:
        if not (1 <= m <= 64 and 0 <= n <= m):
            raise ValueError(f"expected 0 <= n <= m and 1 <= m <= 64, got {n}:{m}")
    groups = held_in(model)
    for group in groups:
        _check(group)
    with torch.no_grad():
        counts = [list(_counted(group[0], runs)) for group in groups]
    numbers = _read(counts)
    tensors = [_described(g, dict(c)) for g, c in zip(groups, numbers, strict=True)]
    return Report(tuple(tensors), weakref.ref(model))


#: What of a tensor was counted, and how much.
_Counted = tuple[str, Tensor]
_KEPT, _NONZERO, _CHANNELS, _OBEYED = "kept", "nonzero", "channels ", "obeyed "


def _check(group: list[Held]) -> None:
    for t in (*group[0].originals, *(h.mask for h in group if h.mask is not None)):
        if is_lazy(t) or t.is_meta:
            kind = "a lazy one" if is_lazy(t) else "one on the meta device"
            raise ValueError(f"expected {group[0].name} to have values, got {kind}")


def _counted(held: Held, runs: list[tuple[int, int]]) -> Iterator[_Counted]:
    """What is counted of a tensor, each as a scalar on its device."""
    values = held.values if held.values is None else held.values.detach()
    if held.form is None:
        assert values is not None
        yield _NONZERO, whole(values != 0).count_nonzero()
        return
    kept = held.kept()
    yield _KEPT, kept.count_nonzero()
    if held.form == "in place":
        assert values is not None
        yield _NONZERO, whole(values != 0).count_nonzero()
    elif values is not None and is_dtensor(values) == is_dtensor(held.mask):
        yield _NONZERO, (whole(values != 0) & kept).count_nonzero()
    if kept.dim() < 2 or not kept.numel():
        return
    for dim in (0, 1):
        others = [d for d in range(kept.dim()) if d != dim]
        yield f"{_CHANNELS}{dim}", kept.any(others).count_nonzero()
    methods = [m for m in held.methods if isinstance(m, NMStructured)]
    for n, m in dict.fromkeys([*runs, *((method.n, method.m) for method in methods)]):
        for dim in sorted({0, 1, *(method.dim % kept.dim() for method in methods)}):
            if n < m <= kept.shape[dim]:
                most = in_runs(kept.to(torch.uint8), m, dim, 0).sum(-1, dtype=torch.uint8).amax()
                yield f"{_OBEYED}{n}:{m} along dim {dim}", (most <= n).long()
    for block in dict.fromkeys(m.block for m in held.methods if isinstance(m, BlockStructured)):
        label = f"blocks of {block[0]} x {block[1]}"
        yield _OBEYED + label, (_of_live_blocks(kept, block) == kept).all().long()


def _of_live_blocks(kept: Tensor, block: tuple[int, int]) -> Tensor:
    """True in each block that has an entry left."""
    live = (kept.flatten(2).any(-1) if kept.dim() > 2 else kept).to(torch.uint8)
    for dim, size in enumerate(block):
        live = in_runs(live, size, dim, 0).amax(-1).movedim(-1, dim)
    return expanded(live != 0, kept, block)


def _read(counts: list[list[_Counted]]) -> list[list[tuple[str, int]]]:
    """The numbers of the scalars, of which those of a device come in one copy."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for _, count in (pair for counted in counts for pair in counted):
        by_device.setdefault(count.device, []).append(count)
    read = {device: iter(_to_host(torch.stack(ts))) for device, ts in by_device.items()}
    return [[(label, next(read[count.device])) for label, count in of] for of in counts]


def _to_host(counts: Tensor) -> list[int]:
    numbers: list[int] = counts.cpu().tolist()
    return numbers


def _described(group: list[Held], counts: dict[str, int]) -> TensorReport:
    held = group[0]
    like: Any = held.mask if held.values is None else held.values
    entries, pruned, zeros = like.numel(), 0, 0
    channels: list[int] = []
    patterns: list[str] = []
    if held.form is not None:
        pruned = zeros = entries - counts[_KEPT]
        left = [counts[_CHANNELS + d] for d in "01" if _CHANNELS + d in counts]
        channels = [size - some for size, some in zip(like.shape, left, strict=False)]
        patterns = list(_patterns(like.shape, pruned, left, counts)) if pruned else []
    if _NONZERO in counts:
        zeros = entries - counts[_NONZERO]
    return TensorReport(
        name=held.name,
        shared=tuple(other.name for other in group[1:]),
        shape=tuple(like.shape),
        dtype=held.originals[0].dtype,
        device=held.originals[0].device,
        form=held.form,
        methods=tuple(map(_name_of, held.methods)),
        entries=entries,
        pruned=pruned,
        zeros=zeros,
        pruned_channels=tuple(channels),
        patterns=tuple(patterns),
        original_bytes=_bytes(held.originals),
        mask_bytes=_bytes(h.mask for h in group),
        product_bytes=_bytes(h.product for h in group),
    )


def _name_of(method: Any) -> str:
    kind = type(method).__name__
    return f"{kind} (global_unstructured)" if was_round(method) else kind


def _patterns(
    shape: torch.Size, pruned: int, left: list[int], counts: dict[str, int]
) -> Iterator[str]:
    """What a mask obeys, of channels the number of each dim that have entries left."""
    if pruned == shape.numel():
        yield "nothing left"
        return
    found = False
    if left:
        product = left[0] * left[1] * shape[2:].numel()  # if all that is pruned is whole channels
        dims = [str(d) for d in (0, 1) if left[d] < shape[d]]
        if dims and product == shape.numel() - pruned:
            found = True
            yield f"channels of dim {' and '.join(dims)}"
    for label, obeyed in counts.items():
        if label.startswith(_OBEYED) and obeyed:
            found = True
            yield label.removeprefix(_OBEYED)
    if not found:
        yield "unstructured"


def _bytes(tensors: Iterable[Any]) -> int:
    """Of this process, each tensor once."""
    once: dict[int, Any] = {id(t): t for t in tensors if isinstance(t, Tensor)}
    local = [t.to_local() if is_dtensor(t) else t for t in once.values()]
    return sum(t.numel() * t.element_size() for t in local)
