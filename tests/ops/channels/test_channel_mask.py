"""channel_mask against the reference: scores, masks, layouts, dims, amounts, threads."""

from itertools import product

import pytest
import torch
from torch import Tensor

from support import reference
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import (
    FLOATS,
    INTEGERS,
    KINDS,
    LAYOUTS,
    MASK_DTYPES,
    MASKS,
    SHAPE,
    amounts,
    mask,
    name,
    values,
)
from support.targets import Target


def check(
    target: Target,
    scores: Tensor,
    like: Tensor,
    old: Tensor | None,
    amount: float,
    dim: int,
    **kwargs: bool,
) -> Tensor:
    """Run on the target and hold every bit against the reference."""
    scores, like = scores.to(target.device), like.to(target.device)
    old = None if old is None else old.to(target.device)
    new = target.ops.channel_mask(scores, like, old, amount, dim, **kwargs)
    assert_same_bits(new.cpu(), reference.channel_mask(scores, like, old, amount, dim, **kwargs))
    assert_layout_of(new, like)
    return new


def some_channels_gone(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> Tensor:
    """A random mask in which every third channel along ``dim`` is all zero."""
    old = mask("random", shape, dtype)
    old.movedim(dim, 0)[::3] = 0
    return old


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_dims_and_amounts(target: Target, dtype: torch.dtype, dim: int) -> None:
    like = torch.empty(SHAPE, dtype=dtype)
    channels = SHAPE[dim]
    old = some_channels_gone(SHAPE, dim, dtype)
    active = channels - len(range(0, channels, 3))
    scores = torch.randn(channels)
    for amount in amounts(channels):
        new = check(target, scores, like, None, amount, dim)
        gone = (new.movedim(dim, 0).flatten(1) == 0).all(1)
        assert gone.sum() == reference.count(amount, channels)
        check(target, scores, like, old, amount, dim, active_only=False)
    for amount in amounts(active):
        check(target, scores, like, old, amount, dim)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_scores(target: Target, dtype: torch.dtype, kind: str) -> None:
    like = torch.empty(67, 3)
    for amount in (1, 0.5, 60):
        check(target, values(kind, 67, dtype), like, None, amount, 0)


@pytest.mark.parametrize(
    ("mask_dtype", "kind"),
    [(d, k) for d in MASK_DTYPES for k in MASKS if k != "fractions" or d.is_floating_point],
    ids=name,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
def test_masks(target: Target, dtype: torch.dtype, mask_dtype: torch.dtype, kind: str) -> None:
    like = torch.empty(SHAPE, dtype=dtype)
    old = mask(kind, SHAPE, mask_dtype)
    for amount, dim, active_only in product((0, 0.3, 1.0), (0, 1), (True, False)):
        scores = torch.randn(SHAPE[dim])
        check(target, scores, like, old, amount, dim, active_only=active_only)


#: Channels in long runs, in short runs, and interleaved; runs of whole vectors or not; few
#: channels and many.
PATHS = [((33, 64), 0), ((33, 61), 0), ((2, 3, 48), 1), ((2, 3, 37), 1), ((3, 5000), 0)]
PATHS += [((5000, 3), 1), ((70, 64), 1), ((70, 61), 1), ((1, 300), 1), ((40, 5, 9), 1)]
PATHS += [((40, 32, 9), 1), ((9, 16, 2), 1), ((1, 700), 0), ((700, 1), 0), ((700, 20), 0)]
PATHS += [((50, 300), 1), ((300, 2, 5), 0), ((3, 700, 3), 1)]
#: Denormals, a value whose only set bit is the sign, NaN.
NOT_ZERO = [(torch.bool, 1), (torch.int8, -128), (torch.float16, 6e-8), (torch.float32, -1e-45)]
NOT_ZERO += [(torch.float64, float("nan"))]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("shape", "dim"), PATHS, ids=str)
@pytest.mark.parametrize("mask_dtype", [*MASK_DTYPES, *INTEGERS], ids=name)
def test_paths(
    target: Target, mask_dtype: torch.dtype, shape: tuple[int, ...], dim: int, shift: int
) -> None:
    size = torch.Size(shape).numel()
    target.needs(size)
    like = torch.empty(shape, device=target.device)
    shifted = mask("random", size + shift, mask_dtype).to(target.device)
    old = shifted[shift:].view(shape)
    old.movedim(dim, 0)[::3] = 0
    channels = shape[dim]
    scores = values("two_values" if shift else "normal", channels, torch.float64)
    for amount in (0.3, 1.0):
        check(target, scores, like.to(torch.bfloat16), None, amount, dim)
        check(target, scores, like, old, amount, dim)


@pytest.mark.parametrize(("shape", "dim"), PATHS, ids=str)
@pytest.mark.parametrize(("mask_dtype", "value"), NOT_ZERO, ids=name)
def test_one_entry_makes_a_channel_active(
    target: Target, mask_dtype: torch.dtype, value: float, shape: tuple[int, ...], dim: int
) -> None:
    channels = shape[dim]
    target.needs(torch.Size(shape).numel())
    like = torch.empty(shape)
    for place in ("first", "last", "anywhere", "anywhere"):
        old = torch.zeros(shape, dtype=mask_dtype)
        if mask_dtype.is_floating_point:
            old = -old  # zeros too
        rows = old.movedim(dim, 0).flatten(1)  # may be a copy
        active = torch.randperm(channels)[: (channels + 1) // 2]
        last = rows.shape[1] - 1
        at = {"first": torch.tensor(0), "last": torch.tensor(last)}
        rows[active, at.get(place, torch.randint(last + 1, (len(active),)))] = value
        others = [n for i, n in enumerate(shape) if i != dim]
        old = rows.view(channels, *others).movedim(0, dim).contiguous()
        check(target, torch.randn(channels), like, old, max(1, len(active) // 2), dim)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [150, 1500])
def test_many_channels(target: Target, channels: int, kind: str) -> None:
    like = torch.empty(channels, 2)
    old = some_channels_gone((channels, 2), 0, torch.float32)
    scores = values(kind, channels, torch.float64)
    for amount in (0, 1, 0.1, 0.5, 0.99, 1.0):
        check(target, scores, like, None, amount, 0)
        check(target, scores, like, old, amount if amount != 1 else 0.7, 0)


def test_more_channels_than_every_block_selects_among(target: Target) -> None:
    shape = (9001, 2)
    old = some_channels_gone(shape, 0, torch.float32)
    scores = values("two_values", shape[0], torch.float64)
    check(target, scores, torch.empty(shape), None, 0.3, 0)
    check(target, scores, torch.empty(shape), old, 0.6, 0)


@pytest.mark.parametrize("shape", [(5, 7), (300, 3)], ids=str)
def test_no_channel_is_active(target: Target, shape: tuple[int, ...]) -> None:
    old = -torch.zeros(shape)
    for dim in (0, 1):
        for amount in (0, 0.5, 1.0):
            new = check(target, torch.randn(shape[dim]), torch.empty(shape), old, amount, dim)
            assert new.signbit().all()


def test_nan_and_infinite_mask_entries_are_multiplied(target: Target) -> None:
    old = torch.tensor([[float("nan"), 1, -1], [float("inf"), -0.0, 2]])
    new = check(target, torch.tensor([1.0, 2.0]), torch.empty(2, 3), old, 1, 0)
    assert new[0].isnan().tolist() == [True, False, False]
    assert new[0, 2].signbit()


@pytest.mark.parametrize("mask_layout", [None, *LAYOUTS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(target: Target, layout: str, mask_layout: str | None) -> None:
    like = LAYOUTS[layout](values("normal", SHAPE, torch.float32).to(target.device))
    old = None
    if mask_layout is not None:
        old = LAYOUTS[mask_layout](mask("non_binary", SHAPE, torch.uint8).to(target.device))
    for dim in range(4):
        scores = torch.randn(SHAPE[dim], device=target.device)
        new = target.ops.channel_mask(scores, like, old, 0.5, dim)
        assert_same_bits(new.cpu(), reference.channel_mask(scores, like, old, 0.5, dim))
        assert_layout_of(new, like)


def test_ties_go_by_the_lowest_channel(target: Target) -> None:
    scores = torch.tensor([2.0, 1.0, -1.0, 1.0, 0.0])
    new = check(target, scores, torch.empty(5, 2), None, 3, 0)
    assert new[:, 0].tolist() == [1, 0, 0, 1, 0]


def test_nan_is_pruned_last(target: Target) -> None:
    scores = torch.tensor([float("nan"), float("inf"), 1.0])
    new = check(target, scores, torch.empty(3, 2), None, 2, 0)
    assert new[:, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (2, 0, 4)], ids=str)
def test_empty(target: Target, shape: tuple[int, ...]) -> None:
    like = torch.empty(shape)
    for dim in range(len(shape)):
        for old in (None, torch.ones(shape)):
            for amount in (0, 0.0, 0.5, 1.0):
                check(target, torch.ones(shape[dim]), like, old, amount, dim)


@pytest.mark.parametrize("channels", [1, 2, 33, 1025])
@pytest.mark.parametrize("inner", [1, 33])
def test_sizes(target: Target, channels: int, inner: int) -> None:
    like = torch.empty(3, channels, inner)
    target.needs(like.numel())
    old = some_channels_gone((3, channels, inner), 1, torch.float32)
    for amount in (0.0, 0.25, 0.5, 1.0):
        check(target, torch.randn(channels), like, None, amount, 1)
        check(target, torch.randn(channels), like, old, amount, 1)


def test_count_above_active_is_a_value_error(target: Target) -> None:
    like = torch.empty(4, 3, device=target.device)
    scores = torch.ones(4, device=target.device)
    old = torch.ones(4, 3, device=target.device)
    old[1] = 0
    with pytest.raises(ValueError, match=r"amount=5 should be smaller .*=4"):
        target.ops.channel_mask(scores, like, None, 5, 0)
    with pytest.raises(ValueError, match=r"amount=4 should be smaller .*=3"):
        target.ops.channel_mask(scores, like, old, 4, 0)


def test_inputs_are_left_alone(target: Target) -> None:
    old = mask("random", SHAPE, torch.float32).to(target.device)
    before = old.clone()
    new = target.ops.channel_mask(torch.randn(8, device=target.device), old, old, 0.5, 1)
    assert_same_bits(old, before)
    assert new.data_ptr() != old.data_ptr()


def test_threads(target: Target, set_threads: object) -> None:
    shape = (211, 1009)
    like = torch.empty(shape, device=target.device)
    target.needs(like.numel())
    results = []
    scores = [torch.randn(size, device=target.device) for size in shape]
    olds = [some_channels_gone(shape, dim, torch.float32).to(target.device) for dim in (0, 1)]
    for threads in (1, 2, 7):
        set_threads(threads)
        results.append([target.ops.channel_mask(scores[d], like, olds[d], 0.5, d) for d in (0, 1)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
