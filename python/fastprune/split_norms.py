"""Norms of channels that are split among processes, each of which has some entries of a channel.

A sum of floating-point numbers depends on its order, and so on how many processes there are. Here
terms are rounded to multiples of a power of two, chosen by the greatest term of the channel so that
their sum has up to 62 bits: integers, whose sum is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .exchange import GroupExchange

#: Entries that are converted to float64 at once.
_BLOCK = 1 << 20
_BITS = 62


def norms_of_parts(
    parts: Tensor, here: Tensor, channels: int, entries: int, p: float, exchange: GroupExchange
) -> Tensor:
    """The ``p``-norm of each channel, float64, the same in all processes.

    Args:
        parts: what this process has of its channels, a row each.
        here: the channel of each row, int64.
        channels: of the whole tensor.
        entries: of each channel, in all processes together.
        p: any number, infinite ones too.
        exchange: with the other processes.
    """
    keys = torch.zeros(channels, dtype=torch.int64, device="cpu")
    for terms in _terms(parts, p):
        if terms.numel():
            keys[here] = torch.maximum(keys[here], _keys(terms, smallest=p == -math.inf).amax(1))
    extremes = _from_keys(exchange.max(keys), smallest=p == -math.inf)
    if math.isinf(p):
        return extremes
    # Each term is below 2 ** exponent, and there are at most 2 ** (bits of entries) of them.
    _, exponents = torch.frexp(extremes)
    shift = (_BITS - entries.bit_length()) - exponents
    sums = torch.zeros(channels, dtype=torch.int64, device="cpu")
    finite = extremes.isfinite()
    for terms in _terms(parts, p):
        scaled = _shifted(terms, shift[here][:, None]).round()
        sums[here] += torch.where(finite[here][:, None], scaled, 0).long().sum(1)
    total = _shifted(exchange.sum(sums).double(), -shift)
    total = torch.where(finite, total, extremes)
    return total if p in (0, 1) else total.sqrt() if p == 2 else total.pow(1 / p)


def _terms(parts: Tensor, p: float) -> Iterator[Tensor]:
    """What each entry adds to the sum, or what the extreme is taken of, block by block."""
    for block in parts.split(max(1, _BLOCK // max(1, len(parts))), dim=1):
        x = block.double().abs().cpu()
        if p == 0:
            yield (x != 0).double()
        elif p == 1 or math.isinf(p):
            yield x
        else:
            yield x * x if p == 2 else x.pow(p)


def _keys(terms: Tensor, *, smallest: bool) -> Tensor:
    """Integers from 0 in the order of the values, or against it; NaN above all."""
    bits = terms.view(torch.int64)
    infinity = torch.tensor(math.inf, dtype=torch.float64, device="cpu").view(torch.int64)
    return torch.where(terms.isnan(), infinity + 1, infinity - bits if smallest else bits)


def _from_keys(keys: Tensor, *, smallest: bool) -> Tensor:
    infinity = torch.tensor(math.inf, dtype=torch.float64, device="cpu").view(torch.int64)
    bits = infinity - keys if smallest else keys
    return torch.where(keys > infinity, torch.nan, bits.view(torch.float64))


def _shifted(x: Tensor, by: Tensor) -> Tensor:
    """``x * 2 ** by``, in two steps, as the power alone may overflow."""
    half = by.long() // 2
    return x * _power_of_two(half) * _power_of_two(by.long() - half)


def _power_of_two(exponent: Tensor) -> Tensor:
    """Exactly, for exponents from -1022 to 1023."""
    return torch.bitwise_left_shift(exponent + 1023, 52).view(torch.float64)
