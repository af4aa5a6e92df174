"""Equality in the sense of the contract: dtype, shape and every bit."""

import torch
from torch import Tensor

INTEGER_OF_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(t: Tensor) -> Tensor:
    """The bit patterns of ``t`` as integers, on the CPU, in logical order."""
    return t.detach().cpu().contiguous().view(INTEGER_OF_WIDTH[t.element_size()])


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Same dtype, shape and bits. Any NaN equals any other: IEEE does not specify its bits."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    same = bits(actual) == bits(expected)
    if actual.is_floating_point():
        same |= actual.detach().cpu().isnan() & expected.detach().cpu().isnan()
    wrong = (~same).nonzero()
    assert wrong.numel() == 0, (
        f"{len(wrong)} of {actual.numel()} differ, first at {wrong[0].tolist()}: "
        f"{actual.cpu()[tuple(wrong[0])]} for {expected.cpu()[tuple(wrong[0])]}"
    )


def assert_layout_of(actual: Tensor, like: Tensor) -> None:
    """The strides of ``empty_like``: those of ``like`` if it is dense."""
    assert actual.stride() == torch.empty_like(like).stride()
    assert actual.device == like.device
