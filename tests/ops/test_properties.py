"""Properties that hold for any scores, masks and amounts, found out by hypothesis."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from support import reference
from support.compare import assert_same_bits, bits
from support.inputs import FLOATS, MASK_DTYPES, name
from support.targets import Target

WIDTHS = {2: np.int16, 4: np.int32, 8: np.int64}
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20)
FRACTIONS = st.floats(0, 1)


def bit_patterns(dtype: torch.dtype, shapes: st.SearchStrategy = SHAPES) -> st.SearchStrategy:
    """Tensors of any bits at all, with repeats likely."""
    width = WIDTHS[dtype.itemsize]
    arrays = hnp.arrays(width, shapes)
    return arrays.map(lambda array: torch.from_numpy(array).view(dtype))


@st.composite
def scores_and_mask(draw: st.DrawFn, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    scores = draw(bit_patterns(dtype))
    mask_dtype = draw(st.sampled_from(MASK_DTYPES))
    entries = hnp.arrays(np.uint8, tuple(scores.shape), elements=st.integers(0, 2))
    mask = torch.from_numpy(draw(entries))
    return scores, (mask == 1 if mask_dtype == torch.bool else mask.to(mask_dtype))


def run(target: Target, scores: Tensor, mask: Tensor | None, amount: float, **kw: bool) -> Tensor:
    scores = scores.to(target.device)
    mask = None if mask is None else mask.to(target.device)
    new: Tensor = target.ops.topk_masks([scores], [mask], amount, **kw)[0]
    return new.cpu()


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@given(data=st.data())
def test_agrees_with_the_reference(target: Target, dtype: torch.dtype, data: st.DataObject) -> None:
    scores, mask = data.draw(scores_and_mask(dtype))
    amount = data.draw(FRACTIONS | st.integers(0, int((mask == 1).sum())))
    largest, active_only = data.draw(st.booleans()), data.draw(st.booleans())
    options = {"largest": largest, "active_only": active_only}
    (expected,) = reference.topk_masks([scores], [mask], amount, **options)
    assert_same_bits(run(target, scores, mask, amount, **options), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@given(data=st.data())
def test_exactly_the_smallest_go(target: Target, dtype: torch.dtype, data: st.DataObject) -> None:
    scores, mask = data.draw(scores_and_mask(dtype))
    fraction = data.draw(FRACTIONS)
    active = mask == 1
    new = run(target, scores, mask, fraction)
    pruned = active & (new == 0)
    kept = active & (new == 1)
    assert pruned.sum() == round(fraction * int(active.sum()))
    assert pruned.sum() + kept.sum() == active.sum()
    assert torch.equal(bits(new)[~active], bits(mask)[~active])
    keys = reference.rank_keys(scores)
    if pruned.any() and kept.any():
        assert keys[pruned].max() <= keys[kept].min()


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@given(data=st.data())
def test_signs_do_not_matter(target: Target, dtype: torch.dtype, data: st.DataObject) -> None:
    scores, mask = data.draw(scores_and_mask(dtype))
    fraction = data.draw(FRACTIONS)
    flips = torch.from_numpy(data.draw(hnp.arrays(np.bool_, tuple(scores.shape))))
    flipped = torch.where(flips, -scores, scores)
    assert_same_bits(run(target, flipped, mask, fraction), run(target, scores, mask, fraction))


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@given(data=st.data())
def test_nothing_changes_nothing(target: Target, dtype: torch.dtype, data: st.DataObject) -> None:
    scores, mask = data.draw(scores_and_mask(dtype))
    for amount in (0, 0.0):
        assert_same_bits(run(target, scores, mask, amount), mask)


@given(data=st.data())
def test_pruning_more_prunes_a_superset(target: Target, data: st.DataObject) -> None:
    scores, mask = data.draw(scores_and_mask(torch.float32))
    less, more = sorted([data.draw(FRACTIONS), data.draw(FRACTIONS)])
    zeros_of_less = run(target, scores, mask, less) == 0
    zeros_of_more = run(target, scores, mask, more) == 0
    assert not (zeros_of_less & ~zeros_of_more).any()


@given(data=st.data())
def test_in_two_steps_as_in_one(target: Target, data: st.DataObject) -> None:
    scores = data.draw(bit_patterns(torch.float32))
    total = scores.numel()
    first = data.draw(st.integers(0, total))
    second = data.draw(st.integers(0, total - first))
    mask = run(target, scores, None, first)
    assert_same_bits(run(target, scores, mask, second), run(target, scores, None, first + second))


@given(data=st.data())
def test_a_list_is_as_one_tensor(target: Target, data: st.DataObject) -> None:
    whole = data.draw(bit_patterns(torch.float16, st.tuples(st.integers(0, 300))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    parts = [p.to(target.device) for p in torch.tensor_split(whole, cuts)]
    fraction = data.draw(FRACTIONS)
    new = target.ops.topk_masks(parts, [], fraction)
    assert_same_bits(torch.cat(new).cpu(), run(target, whole, None, fraction))


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@given(data=st.data())
def test_masked_mul_is_the_product(target: Target, dtype: torch.dtype, data: st.DataObject) -> None:
    t, mask = (x.to(target.device) for x in data.draw(scores_and_mask(dtype)))
    expected = reference.masked_mul(t, mask)
    assert_same_bits(target.ops.masked_mul(t, mask), expected)
    assert_same_bits(target.ops.masked_mul_(t.clone(), mask), expected)


@given(data=st.data())
def test_channels_agree_with_the_reference(target: Target, data: st.DataObject) -> None:
    shapes = hnp.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=12)
    like = data.draw(bit_patterns(torch.float32, shapes))
    dim = data.draw(st.integers(-like.dim(), like.dim() - 1))
    entries = hnp.arrays(np.float32, tuple(like.shape), elements=st.sampled_from([0, 1, 1, 2]))
    mask = data.draw(st.none() | entries.map(torch.from_numpy))
    scores = data.draw(bit_patterns(torch.float64, st.just((like.shape[dim],))))
    fraction, active_only = data.draw(FRACTIONS), data.draw(st.booleans())
    new = target.ops.channel_mask(
        scores.to(target.device),
        like.to(target.device),
        None if mask is None else mask.to(target.device),
        fraction,
        dim,
        active_only=active_only,
    )
    expected = reference.channel_mask(scores, like, mask, fraction, dim, active_only=active_only)
    assert_same_bits(new.cpu(), expected)
