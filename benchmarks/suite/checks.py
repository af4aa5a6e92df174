"""Checks of a result against the definition, not against a library; a wrong one raises WrongResult.

Each checks the whole result, without a sort, so that it is affordable at every size that is timed.
The data have no NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


class WrongResult(Exception):
    """A result contradicts the definition."""


def require(condition: object, message: str) -> None:
    """Raise WrongResult with the message unless the condition holds."""
    if not condition:
        raise WrongResult(message)


def check_selection(
    scores: Sequence[Tensor],
    old_masks: Sequence[Tensor | None],
    new_masks: Sequence[Tensor],
    amount: float,
    *,
    largest: bool = False,
) -> None:
    """The masks prune exactly the share ``amount`` of the active entries, of smallest magnitude (or
    largest), lowest index first among equals, and leave all other entries as they were.
    """
    below = Extremes()
    for score, old, new in zip(scores, old_masks, new_masks, strict=True):
        require(new.shape == score.shape, f"mask of shape {new.shape} for {score.shape}")
        below.add(_ranks(score, largest), old, new)
    expected = round(amount * below.active)
    require(below.pruned == expected, f"pruned {below.pruned} entries instead of {expected}")
    require(
        below.highest_pruned <= below.lowest_kept,
        f"pruned magnitude {below.highest_pruned}, but kept {below.lowest_kept}",
    )
    if below.highest_pruned == below.lowest_kept:
        _check_ties(scores, old_masks, new_masks, below.lowest_kept, largest)


class Extremes:
    """The counts, and the ranks on both sides of the threshold, of one or several tensors."""

    def __init__(self) -> None:
        self.active = 0
        self.pruned = 0
        self.highest_pruned = -math.inf
        self.lowest_kept = math.inf

    def add(self, ranks: Tensor, old: Tensor | None, new: Tensor) -> None:
        """Add a tensor's ranks and masks.

        Raises:
            WrongResult: an entry that is not pruned differs from the old mask.
        """
        pruned = _pruned(old, new)
        unchanged = (new == 1) if old is None else (new == old)
        require((unchanged | pruned).all(), "an entry changed that is neither active nor pruned")
        kept = ~pruned if old is None else (old == 1) & ~pruned
        self.pruned += int(pruned.sum())
        self.active += int(pruned.sum()) + int(kept.sum())
        highest = ranks.masked_fill(~pruned, -math.inf).max().item()
        lowest = ranks.masked_fill(~kept, math.inf).min().item()
        self.highest_pruned = max(self.highest_pruned, highest)
        self.lowest_kept = min(self.lowest_kept, lowest)


def _ranks(score: Tensor, largest: bool) -> Tensor:
    magnitude = score.detach().abs()
    return -magnitude if largest else magnitude


def _pruned(old: Tensor | None, new: Tensor) -> Tensor:
    return new == 0 if old is None else (new == 0) & (old == 1)


def _check_ties(
    scores: Sequence[Tensor],
    old_masks: Sequence[Tensor | None],
    new_masks: Sequence[Tensor],
    threshold: float,
    largest: bool,
) -> None:
    """In index order over all tensors, the tied entries are first pruned ones, then kept ones."""
    parts = []
    for score, old, new in zip(scores, old_masks, new_masks, strict=True):
        tied = _ranks(score, largest) == threshold
        if old is not None:
            tied &= old == 1
        parts.append(new[tied] == 0)
    pruned = torch.cat(parts).to(torch.uint8)
    require((pruned[1:] <= pruned[:-1]).all(), "a tie did not go by the lowest index")


def check_channels(norms: Tensor, new_mask: Tensor, amount: float, dim: int) -> None:
    """The mask prunes exactly the share ``amount`` of the channels along ``dim``, of smallest norm,
    and is one elsewhere.

    Norms summed in another order differ in their last bits, so channels that close may swap.
    """
    channels = new_mask.movedim(dim, 0).flatten(1)
    pruned = (channels == 0).all(dim=1)
    expected = round(amount * len(norms))
    require(int(pruned.sum()) == expected, f"pruned {int(pruned.sum())} channels, not {expected}")
    if 0 < expected < len(norms):
        highest, lowest = norms[pruned].max().item(), norms[~pruned].min().item()
        require(highest <= lowest * (1 + 1e-12), f"pruned norm {highest}, but kept {lowest}")
    whole = (channels == 1).all(dim=1) | pruned
    require(whole.all(), "an entry changed in a channel that is kept")


def check_equal(actual: Tensor, expected: Tensor, what: str) -> None:
    """Both have the same dtype, shape and bits."""
    require(actual.dtype == expected.dtype, f"{what}: {actual.dtype} instead of {expected.dtype}")
    require(actual.shape == expected.shape, f"{what}: {actual.shape} instead of {expected.shape}")
    bits = _BITS[actual.element_size()]
    same = torch.equal(actual.detach().view(bits), expected.detach().view(bits))
    require(same, f"{what} differs")
