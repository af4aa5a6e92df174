"""selection.h through its hooks in _C, against Python: keys, digits, budget."""

import math
import struct

import pytest
import torch
from hypothesis import given, strategies as st

from fastprune import _C
from support.compare import INTEGER_OF_WIDTH
from support.inputs import FLOATS, name

KEY_BITS = {torch.float16: 15, torch.bfloat16: 15, torch.float32: 31, torch.float64: 63}
SPECIAL = [0.0, 5e-324, 1e-45, 1e-30, 6e-8, 0.5, 1.0, 1.0000001, 60000.0, 1e38, math.inf, math.nan]


def key_of(value: float, dtype: torch.dtype, largest: bool = False) -> int:
    t = torch.tensor(value, dtype=dtype)
    raw = int(t.view(INTEGER_OF_WIDTH[dtype.itemsize])) % (1 << 8 * dtype.itemsize)
    return _C._rank_key(name(dtype), raw, largest)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_keys_order_by_magnitude(dtype: torch.dtype) -> None:
    keys = [key_of(value, dtype) for value in SPECIAL]
    assert keys == sorted(keys)
    assert keys == [key_of(-value, dtype) for value in SPECIAL]
    distinct = {float(torch.tensor(v, dtype=dtype)) for v in SPECIAL[:-1]}
    assert len(set(keys)) == len(distinct) + 1


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_all_nans_share_the_highest_key(dtype: torch.dtype) -> None:
    bits = KEY_BITS[dtype]
    infinity = key_of(math.inf, dtype)
    for raw in (infinity + 1, infinity + 12, (1 << bits) - 1, (1 << bits) + infinity + 1):
        assert _C._rank_key(name(dtype), raw) == (1 << bits) - 1
    assert _C._rank_key(name(dtype), infinity) == infinity


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_largest_first_turns_the_order_round(dtype: torch.dtype) -> None:
    keys = [key_of(value, dtype, largest=True) for value in SPECIAL]
    assert keys == sorted(keys, reverse=True)
    assert keys[0] == (1 << KEY_BITS[dtype]) - 1
    assert keys[-1] == 0


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_raw_keys_are_below_where_keys_are(dtype: torch.dtype, largest: bool) -> None:
    infinity, top = key_of(math.inf, dtype), 1 << KEY_BITS[dtype]
    nans = [infinity + 1, infinity + 2, (infinity + top) // 2, top - 1]
    numbers = [0, 1, 2, infinity // 2, infinity - 1, infinity]
    raws = [sign + raw for raw in numbers + nans for sign in (0, top)]
    edges = [0, 1, 2, top - infinity - 2, top - infinity - 1, top - infinity, top - infinity + 1]
    for raw in raws:
        key = _C._rank_key(name(dtype), raw, largest)
        for bound in [*edges, infinity // 2, *(infinity + d for d in (-1, 0, 1, 2)), top - 1, top]:
            assert _C._raw_key_is_below(name(dtype), raw, bound, largest) == (key < bound)


@given(st.floats(width=32), st.floats(width=32))
def test_keys_compare_as_magnitudes(a: float, b: float) -> None:
    keys = [_C._rank_key("float32", struct.unpack("<I", struct.pack("<f", x))[0]) for x in (a, b)]
    magnitudes = [math.inf if math.isnan(x) else abs(x) for x in (a, b)]
    if math.isnan(a) or math.isnan(b):
        assert (keys[0] < keys[1]) == (math.isnan(b) and not math.isnan(a))
    else:
        assert (keys[0] < keys[1]) == (magnitudes[0] < magnitudes[1])
        assert (keys[0] == keys[1]) == (magnitudes[0] == magnitudes[1])


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match="int8"):
        _C._rank_key("int8", 0)


@pytest.mark.parametrize("key_bits", [15, 31, 63])
@pytest.mark.parametrize("digit_bits", [1, 8, 11, 12, 15, 16])
def test_digits_cover_the_key_from_the_top(key_bits: int, digit_bits: int) -> None:
    position = key_bits
    for shift, bits in _C._digits(key_bits, digit_bits):
        assert 1 <= bits <= digit_bits
        assert shift + bits == position
        position = shift
    assert position == 0


@given(st.floats(0, 1), st.integers(0, 1 << 53))
def test_budget_is_pythons_round(fraction: float, active: int) -> None:
    assert _C._budget(fraction, active) == round(fraction * active)


@pytest.mark.parametrize("active", range(0, 30))
def test_budget_of_halves_is_even(active: int) -> None:
    assert _C._budget(0.5, active) == round(0.5 * active)
    assert _C._budget(0.25, active) == round(0.25 * active)
