"""Which kernels an operator launches on CUDA, counted on the emulator."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from cuda_on_host import build, session
from fastprune.packing import packed
from support.targets import Target


@pytest.fixture
def launches(target: Target) -> Callable[[Callable[[], object]], list[str]]:
    """Runs a function and returns the names of the kernels that it launched."""
    if target.name != session.NAME:
        pytest.skip("only the emulator counts launches")

    def run(what: Callable[[], object]) -> list[str]:
        before = build.launched()
        what()
        after = build.launched()
        return sorted(name for name, n in after.items() for _ in range(n - before.get(name, 0)))

    return run


Launches = Callable[[Callable[[], object]], list[str]]


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("shape", [(40, 60, 3), (5, 4, 700), (1, 1, 9000)], ids=str)
def test_channels(target: Target, launches: Launches, shape: tuple[int, ...], dim: int) -> None:
    t = torch.randn(shape)
    scores = torch.randn(shape[dim], dtype=torch.float64)
    old = torch.ones(shape)
    many = shape[dim] > int(build.policy(build.SMALL)["ChannelsPolicy::kSelectByAll"])
    select = ["channel_select_kernel", "channel_write_kernel"] if many else ["channel_mask_kernel"]
    assert len(launches(lambda: target.ops.channel_norms(t, 2, dim))) == 1
    assert launches(lambda: target.ops.channel_mask(scores, t, None, 0.5, dim)) == select
    flags, *rest = launches(lambda: target.ops.channel_mask(scores, t, old, 0.5, dim))
    assert flags.startswith("channel_flags")
    assert rest == select
    assert launches(lambda: target.ops.channel_prune(scores, t, None, 0.5, dim)) == select


def test_products(target: Target, launches: Launches) -> None:
    ts = [torch.randn(size) for size in (5, 300, 7)]
    masks = [torch.ones(size) for size in (5, 300, 7)]
    assert launches(lambda: target.ops.masked_mul(ts[0], masks[0])) == ["masked_mul_kernel"]
    assert launches(lambda: target.ops.masked_mul_(ts[0], masks[0])) == ["masked_mul_kernel"]
    assert launches(lambda: target.ops.masked_mul(ts[0], masks[0].long())) == ["masked_mul_kernel"]
    assert launches(lambda: target.ops.masked_muls(ts, masks)) == [
        "masked_mul_kernel",
        "store_words_kernel",
    ]
    pairs = [m.bool() for m in masks], [packed(m) for m in masks], masks
    for kind, kernel in zip(
        pairs, ("zero_by_bools_kernel", "zero_by_bits_kernel", "masked_mul_kernel"), strict=True
    ):
        run = functools.partial(target.ops.masked_muls_, ts, kind)
        assert launches(run) == sorted([kernel, "store_words_kernel"])
    halves = [t.half() for t in ts]
    mixed = [*ts, halves[0], halves[1].bfloat16()], [*pairs[0], pairs[0][0], pairs[0][1]]
    assert launches(lambda: target.ops.masked_muls_(*mixed)) == [  # one for each width
        *2 * ["store_words_kernel"],
        *2 * ["zero_by_bools_kernel"],
    ]
    twice = functools.partial(target.ops.masked_muls_, [ts[0], ts[0]], [pairs[0][0], pairs[1][0]])
    assert launches(twice) == ["zero_by_bits_kernel", "zero_by_bools_kernel"]
    assert launches(lambda: target.ops.combine_masks(masks[0], masks[0].bool())) == [
        "combine_masks_kernel"
    ]
