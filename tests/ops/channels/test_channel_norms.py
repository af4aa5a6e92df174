"""channel_norms: the same bits as sums in the documented order, and the values of torch's norms."""

import math
from decimal import Context, Decimal, localcontext

import pytest
import torch

import fastprune
from support import reference
from support.compare import assert_same_bits
from support.inputs import FLOATS, KINDS, LAYOUTS, SHAPE, name, values
from support.targets import Target

INF = float("inf")
EXACT = [0, 1, 2, INF, -INF]  # of correctly rounded operations alone, which torch has as well
POWERS = [3, 0.5, 3.5, -1, -2.5]


@pytest.mark.parametrize("p", EXACT)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_every_bit(target: Target, dtype: torch.dtype, kind: str, p: float) -> None:
    t = values(kind, SHAPE, dtype).to(target.device)
    for dim in (0, 1, 3, -2):
        norms = target.ops.channel_norms(t, p, dim)
        assert norms.device == t.device
        assert_same_bits(norms.cpu(), reference.channel_norms(t, p, dim))


@pytest.mark.parametrize("p", [*EXACT, *POWERS])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_values_of_torch(target: Target, dtype: torch.dtype, p: float) -> None:
    t = values("normal", (5, 6, 7), dtype).to(target.device)
    for dim in range(3):
        others = [d for d in range(3) if d != dim]
        expected = torch.linalg.vector_norm(t.double(), p, dim=others)
        norms = target.ops.channel_norms(t, p, dim)
        torch.testing.assert_close(norms, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("p", [*POWERS, 1e-3, 40, 1e300, -1e-320])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_special_values_in_powers(target: Target, dtype: torch.dtype, kind: str, p: float) -> None:
    t = values(kind, SHAPE, dtype).to(target.device)
    for dim in (0, 1, 3):
        norms = target.ops.channel_norms(t, p, dim).cpu()
        assert_same_bits(norms, fastprune.ops.channel_norms(t.cpu(), p, dim))
        expected = reference.channel_norms(t, p, dim)
        torch.testing.assert_close(norms, expected, rtol=1e-11, atol=0, equal_nan=True)


@pytest.mark.parametrize("p", [*POWERS, 1.5, 3, 4, 10, 1 / 3, -0.2])
def test_last_bits_of_powers(target: Target, p: float) -> None:
    """Of norms of one or two entries, against 60 digits."""
    t = torch.stack([torch.logspace(-20, 20, 401), values("normal", 401, torch.float32)], 1)
    for part in (t.double(), t[:, :1].double(), t[:, 1:].double()):
        norms = target.ops.channel_norms(part.to(target.device), p, 0).tolist()
        with localcontext(Context(prec=60)):
            for norm, entries in zip(norms, part.tolist(), strict=True):
                total = sum(abs(Decimal(x)) ** Decimal(p) for x in entries)
                exact = total ** Decimal(1 / p)
                units = abs(Decimal(norm) - exact) / Decimal(math.ulp(norm))
                assert units <= 0.8 * (1 + 2 / abs(p)), entries


def test_powers_that_are_numbers_are_exact(target: Target) -> None:
    """Terms of the order 1/2 are square roots, the norm is the square of their sum."""
    roots = torch.arange(1.0, 2001.0, dtype=torch.float64)
    t = torch.stack([roots**2, roots.flip(0) ** 2], 1).to(target.device)
    assert target.ops.channel_norms(t, 0.5, 0).tolist() == [2001.0**2] * 2000


@pytest.mark.parametrize("p", POWERS)
def test_vectorized_powers_are_those_of_single_entries(target: Target, p: float) -> None:
    """A channel of zeros but for one entry takes whole rows of lanes."""
    t = values("normal", 512, torch.float32).double()
    wide = torch.zeros(512, 64, dtype=torch.float64)
    if p < 0:
        wide.fill_(INF)  # adds nothing
    wide[range(512), [i % 64 for i in range(512)]] = t
    target.needs(wide.numel())
    assert_same_bits(
        target.ops.channel_norms(wide.to(target.device), p, 0),
        target.ops.channel_norms(t[:, None].to(target.device), p, 0),
    )


@pytest.mark.parametrize("p", [1, 2, INF])
@pytest.mark.parametrize(
    "shape",
    [
        (3, 31),
        (3, 32),
        (3, 33),
        (2, 1023),
        (2, 1024),
        (2, 1025),
        (2, 4097),
        (3, 10007),
        (2, 9, 1025),
    ],
    ids=str,
)
def test_lanes_and_chunks(target: Target, shape: tuple[int, ...], p: float) -> None:
    t = values("scaled", shape, torch.float32).to(target.device)
    target.needs(t.numel())
    for dim in range(len(shape)):
        assert_same_bits(
            target.ops.channel_norms(t, p, dim).cpu(), reference.channel_norms(t, p, dim)
        )


@pytest.mark.parametrize("channels", [1, 63, 64, 65, 129])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_channels_side_by_side(target: Target, dtype: torch.dtype, channels: int) -> None:
    t = values("normal", (130, channels), dtype).to(target.device)
    target.needs(t.numel())
    for dim in (0, 1):
        assert_same_bits(
            target.ops.channel_norms(t, 2, dim).cpu(), reference.channel_norms(t, 2, dim)
        )


#: What decides how CUDA reads a channel: long runs, short ones, entries side by side; whole vectors
#: or not; one chunk, several for one block, several for many; few channels or many.
ROWS = [((40, 64), 0), ((40, 63), 0), ((3, 2, 48), 1), ((3, 5, 33), 1), ((65, 3, 40), 1)]
ROWS += [((1, 9000), 0), ((3, 9000), 0), ((2, 2, 4500), 1), ((1, 17000), 0), ((7, 4100), 0)]
COLUMNS = [((130, 64), 1), ((130, 61), 1), ((3, 200), 1), ((4100, 5), 1), ((4500, 4), 1)]
COLUMNS += [((4100, 10), 1)]
STRIPS = [((70, 5, 9), 1), ((600, 3, 9), 1), ((2100, 3, 2), 1), ((140, 3, 31), 1), ((9, 4, 7), 1)]
STRIPS += [
    ((500, 1, 9), 1),
    ((5000, 3), 1),
    ((5000, 2), 1),
    ((5000, 1), 1),
    ((40, 65, 8), 1),
    ((600, 6, 9), 1),
]


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize(("shape", "dim"), [*ROWS, *COLUMNS, *STRIPS], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_paths(
    target: Target, dtype: torch.dtype, shape: tuple[int, ...], dim: int, shift: int
) -> None:
    size = torch.Size(shape).numel()
    target.needs(size)
    t = values("scaled", size + shift, dtype).to(target.device)[shift:].view(shape)
    for p in (1, 2, INF):
        assert_same_bits(
            target.ops.channel_norms(t, p, dim).cpu(), reference.channel_norms(t, p, dim)
        )


def test_many_chunks(target: Target) -> None:
    t = values("scaled", (1, 67 * 1024 + 5), torch.float32).to(target.device)
    assert_same_bits(target.ops.channel_norms(t, 2, 0).cpu(), reference.channel_norms(t, 2, 0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_layouts(target: Target, dtype: torch.dtype, layout: str) -> None:
    t = LAYOUTS[layout](values("normal", SHAPE, dtype).to(target.device))
    for dim in range(4):
        assert_same_bits(
            target.ops.channel_norms(t, 2, dim).cpu(), reference.channel_norms(t, 2, dim)
        )


@pytest.mark.parametrize("p", [*EXACT, *POWERS])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (2, 0, 4)], ids=str)
def test_empty(target: Target, shape: tuple[int, ...], p: float) -> None:
    t = torch.ones(shape, device=target.device)
    for dim in range(len(shape)):
        assert_same_bits(
            target.ops.channel_norms(t, p, dim).cpu(), reference.channel_norms(t, p, dim)
        )


def test_half_sums_neither_overflow_nor_round(target: Target) -> None:
    t = torch.full((2, 5000), 60000.0, dtype=torch.float16, device=target.device)
    target.needs(t.numel())
    norms = target.ops.channel_norms(t, 1, 0)
    assert norms.tolist() == [5000 * float(t[0, 0])] * 2


@pytest.mark.parametrize("p", [1, 2, 3.5, -INF])
def test_threads(target: Target, set_threads: object, p: float) -> None:
    t = values("scaled", (67, 9001), torch.float32).to(target.device)
    target.needs(t.numel())
    results = []
    for threads in (1, 2, 7):
        set_threads(threads)
        results.append([target.ops.channel_norms(t, p, dim) for dim in (0, 1)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
