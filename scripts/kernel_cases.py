"""Every CUDA kernel on little data, against the CPU: what compute-sanitizer watches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastprune import ops
from fastprune.packing import packed

SIZES = (1, 31, 4096, 4097, 70_001)
SHAPES = ((33, 70), (5, 9, 11), (5000, 3))


def to(device: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.to(device) for t in tensors]


def results(device: str, dtype: torch.dtype) -> list[Tensor]:
    """What every operator makes of the same inputs on a device."""
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(n, generator=generator).to(dtype) for n in SIZES]
    few = [torch.randn(n, generator=generator).round().to(dtype) for n in SIZES]
    masks = [torch.rand(n, generator=generator) > 0.3 for n in SIZES]
    out: list[Tensor] = []
    for data in (scores, few):
        for old in ([], masks, [m.to(dtype) for m in masks]):
            out += ops.topk_masks(to(device, data), to(device, old), 0.5)
    out += ops.masked_muls(to(device, scores), to(device, masks))
    for kind in (masks, [packed(m) for m in masks]):
        out += ops.masked_muls_([t.clone() for t in to(device, scores)], to(device, kind))
    for shape in SHAPES:
        t = torch.randn(shape, generator=generator).to(dtype).to(device)
        mask = (torch.rand(shape, generator=generator) > 0.5).to(device)
        for dim in (0, -1):
            norms = ops.channel_norms(t, 2.0, dim)
            out += [norms, ops.channel_mask(norms, t, mask, 0.5, dim)]
            out += ops.channel_prune(norms, t, mask.to(dtype), 0.5, dim)
        out += [ops.combine_masks(t, mask), *ops.masked_muls_([t.clone()], [packed(mask)])]
    return out


def main() -> None:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        pairs = zip(results("cuda", dtype), results("cpu", dtype), strict=True)
        for ours, reference in pairs:
            torch.testing.assert_close(ours.cpu(), reference, rtol=0, atol=0, equal_nan=True)
    print("sanitizer_cases: all results agree with the CPU")


if __name__ == "__main__":
    main()
