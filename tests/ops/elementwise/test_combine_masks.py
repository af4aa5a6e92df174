"""combine_masks: the product of two masks in the dtype of the first."""

import pytest
import torch

from support import reference
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import DENSE, INTEGERS, LAYOUTS, MASK_DTYPES, PRIME, SHAPE, SIZES, mask, name
from support.targets import Target


@pytest.mark.parametrize("new_kind", ["random", "non_binary"])
@pytest.mark.parametrize("old_kind", ["ones", "random", "non_binary"])
@pytest.mark.parametrize("new_dtype", [*MASK_DTYPES, *INTEGERS], ids=name)
@pytest.mark.parametrize("old_dtype", [*MASK_DTYPES, *INTEGERS], ids=name)
def test_dtypes(
    target: Target, old_dtype: torch.dtype, new_dtype: torch.dtype, old_kind: str, new_kind: str
) -> None:
    old = mask(old_kind, 1025, old_dtype).to(target.device)
    new = mask(new_kind, 1025, new_dtype).to(target.device)
    assert_same_bits(target.ops.combine_masks(old, new), reference.combine_masks(old, new))


@pytest.mark.parametrize("size", [*SIZES, 1_000_003])
@pytest.mark.parametrize("dtype", MASK_DTYPES, ids=name)
def test_sizes(target: Target, dtype: torch.dtype, size: int) -> None:
    target.needs(size)
    old = mask("random", size, dtype).to(target.device)
    new = mask("random", size, dtype).to(target.device)
    assert_same_bits(target.ops.combine_masks(old, new), reference.combine_masks(old, new))


@pytest.mark.parametrize("dtype", MASK_DTYPES[:4], ids=name)
def test_signs_and_special_values(target: Target, dtype: torch.dtype) -> None:
    special = [0.0, -0.0, 1.0, -1.0, 0.5, float("inf"), -float("inf"), float("nan")]
    old = torch.tensor(special, dtype=dtype, device=target.device).repeat_interleave(len(special))
    new = torch.tensor(special, dtype=dtype, device=target.device).repeat(len(special))
    assert_same_bits(target.ops.combine_masks(old, new), reference.combine_masks(old, new))


@pytest.mark.parametrize("size", [1, 7, 255, 256, 1030])
@pytest.mark.parametrize("shifts", [(0, 0), (1, 0), (0, 1), (3, 5), (8, 16)], ids=str)
@pytest.mark.parametrize("new_bool", [False, True])
@pytest.mark.parametrize("dtype", [*MASK_DTYPES, torch.int64], ids=name)
def test_alignments(
    target: Target, dtype: torch.dtype, new_bool: bool, shifts: tuple[int, int], size: int
) -> None:
    new_dtype = torch.bool if new_bool else dtype
    old = mask("non_binary", size + shifts[0], dtype).to(target.device)[shifts[0] :]
    new = mask("random", size + shifts[1], new_dtype).to(target.device)[shifts[1] :]
    assert_same_bits(target.ops.combine_masks(old, new), reference.combine_masks(old, new))


def test_integers_wrap_around(target: Target) -> None:
    old = torch.tensor([200, 100, 16], dtype=torch.uint8, device=target.device)
    assert target.ops.combine_masks(old, old).tolist() == [64, 16, 0]


@pytest.mark.parametrize("new_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("new_dtype", [torch.float32, torch.bool], ids=name)
def test_layouts(target: Target, new_dtype: torch.dtype, layout: str, new_layout: str) -> None:
    old = LAYOUTS[layout](mask("random", SHAPE, torch.float32).to(target.device))
    new = LAYOUTS[new_layout](mask("random", SHAPE, new_dtype).to(target.device))
    product = target.ops.combine_masks(old, new)
    assert_same_bits(product, reference.combine_masks(old, new))
    assert_layout_of(product, old)
    if layout in DENSE:
        assert product.stride() == old.stride()


def test_inputs_are_left_alone(target: Target) -> None:
    old = mask("random", PRIME % 5000, torch.float32).to(target.device)
    new = mask("random", PRIME % 5000, torch.float32).to(target.device)
    before = old.clone(), new.clone()
    product = target.ops.combine_masks(old, new)
    assert_same_bits(old, before[0])
    assert_same_bits(new, before[1])
    assert product.data_ptr() not in (old.data_ptr(), new.data_ptr())
