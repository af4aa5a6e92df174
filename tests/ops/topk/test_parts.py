"""Selection over parts: tensors of several dtypes, with the masks of one operator over all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastprune
from fastprune import ops, parts
from support import reference
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import FLOATS, KINDS, LAYOUTS, mask, name, values
from support.targets import Hooks, Target

Masks = Sequence[Tensor | None]
CPU = Target("cpu", "cpu", ops)


def part(
    target: Target, scores: Sequence[Tensor], masks: Masks, places: Sequence[Tensor], **options: Any
) -> parts.Part:
    """A part that the target's operators select from."""
    there = [s.to(target.device) for s in scores]
    old = [None if m is None else m.to(target.device) for m in masks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "ops", target.ops)
        return parts.Part(there, old, places, **options)


def check(
    target: Target,
    scores: Sequence[Tensor],
    masks: Masks,
    amount: float,
    *,
    active_only: bool = True,
    largest: bool = False,
    split: random.Random | None = None,
) -> None:
    """Every bit against the reference on promoted scores. ``split`` makes more parts.

    Of those, some are on the CPU.
    """
    keys = parts.common_dtype(scores)
    kinds = [
        (s.dtype, s.dtype if m is None else m.dtype) for s, m in zip(scores, masks, strict=True)
    ]
    groups: dict[object, list[int]] = {}
    for i, kind in enumerate(kinds):
        groups.setdefault((*kind, split and split.randrange(3)), []).append(i)
    firsts = torch.tensor([0, *(s.numel() for s in scores)]).cumsum(0)
    targets = [split.choice([CPU, target, target]) if split else target for _ in groups]
    made = [
        part(
            on,
            [scores[i] for i in each],
            [masks[i] for i in each],
            [firsts[i : i + 1] for i in each],
            keys=keys,
            active_only=active_only,
            largest=largest,
        )
        for on, each in zip(targets, groups.values(), strict=True)
    ]
    new = parts.select(made, amount, int(firsts[-1]), keys)
    old = [
        torch.ones(s.shape, dtype=d) if m is None else m
        for s, m, (_, d) in zip(scores, masks, kinds, strict=True)
    ]
    expected = reference.topk_masks(
        [s.to(keys) for s in scores],
        [m.double() for m in old],
        amount,
        active_only=active_only,
        largest=largest,
    )
    for on, each, of_part in zip(targets, groups.values(), new, strict=True):
        for i, actual in zip(each, of_part, strict=True):
            assert_same_bits(actual.cpu(), expected[i].to(old[i].dtype))
            assert_layout_of(actual, scores[i].to(on.device))


@pytest.mark.parametrize("seed", range(60))
def test_random_lists(target: Target, seed: int) -> None:
    draw = random.Random(seed)
    large = 70_001 if target.max_numel > 70_001 else 3001
    sizes = [draw.choice([0, 1, 33, 1025, large // 10, large]) for _ in range(draw.randint(1, 6))]
    dtypes = draw.sample(FLOATS, draw.choice([1, 2, 4]))  # with one, parts have several tensors
    scores = [values(draw.choice(list(KINDS)), n, draw.choice(dtypes)) for n in sizes]
    masks: list[Tensor | None] = []
    for score in scores:
        kind, dtype = (
            draw.choice(["none", "random", "zeros", "ones"]),
            draw.choice([score.dtype, torch.bool]),
        )
        masks.append(None if kind == "none" else mask(kind, score.numel(), dtype))
    active_only = draw.random() < 0.7
    active = sum(
        s.numel() if m is None or not active_only else int((m == 1).sum())
        for s, m in zip(scores, masks, strict=True)
    )
    for amount in (0, 1, active, active // 2, 0.0, 1.0, 0.5, 0.97, 0.01):
        check(
            target,
            scores,
            masks,
            min(amount, active) if isinstance(amount, int) else amount,
            active_only=active_only,
            largest=draw.random() < 0.3,
            split=draw,
        )


@pytest.mark.parametrize("zeros", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_a_key_of_very_many_entries(target: Target, dtype: torch.dtype, zeros: float) -> None:
    """More than are stored: the interval is swept alone, or the histograms read everything."""
    draws = torch.Generator().manual_seed(0)
    each = 50_000 if target.max_numel > 200_000 else 2500
    scores = [
        torch.randn(3 * each, generator=draws),
        torch.randn(4 * each, generator=draws).to(dtype),
    ]
    for score in scores:
        score[torch.rand(len(score), generator=draws) < zeros] = 0
    for amount in (0.05, zeros - 0.01, zeros, zeros + 0.02):
        check(target, scores, [None, None], amount)


def test_no_room(target: Target, hooks: Hooks) -> None:
    """What the sweep could not store is counted by reading all entries."""
    hooks.force_overflow(True)
    for kind in ("normal", "mostly_zeros"):
        scores = [values(kind, n, d) for n, d in ((2000, torch.float32), (700, torch.float16))]
        for amount in (1, 0.3, 0.999):
            check(target, scores, [None, None], amount)


@pytest.mark.parametrize("interval", [(0, 0, 0), ((1 << 31) - 1,) * 3, (5, 9, 1 << 20)])
def test_an_interval_that_misses(
    target: Target, interval: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_interval", lambda *_: interval)
    for kind in ("normal", "mostly_zeros", "nan", "all_equal"):
        scores = [values(kind, n, d) for n, d in ((5000, torch.float32), (3000, torch.bfloat16))]
        for amount in (1, 0.3, 0.999, 1.0):
            check(target, scores, [None, None], amount)


def test_an_interval_that_is_one_key_of_a_narrow_dtype(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but zero lies between two bfloat16: its zeros are below the pivot, and one is pruned."""
    monkeypatch.setattr(parts, "_interval", lambda *_: (0, 118, 893))
    tiny = torch.full((100,), 1e-43)
    for scores in ([tiny, torch.zeros(9, dtype=torch.bfloat16)], [torch.zeros(9).bfloat16(), tiny]):
        for amount in (1, 8, 9, 10):
            check(target, scores, [None, None], amount)


def test_keys_between_those_of_a_narrow_dtype(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval and the threshold lie between two keys of bfloat16, of which it has the upper.

    So its entries are neither in the interval nor ties of the threshold.
    """
    above = torch.full((9,), 1 + 2**-7, dtype=torch.bfloat16)
    for equal in (torch.full((60,), 1 + 2**-20), 1 + 2**-20 * (torch.arange(60) % 3 + 1)):
        keys = reference.rank_keys(equal)
        for interval in (
            (int(keys.min()), int(keys.min()), int(keys.max())),
            (0, 5, (1 << 31) - 1),
        ):
            monkeypatch.setattr(parts, "_interval", lambda *_, found=interval: found)
            for scores in ([above, equal], [equal, above]):
                for amount in (1, 20, 21, 59, 60, 61, 68):
                    check(target, scores, [None, None], amount)


@pytest.mark.parametrize("edge", [0.5, 1.0], ids=["lower", "upper"])
def test_ties_with_an_edge(target: Target, edge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep counts them by tile, and does not store them; in some tiles there are none."""
    keys = reference.rank_keys(torch.tensor([0.5, 0.9, 1.0]))
    monkeypatch.setattr(parts, "_interval", lambda *_: tuple(keys.tolist()))
    for spread in (2000, 40):
        wide = torch.where(torch.arange(2000) % spread < 9, edge, 0.2)
        narrow = torch.where(torch.arange(900) % 300 < 4, edge, 0.2).bfloat16()
        for scores in ([wide, narrow], [narrow, wide]):
            below = sum(int((s < edge).sum()) for s in scores)
            for amount in (below + 1, below + 5, below + 14):
                check(target, scores, [None, None], amount)


def test_ties_of_tensors_that_alternate_between_parts(target: Target) -> None:
    """Ties go by the order of the tensors, not by that within a part."""
    wide, narrow = torch.float32, torch.bfloat16
    shapes = ((3000, wide), (1, narrow), (10, wide), (10, narrow))
    scores = [torch.ones(n, dtype=dtype) for n, dtype in shapes]
    for amount in (7, 2999, 3000, 3001, 3002, 3011, 3015, 3021):
        check(target, scores, [None] * 4, amount)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(target: Target, layout: str) -> None:
    shape = (8, 5, 7, 3)
    scores = [LAYOUTS[layout](values("normal", shape, d)) for d in (torch.float32, torch.float16)]
    check(target, scores, [None, None], 0.5)


def test_places_of_a_slice(target: Target) -> None:
    """Columns of a matrix in each part, as shards are: ties go by the place in the whole."""
    whole = torch.randn(40, 30).mul(2).round()
    columns = [slice(0, 11), slice(11, 12), slice(12, 30)]
    made = []
    for cut in columns:
        places = [torch.tensor([0]), torch.arange(40) * 30, torch.arange(30)[cut]]
        local = whole[:, cut].contiguous()
        made.append(part(target, [local], [None], [torch.cat(places)], keys=torch.float32))
    for_all = []
    for amount in (0.1, 0.5, 0.77):
        new = parts.select(made, amount, whole.numel(), torch.float32)
        (expected,) = reference.topk_masks([whole], [], amount)
        assert torch.equal(torch.cat([m.cpu() for (m,) in new], 1), expected)
        for_all.append(expected)
        made = [
            part(target, [whole[:, cut].contiguous()], [None], old.places, keys=torch.float32)
            for cut, old in zip(columns, made, strict=True)
        ]
    assert len({int(m.sum()) for m in for_all}) == 3


@pytest.mark.parametrize("amount", [np.float32(0.5), np.float64(0.5), np.int64(7), 7])
def test_numbers_of_numpy(amount: float) -> None:
    scores = [torch.arange(9.0), torch.arange(5.0, dtype=torch.float64)]
    arguments = {"dtypes": [s.dtype for s in scores], "largest": False}
    new = parts.topk_masks(scores, [None, None], amount, active_only=True, **arguments)
    assert sum(int((mask == 0).sum()) for mask in new) == 7


def test_a_count_that_does_not_fit() -> None:
    scores = [torch.ones(10), torch.ones(5, dtype=torch.float64)]
    old = [torch.zeros(10), None]
    arguments = {"dtypes": [s.dtype for s in scores], "largest": False}
    with pytest.raises(ValueError, match=r"amount=6 .*=5"):
        parts.topk_masks(scores, old, 6, active_only=True, **arguments)
    with pytest.raises(ValueError, match=r"amount=16 .*=15"):
        parts.topk_masks(scores, old, 16, active_only=False, **arguments)


def test_arguments(target: Target) -> None:
    t = torch.ones(3, device=target.device)
    with pytest.raises(RuntimeError, match=r"keys .*[Ff]loat.*got.*Half"):
        target.ops.topk_part([t], [], torch.float16)
    native = target.ops.topk_part([t, t], [], torch.float32)
    native.sweep(0, 0, 0)
    with pytest.raises(RuntimeError, match=r"1 entry or 4 on the CPU, got 2"):
        native.tie_histogram(0, 0, 0, False, [torch.tensor([0]), torch.tensor([0, 1])])
    with pytest.raises(RuntimeError, match=r"places of 2 tensors, got 1"):
        native.tie_histogram(0, 0, 0, False, [torch.tensor([0])])
    with pytest.raises(RuntimeError, match=r"shift < 64, got 0 and 64"):
        native.histogram(0, 64, False)
    with pytest.raises(RuntimeError, match=r"lo <= pivot <= hi, got 2, 1 and 3"):
        native.sweep(2, 1, 3)


def test_calls_out_of_order(target: Target) -> None:
    t = torch.arange(9.0, device=target.device)
    places = [torch.tensor([0])]

    def before_a_sweep(native: Any) -> None:
        with pytest.raises(RuntimeError, match=r"sweep\(\) that had room before histogram"):
            native.histogram(0, 20, True)
        with pytest.raises(RuntimeError, match=r"sweep\(\) that had room before tie_histogram"):
            native.tie_histogram(0, 0, 0, True, places)
        with pytest.raises(RuntimeError, match=r"sweep\(\) that had room before fixup"):
            native.fixup(0, 0, 0, True)
        with pytest.raises(RuntimeError, match=r"fixup\(\).* before masks"):
            native.masks()

    native = target.ops.topk_part([t], [], torch.float32)
    before_a_sweep(native)
    assert int(native.histogram(0, 30, False).sum()) == 9
    key = int(t[4:5].cpu().view(torch.int32))
    native.fixup(key, 4, 1, False)
    with pytest.raises(RuntimeError, match=r"no fixup\(\) before sweep"):
        native.sweep(0, 0, 0)
    with pytest.raises(RuntimeError, match=r"no fixup\(\) before fixup"):
        native.fixup(key, 4, 1, False)
    (mask,) = native.masks()
    assert mask.tolist() == [0] * 5 + [1] * 4
    with pytest.raises(RuntimeError, match=r"no other masks\(\)"):
        native.masks()


@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=name)
@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.float32], ids=name)
def test_promoted_keys(target: Target, narrow: torch.dtype, wide: torch.dtype) -> None:
    """All values of 16 bits, and float32 from everywhere: as torch converts them."""
    bits = torch.arange(1 << 15, dtype=torch.int16)
    t = bits.view(narrow) if narrow != torch.float32 else values("any_bits", 50_000, narrow)
    for largest in (False, True):
        native = target.ops.topk_part([t.to(target.device)], [], wide, largest=largest)
        keys, drawn = native.sample(1)
        flip = fastprune._C._max_key(name(wide).split(".")[-1]) if largest else 0
        expected = reference.rank_keys(t.to(wide))
        assert drawn == len(t)
        assert torch.equal(keys, flip - expected if largest else expected)


def test_global_unstructured_of_several_dtypes_copies_nothing() -> None:
    layers = [
        torch.nn.Linear(9, 7),
        torch.nn.Linear(7, 30).to(torch.bfloat16),
        torch.nn.Linear(30, 5).double(),
    ]
    pairs = [(m, n) for m in layers for n in ("weight", "bias")]
    scores = [getattr(m, n).detach() for m, n in pairs]
    fastprune.global_unstructured(pairs[:3], fastprune.L1Unstructured, amount=0.5)
    old = [getattr(m, n + "_mask", None) for m, n in pairs]
    fastprune.global_unstructured(pairs, fastprune.L1Unstructured, amount=0.5)
    expected = reference.topk_masks(
        [s.double() for s in scores], [None if m is None else m.double() for m in old], 0.5
    )
    for (module, n), wanted in zip(pairs, expected, strict=True):
        new = getattr(module, n + "_mask")
        assert new.dtype == getattr(module, n).dtype
        assert torch.equal(new.double(), wanted)
        assert torch.equal(getattr(module, n), new * getattr(module, n + "_orig"))
