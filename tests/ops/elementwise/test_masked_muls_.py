"""masked_muls_: bool and packed masks set pruned entries to +0, others multiply, over a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fastprune.packing import packed
from support import reference
from support.compare import assert_same_bits, bits
from support.inputs import FLOATS, INTEGERS, KINDS, LAYOUTS, MASKS, SHAPE, mask, name, values
from support.targets import Target

SIZES = [0, 1, 7, 8, 9, 31, 33, 1023, 1025]
FACTORS = [*FLOATS, torch.uint8, *INTEGERS]
ZEROING = ["bool", "packed"]
SPECIAL = [0.0, -0.0, 1.5, -1.5, float("inf"), -float("inf"), float("nan"), -float("nan"), 1e-40]


def made(kind: str, kept: Tensor) -> Tensor:
    """A mask of a kind: "bool", "packed", or the name of a dtype."""
    if kind == "packed":
        return packed(kept)
    return kept.to(getattr(torch, kind))


def random(kind: str, shape: Any, device: str, of: str = "random") -> Tensor:
    return made(kind, mask(of, shape, torch.bool)).to(device)


def assert_masked(target: Target, ts: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Apply masks and compare: the same objects; with bool and packed masks also bits of NaNs."""
    expected = reference.masked_muls_(ts, masks)
    before = [m.clone() for m in masks]
    strides = [t.stride() for t in ts]
    result = target.ops.masked_muls_(list(ts), list(masks))
    assert len(result) == len(ts)
    for i, t in enumerate(ts):
        assert result[i] is t
        assert t.stride() == strides[i]
        assert torch.equal(bits(masks[i]), bits(before[i]))
        if masks[i].dtype == torch.bool or masks[i].shape != t.shape:
            assert torch.equal(bits(t), bits(expected[i]))  # NaNs too
        else:
            assert_same_bits(t, expected[i].to(t.device))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask_kind", [*ZEROING, "uint8", "float32", "bfloat16"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_values(target: Target, dtype: torch.dtype, mask_kind: str, kind: str) -> None:
    t = values(kind, 1025, dtype).to(target.device)
    assert_masked(target, [t], [random(mask_kind, 1025, target.device)])


@pytest.mark.parametrize("of", ["ones", "zeros", "random", "sparse"])
@pytest.mark.parametrize("shape", [(3000,), (5, 600), (7, 333), (600, 5)], ids=str)
@pytest.mark.parametrize("mask_kind", ZEROING)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_densities(
    target: Target, dtype: torch.dtype, mask_kind: str, shape: tuple[int, ...], of: str
) -> None:
    t = values("any_bits", shape, dtype).to(target.device)
    assert_masked(target, [t], [random(mask_kind, shape, target.device, of)])


@pytest.mark.parametrize("mask_kind", ZEROING)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_runs_of_kept_and_pruned(target: Target, dtype: torch.dtype, mask_kind: str) -> None:
    kept = torch.arange(1 << 12) // 600 % 2 == 0  # whole vectors and blocks of either, and borders
    t = values("any_bits", kept.shape, dtype).to(target.device)
    assert_masked(target, [t], [made(mask_kind, kept).to(target.device)])


@pytest.mark.parametrize("of", MASKS)
@pytest.mark.parametrize("mask_dtype", FACTORS, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_any_other_mask_is_masked_mul_(
    target: Target, dtype: torch.dtype, mask_dtype: torch.dtype, of: str
) -> None:
    t = values("normal", (5, 205), dtype).to(target.device)
    m = mask(of, (5, 205), mask_dtype).to(target.device)
    expected = target.ops.masked_mul_(t.clone(), m)
    assert_masked(target, [t], [m])
    assert_same_bits(t, expected)


@pytest.mark.parametrize("mask_kind", ZEROING)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_pruned_entries_become_positive_zero(
    target: Target, dtype: torch.dtype, mask_kind: str
) -> None:
    t = torch.tensor(SPECIAL, dtype=dtype).repeat(40).to(target.device)
    before = t.clone()
    kept = torch.arange(len(t), device=target.device) % 3 == 0
    target.ops.masked_muls_([t], [made(mask_kind, kept)])
    assert not bits(t)[~kept.cpu()].any()
    assert torch.equal(bits(t)[kept.cpu()], bits(before)[kept.cpu()])


@pytest.mark.parametrize("shape", [(), (1,), (5, 1), (1, 5), (3, 9), (9, 3), (4, 3, 3, 3)], ids=str)
@pytest.mark.parametrize("mask_kind", [*ZEROING, "float32"])
def test_shapes(target: Target, mask_kind: str, shape: tuple[int, ...]) -> None:
    t = values("normal", shape, torch.float32).to(target.device)
    assert_masked(target, [t], [random(mask_kind, shape, target.device)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask_kind", [*ZEROING, "float32", "uint8"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_sizes(target: Target, dtype: torch.dtype, mask_kind: str, size: int) -> None:
    ts = [values("normal", shape, dtype) for shape in (size, (3, size), (size, 9))]
    masks = [random(mask_kind, t.shape, target.device) for t in ts]
    assert_masked(target, [t.to(target.device) for t in ts], masks)


@pytest.mark.parametrize("cols", [1, 3, 7, 9, 27, 100, 255, 257, 1001])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_rows_of_packed_masks(target: Target, dtype: torch.dtype, cols: int) -> None:
    t = values("any_bits", (3000 // cols + 2, cols), dtype).to(target.device)
    m = random("packed", t.shape, target.device)
    if cols % 8:
        m[:, -1] |= 0xFF << cols % 8 & 0xFF  # ignored
    kept = reference.unpacked(m, t.shape)
    expected = t.cpu().where(kept, 0)
    assert_masked(target, [t], [m])
    assert torch.equal(bits(t), bits(expected))


def test_packed_mask_of_the_shape_of_the_tensor(target: Target) -> None:
    t = torch.tensor([[1.5], [-2.0], [0.25], [-3.0]], device=target.device)
    m = torch.tensor([[1], [0], [0], [1]], dtype=torch.uint8, device=target.device)
    product = target.ops.masked_mul_(t.clone(), m)
    by_bool = t.clone()
    target.ops.masked_muls_([by_bool], [m.bool()])
    assert_masked(target, [t], [m])
    assert torch.equal(t, product)
    assert_same_bits(t, by_bool)


@pytest.mark.parametrize("size", [1, 7, 255, 256, 1030])
@pytest.mark.parametrize("shifts", [(0, 0), (1, 0), (0, 1), (3, 5), (8, 16), (4, 4)], ids=str)
@pytest.mark.parametrize("mask_kind", [*ZEROING, "float32"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_alignments(
    target: Target, dtype: torch.dtype, mask_kind: str, shifts: tuple[int, int], size: int
) -> None:
    whole = values("normal", size + shifts[0] + 40, dtype).to(target.device)
    before = whole.clone()
    t = whole[shifts[0] : shifts[0] + size]
    m = random(mask_kind, size, target.device)
    room = torch.cat([m.new_zeros(*m.shape[:-1], shifts[1]), m], -1)
    m = room[..., shifts[1] :]
    (expected,) = reference.masked_muls_([t], [m])
    assert_masked(target, [t, t.clone()], [m, m])
    before[shifts[0] : shifts[0] + size] = expected.to(target.device)
    assert_same_bits(whole, before)


@pytest.mark.parametrize("mask_layout", LAYOUTS)
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "expanded"])
@pytest.mark.parametrize("mask_kind", [*ZEROING, "float32"])
def test_layouts(target: Target, mask_kind: str, layout: str, mask_layout: str) -> None:
    t = LAYOUTS[layout](values("any_bits", SHAPE, torch.float32).to(target.device))
    m = random(mask_kind, SHAPE, target.device)
    if mask_kind == "packed":  # two dims, which all layouts but one take
        mask_layout = mask_layout.replace("channels_last", "contiguous")
        m = m[:1].expand_as(m) if mask_layout == "expanded" else LAYOUTS[mask_layout](m)
    else:
        m = LAYOUTS[mask_layout](m)
    assert_masked(target, [t], [m])


@pytest.mark.parametrize("mask_kind", [*ZEROING, "float32"])
def test_what_lies_between_is_left_alone(target: Target, mask_kind: str) -> None:
    whole = torch.ones(10, 10, device=target.device)
    target.ops.masked_muls_([whole[::2, 1:4]], [random(mask_kind, (5, 3), target.device, "zeros")])
    assert whole.sum() == 100 - 15


def mixed(device: str) -> tuple[list[Tensor], list[Tensor]]:
    sizes = [5, 0, 257, 1, 1025, (3, 100), (4, 3, 3, 3), *range(1, 70)]
    ts, masks = [], []
    for i, size in enumerate(sizes):
        ts.append(values("any_bits", size, FLOATS[i % 4]).to(device))
        masks.append(random(["bool", "packed", "float32", "uint8", "bool"][i % 5], size, device))
    return ts, masks


def test_lists(target: Target) -> None:
    assert_masked(target, *mixed(target.device))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads(target: Target, set_threads: Any, threads: int) -> None:
    target.needs(300_001)
    set_threads(threads)
    ts = [values("any_bits", shape, torch.float32) for shape in (300_001, (1001, 299))]
    ts = [t.to(target.device, copy=True) for t in [*ts, *ts]]
    masks = [
        random(kind, t.shape, target.device)
        for kind, t in zip(["bool", "packed", "packed", "bool"], ts, strict=True)
    ]
    assert_masked(target, ts, masks)


@pytest.mark.parametrize("mask_kind", [*ZEROING, "float32"])
def test_a_tensor_may_be_listed_twice(target: Target, mask_kind: str) -> None:
    t = values("normal", (40, 50), torch.float32).to(target.device)
    shapes = [(40, 50), (2000,), (50, 40)]
    masks = [random(mask_kind, shape, target.device) for shape in shapes]
    one_by_one = t.clone()
    for view, m in zip([one_by_one, one_by_one.view(-1), one_by_one.T], masks, strict=True):
        target.ops.masked_muls_([view], [m])
    target.ops.masked_muls_([t, t.view(-1), t.T], masks)
    assert_same_bits(t, one_by_one)


def test_a_mask_may_be_a_tensor_of_the_list(target: Target) -> None:
    a, b, c = (values("normal", 2000, torch.float32).to(target.device) for _ in range(3))
    expected = [a * b, b * c]
    target.ops.masked_muls_([a, b], [b, c])
    assert_same_bits(a, expected[0])
    assert_same_bits(b, expected[1])


@pytest.mark.large
@pytest.mark.parametrize("mask_kind", ZEROING)
def test_more_than_2_31_elements(target: Target, mask_kind: str) -> None:
    size = (1 << 31) + 1000
    target.needs(size)
    t = torch.ones(size, dtype=torch.bfloat16, device=target.device)
    m = torch.ones(size, dtype=torch.bool, device=target.device)
    m[-7:] = False
    target.ops.masked_muls_([t], [packed(m) if mask_kind == "packed" else m])
    assert t[:-7].all()
    assert not t[-7:].any()
