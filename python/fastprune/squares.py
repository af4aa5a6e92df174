"""2:4 in rows and columns at once, in plain torch: for tensors that the operators do not take."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

#: The ways to keep two entries of a row, in the order of what they are as binary numbers.
_PAIRS = ((2, 3), (1, 3), (1, 2), (0, 3), (0, 2), (0, 1))
#: The ways to keep two of each row and column of four, in the same order: a pair for each row.
_PATTERNS = [
    rows
    for rows in itertools.product(range(6), repeat=4)
    if all(sum(column in _PAIRS[pair] for pair in rows) == 2 for column in range(4))
]
_MOST, _NAN = 2.0**1000, 2.0**1010


def check_squares(t: Tensor, dim: int) -> None:
    """Raise ``ValueError`` if ``t`` cannot be cut into squares."""
    if t.dim() < 2 or t.shape[0] % 4 or t.shape[1] % 4:
        raise ValueError(
            "expected a tensor that has two dims divisible by 4 first with both=True, got shape "
            f"{list(t.shape)}"
        )
    if (dim + t.dim() if dim < 0 else dim) not in (0, 1):
        raise ValueError(f"expected dim to be 0 or 1 with both=True, got {dim}")


def kept_in_squares(values: Tensor) -> Tensor:
    """Which entries stay, for the largest sum of ``values`` in each square; as in nm_both.h."""
    wide = values.double()
    bounded = torch.where(wide.isnan(), _NAN, wide.clamp(-_MOST, _MOST))
    squares = bounded.unflatten(1, (-1, 4)).unflatten(0, (-1, 4))  # [down, 4, across, 4, ...]
    squares = squares.movedim((1, 3), (-2, -1))
    first, second = torch.tensor(_PAIRS, device=values.device).unbind(1)
    pairs = squares[..., first] + squares[..., second]
    patterns = torch.tensor(_PATTERNS, device=values.device)
    sums = [pairs[..., row, patterns[:, row]] for row in range(4)]
    best = patterns[(sums[0] + sums[1] + sums[2] + sums[3]).argmax(-1)]  # the first among equals
    columns = torch.arange(4, device=values.device)
    kept = (first[best].unsqueeze(-1) == columns) | (second[best].unsqueeze(-1) == columns)
    return kept.movedim((-2, -1), (1, 3)).flatten(2, 3).flatten(0, 1)
