"""Outputs are allocated without ATen's operators, whose calls take longer than a small kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from support.compare import assert_same_bits
from support.targets import Target

CALLS: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], Any]] = {
    "topk_masks": lambda ops, t, mask: ops.topk_masks([t, t], [mask, mask], 0.5),
    "topk_prune": lambda ops, t, mask: ops.topk_prune([t, t], [mask, mask], [t, t], 0.5),
    "masked_mul": lambda ops, t, mask: ops.masked_mul(t, mask),
    "masked_muls": lambda ops, t, mask: ops.masked_muls([t, t], [mask, mask]),
    "combine_masks": lambda ops, t, mask: ops.combine_masks(mask, mask),
    "channel_norms": lambda ops, t, mask: ops.channel_norms(t, 1, 0),
}


def flat(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    return [t for part in result for t in flat(part)]


@pytest.mark.parametrize("op", CALLS)
def test_nothing_is_filled_in_deterministic_mode(target: Target, op: str) -> None:
    t = torch.randn(40, 30).to(target.device)
    mask = torch.ones_like(t)
    with torch.no_grad():
        expected = flat(CALLS[op](target.ops, t, mask))
        torch.use_deterministic_algorithms(True)
        try:
            with profile(activities=[ProfilerActivity.CPU]) as recorded:
                result = flat(CALLS[op](target.ops, t, mask))
        finally:
            torch.use_deterministic_algorithms(False)
    for ours, wanted in zip(result, expected, strict=True):
        assert_same_bits(ours, wanted)
        assert ours.stride() == wanted.stride()
    called = {event.key for event in recorded.key_averages()}
    assert not called & {"aten::fill_", "aten::empty_like"}, called
