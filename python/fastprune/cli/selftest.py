"""Every operator of ``fastprune.ops`` against a line or two of plain torch, on small tensors.

It finds a build that does not work on this machine, in seconds. What the operators promise is
tested in ``tests/ops``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastprune import _C, ops, packed, parts

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_BLOCK = (4, 4)

#: What an operator gave, and what it should have given.
Pairs = Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]


@dataclass(frozen=True)
class Result:
    """Of one operator on one device, all dtypes."""

    op: str
    device: str
    ok: bool
    seconds: float
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Of JSON's types."""
        return asdict(self)


def devices() -> list[str]:
    """Those that there are kernels for: the CPU, and CUDA devices if they are in the build."""
    cuda = range(torch.cuda.device_count()) if _C.build_info()["cuda"] else ()
    return ["cpu", *(f"cuda:{i}" for i in cuda)]


def run(on: Iterable[str] | None = None) -> Iterator[Result]:
    """The result of each operator on each device, as it comes."""
    for device in devices() if on is None else on:
        for op, check in CHECKS.items():
            started = time.perf_counter()
            error = _error(check, device)
            yield Result(op, device, not error, time.perf_counter() - started, error)


def _error(check: Callable[[list[Tensor]], Pairs], device: str) -> str:
    """What is wrong with an operator on a device; empty if nothing is."""
    dtype = None
    try:
        for dtype in _DTYPES:
            for actual, expected in check(_inputs(dtype, device)):
                for a, e in zip(actual, expected, strict=True):
                    _compare(a.cpu(), e.cpu())
    except Exception as error:  # whatever an operator of a broken build raises is the finding
        return f"{dtype}: {type(error).__name__}: {error}"
    return ""


def _compare(actual: Tensor, expected: Tensor) -> None:
    """Raise unless they are equal; norms may differ by their last bits."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise AssertionError(
            f"expected {expected.dtype} of shape {list(expected.shape)}, got {actual.dtype} of "
            f"shape {list(actual.shape)}"
        )
    a, e = actual.double(), expected.double()
    wrong = ~torch.isclose(a, e, rtol=1e-12, atol=0, equal_nan=True)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"expected {e[at].item()} at {list(at)}, got {a[at].item()}; {int(wrong.sum())} of "
            f"{wrong.numel()} entries differ"
        )


def _inputs(dtype: torch.dtype, device: str) -> list[Tensor]:
    """Two tensors of few values, so that magnitudes tie, and with NaN and infinity."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(24, 200, generator=generator, device="cpu") for _ in range(2)]
    ts = [t.mul(16).round().div(16) for t in drawn]
    ts[0][3, 5], ts[1][7, 2] = torch.nan, -torch.inf
    return [t.to(device, dtype) for t in ts]


def _old_masks(ts: Sequence[Tensor]) -> list[Tensor]:
    """Masks that prune a seventh, at other places in each tensor."""
    old = [torch.arange(i, i + t.numel(), device="cpu").remainder(7) > 0 for i, t in enumerate(ts)]
    return [m.view(t.shape).to(t) for m, t in zip(old, ts, strict=True)]


def _lowest(values: Tensor, amount: int) -> Tensor:
    """Of each last dim: true for the entries of smallest magnitude, lowest index first."""
    magnitudes = values.abs().double().nan_to_num(nan=torch.inf, posinf=1e300)
    lowest = magnitudes.sort(dim=-1, stable=True).indices[..., :amount]
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, lowest, True)


def _lowest_of_all(ts: Sequence[Tensor], masks: Sequence[Tensor], amount: int) -> list[Tensor]:
    """``masks`` without that many of the active entries of smallest magnitude of all ``ts``."""
    flat = torch.cat([m.flatten() for m in masks])
    active = flat.nonzero().flatten()
    pruned = _lowest(torch.cat([t.flatten() for t in ts])[active], amount)
    flat[active[pruned]] = 0
    sizes = [m.numel() for m in masks]
    return [f.view(m.shape) for f, m in zip(flat.split(sizes), masks, strict=True)]


def _products(ts: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    return [t * m.to(t.dtype) for t, m in zip(ts, masks, strict=True)]


def _topk(ts: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    old = _old_masks(ts)
    return old, _lowest_of_all(ts, old, 3000)


def _topk_masks(ts: list[Tensor]) -> Pairs:
    old, expected = _topk(ts)
    yield ops.topk_masks(ts, old, 3000), expected


def _topk_prune(ts: list[Tensor]) -> Pairs:
    old, expected = _topk(ts)
    masks, products = ops.topk_prune(ts, old, ts, 3000)
    yield [*masks, *products], [*expected, *_products(ts, expected)]


def _topk_part(ts: list[Tensor]) -> Pairs:
    """Driven as for tensors of several dtypes."""
    others = [ts[0], ts[1].to(torch.float16 if ts[1].dtype != torch.float16 else torch.float32)]
    old = _old_masks(others)
    keys = parts.common_dtype(others)
    native = [
        parts.Part([t], [m], [torch.tensor([i * t.numel()], device="cpu")], keys=keys)
        for i, (t, m) in enumerate(zip(others, old, strict=True))
    ]
    masks = parts.select(native, 3000, sum(t.numel() for t in others), keys)
    wide = [m.to(keys) for m in old]
    expected = _lowest_of_all([t.to(keys) for t in others], wide, 3000)
    yield [m.to(keys) for (m,) in masks], expected


def _nm(ts: list[Tensor]) -> list[Tensor]:
    return [(~_lowest(t.unflatten(1, (-1, 4)), 2)).flatten(1).to(t.dtype) for t in ts]


def _nm_masks(ts: list[Tensor]) -> Pairs:
    yield ops.nm_masks(ts, [], 2, 4, 1), _nm(ts)


def _nm_prune(ts: list[Tensor]) -> Pairs:
    masks, products = ops.nm_prune(ts, [], ts, 2, 4, 1)
    yield [*masks, *products], [*_nm(ts), *_products(ts, _nm(ts))]


def _rows(ts: list[Tensor]) -> list[Tensor]:
    return [(~_lowest(t, 90)).to(t.dtype) for t in ts]


def _row_masks(ts: list[Tensor]) -> Pairs:
    yield ops.row_masks(ts, [], 90, 0), _rows(ts)


def _row_prune(ts: list[Tensor]) -> Pairs:
    masks, products = ops.row_prune(ts, [], ts, 90, 0)
    yield [*masks, *products], [*_rows(ts), *_products(ts, _rows(ts))]


def _finite(t: Tensor) -> Tensor:
    return t.nan_to_num(nan=1.0, posinf=1.0, neginf=1.0)


def _block_norms(ts: list[Tensor]) -> Pairs:
    real = [_finite(t) for t in ts]
    blocks = [t.double().unflatten(1, (-1, 4)).unflatten(0, (-1, 4)) for t in real]
    yield ops.block_norms(real, _BLOCK), [b.square().mean(dim=(1, 3)).sqrt() for b in blocks]


def _blocks(ts: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    units = [t[::4, ::4] > 0 for t in ts]
    masks = [u.repeat_interleave(4, 0).repeat_interleave(4, 1) for u in units]
    return units, [m.to(t.dtype) for m, t in zip(masks, ts, strict=True)]


def _block_masks(ts: list[Tensor]) -> Pairs:
    units, expected = _blocks(ts)
    yield ops.block_masks(units, [], ts, _BLOCK), expected


def _block_prune(ts: list[Tensor]) -> Pairs:
    units, expected = _blocks(ts)
    masks, products = ops.block_prune(units, [], ts, _BLOCK)
    yield [*masks, *products], [*expected, *_products(ts, expected)]


def _channel_norms(ts: list[Tensor]) -> Pairs:
    real = [_finite(t).double() for t in ts]
    for dim in (0, 1):
        actual = [ops.channel_norms(_finite(t), 2, dim) for t in ts]
        yield actual, [r.square().sum(1 - dim).sqrt() for r in real]


def _channels(t: Tensor) -> tuple[Tensor, Tensor]:
    scores = _finite(t[0])
    return scores, (~_lowest(scores, 60)).to(t.dtype).expand_as(t)


def _channel_mask(ts: list[Tensor]) -> Pairs:
    for t in ts:
        scores, expected = _channels(t)
        yield [ops.channel_mask(scores, t, None, 60, 1)], [expected]


def _channel_prune(ts: list[Tensor]) -> Pairs:
    for t in ts:
        scores, expected = _channels(t)
        yield ops.channel_prune(scores, t, None, 60, 1), (expected, t * expected)


def _combine_masks(ts: list[Tensor]) -> Pairs:
    one, other = _old_masks(ts)
    yield [ops.combine_masks(one, other.bool())], [one * other]


def _masked_mul(ts: list[Tensor]) -> Pairs:
    masks = _old_masks(ts)
    yield [ops.masked_mul(t, m) for t, m in zip(ts, masks, strict=True)], _products(ts, masks)


def _masked_mul_(ts: list[Tensor]) -> Pairs:
    masks = [m.bool() for m in _old_masks(ts)]
    actual = [ops.masked_mul_(t.clone(), m) for t, m in zip(ts, masks, strict=True)]
    yield actual, _products(ts, masks)


def _masked_muls(ts: list[Tensor]) -> Pairs:
    masks = _old_masks(ts)
    yield ops.masked_muls(ts, masks), _products(ts, masks)


def _masked_muls_(ts: list[Tensor]) -> Pairs:
    masks = [m.bool() for m in _old_masks(ts)]
    expected = [t.where(m, 0) for t, m in zip(ts, masks, strict=True)]
    yield ops.masked_muls_([t.clone() for t in ts], masks), expected
    yield ops.masked_muls_([t.clone() for t in ts], [packed(m) for m in masks]), expected


#: A check for each operator, by its name.
CHECKS: dict[str, Callable[[list[Tensor]], Pairs]] = {
    "topk_masks": _topk_masks,
    "topk_prune": _topk_prune,
    "topk_part": _topk_part,
    "nm_masks": _nm_masks,
    "nm_prune": _nm_prune,
    "row_masks": _row_masks,
    "row_prune": _row_prune,
    "block_norms": _block_norms,
    "block_masks": _block_masks,
    "block_prune": _block_prune,
    "channel_norms": _channel_norms,
    "channel_mask": _channel_mask,
    "channel_prune": _channel_prune,
    "combine_masks": _combine_masks,
    "masked_mul": _masked_mul,
    "masked_mul_": _masked_mul_,
    "masked_muls": _masked_muls,
    "masked_muls_": _masked_muls_,
}
