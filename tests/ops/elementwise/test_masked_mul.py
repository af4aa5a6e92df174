"""masked_mul, masked_mul_ and masked_muls: mask.to(t.dtype) * t bit for bit, and its gradients."""

import pytest
import torch
from torch import Tensor

import fastprune
from support import reference
from support.compare import assert_layout_of, assert_same_bits
from support.inputs import (
    DENSE,
    FLOATS,
    INTEGERS,
    KINDS,
    LAYOUTS,
    MASK_DTYPES,
    MASKS,
    SHAPE,
    SIZES,
    mask,
    name,
    values,
)
from support.targets import Target

FORMS = ["out_of_place", "in_place", "list"]


def multiply(target: Target, form: str, t: Tensor, m: Tensor) -> Tensor:
    """One of the three forms on a copy of ``t`` that has its layout."""
    if form == "out_of_place":
        result = target.ops.masked_mul(t, m)
    elif form == "in_place":
        copy = t.clone()
        result = target.ops.masked_mul_(copy, m)
        assert result is copy
    else:
        result, other = target.ops.masked_muls([t, t.detach()[:0]], [m, m[:0]])
        assert other.shape == t[:0].shape
    assert isinstance(result, Tensor)
    return result


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask_dtype", MASK_DTYPES, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_values(
    target: Target, dtype: torch.dtype, mask_dtype: torch.dtype, kind: str, form: str
) -> None:
    t = values(kind, 1025, dtype).to(target.device)
    for mask_kind in ("random", "non_binary"):
        m = mask(mask_kind, 1025, mask_dtype).to(target.device)
        assert_same_bits(multiply(target, form, t, m), reference.masked_mul(t, m))


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("mask_dtype", FLOATS, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_masks(target: Target, dtype: torch.dtype, mask_dtype: torch.dtype, kind: str) -> None:
    t = values("normal", 1025, dtype).to(target.device)
    m = mask(kind, 1025, mask_dtype).to(target.device)
    assert_same_bits(target.ops.masked_mul(t, m), reference.masked_mul(t, m))


@pytest.mark.parametrize("mask_dtype", INTEGERS, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("form", FORMS)
def test_integer_masks(
    target: Target, dtype: torch.dtype, mask_dtype: torch.dtype, form: str
) -> None:
    t = values("normal", 1025, dtype).to(target.device)
    m = mask("non_binary", 1025, mask_dtype).to(target.device)
    assert_same_bits(multiply(target, form, t, m), reference.masked_mul(t, m))


@pytest.mark.parametrize("mask_dtype", [*FLOATS, *INTEGERS], ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_masks_that_the_dtype_cannot_hold(
    target: Target, dtype: torch.dtype, mask_dtype: torch.dtype
) -> None:
    if mask_dtype.is_floating_point:
        m = values("any_bits", 1025, mask_dtype).to(target.device)
    else:
        ends = torch.iinfo(mask_dtype)
        m = torch.tensor([ends.min, ends.max, ends.max - 1, 77], dtype=mask_dtype).repeat(256)
        m = m.to(target.device)
    t = values("normal", len(m), dtype).to(target.device)
    assert_same_bits(target.ops.masked_mul(t, m), reference.masked_mul(t, m))


@pytest.mark.parametrize("size", [1, 7, 255, 256, 1030])
@pytest.mark.parametrize("shifts", [(0, 0), (1, 0), (0, 1), (3, 5), (8, 16), (4, 4)], ids=str)
@pytest.mark.parametrize("mask_dtype", [*MASK_DTYPES, torch.int64], ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_alignments(
    target: Target, dtype: torch.dtype, mask_dtype: torch.dtype, shifts: tuple[int, int], size: int
) -> None:
    whole = values("normal", size + shifts[0] + 40, dtype).to(target.device)
    before = whole.clone()
    t = whole[shifts[0] : shifts[0] + size]
    m = mask("non_binary", size + shifts[1], mask_dtype).to(target.device)[shifts[1] :]
    expected = reference.masked_mul(t, m)
    products = target.ops.masked_muls([t, t[:5], t], [m, m[:5], m])
    for product in (target.ops.masked_mul(t, m), products[0], products[2]):
        assert_same_bits(product, expected)
    assert_same_bits(products[1], expected[:5])
    target.ops.masked_mul_(t, m)
    before[shifts[0] : shifts[0] + size] = expected
    assert_same_bits(whole, before)


@pytest.mark.parametrize("mask_dtype", MASK_DTYPES, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_signs_and_special_values(
    target: Target, dtype: torch.dtype, mask_dtype: torch.dtype
) -> None:
    special = [0.0, -0.0, 1.5, -1.5, float("inf"), -float("inf"), float("nan")]
    t = torch.tensor(special, dtype=dtype, device=target.device).repeat(20)
    for value in (0, 1):
        m = torch.full_like(t, value, dtype=mask_dtype)
        product = target.ops.masked_mul(t, m)
        assert_same_bits(product, reference.masked_mul(t, m))
        assert product[3].signbit()
        assert product[4].isnan() == (value == 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [*SIZES, 1_000_003])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_sizes(target: Target, dtype: torch.dtype, size: int, form: str) -> None:
    target.needs(size)
    t = values("normal", size, dtype).to(target.device)
    for mask_dtype in (dtype, torch.bool):
        m = mask("random", size, mask_dtype).to(target.device)
        assert_same_bits(multiply(target, form, t, m), reference.masked_mul(t, m))


@pytest.mark.parametrize("mask_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask_dtype", [torch.float32, torch.uint8], ids=name)
def test_layouts(target: Target, mask_dtype: torch.dtype, layout: str, mask_layout: str) -> None:
    t = LAYOUTS[layout](values("normal", SHAPE, torch.float32).to(target.device))
    m = LAYOUTS[mask_layout](mask("random", SHAPE, mask_dtype).to(target.device))
    expected = reference.masked_mul(t, m)
    for product in (target.ops.masked_mul(t, m), *target.ops.masked_muls([t], [m])):
        assert_same_bits(product, expected)
        assert_layout_of(product, t)
        if layout in DENSE:
            assert product.stride() == t.stride()
    if layout != "expanded":  # whose elements overlap
        strides = t.stride()
        assert target.ops.masked_mul_(t, m) is t
        assert_same_bits(t, expected)
        assert t.stride() == strides


def test_scalar_tensors(target: Target) -> None:
    t = torch.tensor(-2.0, device=target.device)
    for m in (torch.tensor(0.0), torch.tensor(True)):
        m = m.to(target.device)
        assert_same_bits(target.ops.masked_mul(t, m), reference.masked_mul(t, m))


def test_in_place_leaves_what_lies_between(target: Target) -> None:
    whole = torch.ones(10, 10, device=target.device)
    target.ops.masked_mul_(whole[::2, 1:4], torch.zeros(5, 3, device=target.device))
    assert whole.sum() == 100 - 15


def test_mask_may_be_the_tensor(target: Target) -> None:
    t = values("normal", 1025, torch.float32).to(target.device)
    expected = t * t
    assert_same_bits(target.ops.masked_mul(t, t), expected)
    assert_same_bits(target.ops.masked_mul_(t, t), expected)


def test_threads(target: Target, set_threads: object) -> None:
    size = 300_001
    target.needs(size)
    t = values("any_bits", size, torch.float32).to(target.device)
    m = mask("random", size, torch.float32).to(target.device)
    for threads in (1, 2, 7):
        set_threads(threads)
        assert_same_bits(target.ops.masked_mul(t, m), reference.masked_mul(t, m))


@pytest.mark.large
def test_more_than_2_31_elements(target: Target) -> None:
    size = (1 << 31) + 1000
    target.needs(size)
    t = torch.ones(size, dtype=torch.bfloat16, device=target.device)
    m = torch.ones(size, dtype=torch.uint8, device=target.device)
    m[-7:] = 0
    target.ops.masked_mul_(t, m)
    assert t[:-7].all()
    assert not t[-7:].any()


# ---- gradients ----


@pytest.mark.parametrize("mask_dtype", MASK_DTYPES, ids=name)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
def test_gradcheck(target: Target, layout: str, mask_dtype: torch.dtype) -> None:
    target.needs_autograd()
    t = LAYOUTS[layout](values("normal", (3, 4), torch.float64).to(target.device))
    t.requires_grad_()
    m = mask("random", (3, 4), mask_dtype).to(target.device)

    def in_place(x: Tensor) -> Tensor:
        return target.ops.masked_mul_(x.clone(), m)

    def listed(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(target.ops.masked_muls([x, 2 * x], [m, m]))

    for function in (lambda x: target.ops.masked_mul(x, m), in_place, listed):
        assert torch.autograd.gradcheck(function, (t,))
        assert torch.autograd.gradgradcheck(function, (t,))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_gradient_is_grad_times_mask(target: Target, dtype: torch.dtype, form: str) -> None:
    target.needs_autograd()
    t = values("normal", 1025, dtype).to(target.device).requires_grad_()
    m = mask("non_binary", 1025, dtype).to(target.device)
    grad = values("any_bits", 1025, dtype).to(target.device)
    multiply(target, form, t, m).backward(grad)
    assert t.grad is not None
    assert_same_bits(t.grad, m * grad)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_mask_that_requires_a_gradient_gets_one(target: Target, frozen: bool, form: str) -> None:
    target.needs_autograd()
    t = torch.randn(10, device=target.device, requires_grad=not frozen)
    m = torch.rand(10, device=target.device, requires_grad=True)
    grad = torch.randn(10, device=target.device)
    multiply(target, form, t, m).backward(grad)
    assert m.grad is not None
    assert_same_bits(m.grad, grad * t.detach())
    assert frozen or torch.equal(t.grad, grad * m.detach())  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64], ids=name)
@pytest.mark.parametrize("form", FORMS)
def test_dtypes_without_kernels(target: Target, form: str, dtype: torch.dtype) -> None:
    t = torch.randn(10, device=target.device).to(dtype)
    m = mask("random", 10, torch.float32).to(target.device)
    assert torch.equal(multiply(target, form, t, m), m.to(dtype) * t)
    t = torch.randn(10, device=target.device)
    assert torch.equal(multiply(target, form, t, m.cfloat()), m * t)


def test_broadcasting_masks(target: Target) -> None:
    t = torch.randn(3, 4, device=target.device)
    for shape in ((4,), (3, 1), (1, 1), ()):
        m = mask("random", shape, torch.float32).to(target.device)
        expected = m * t
        assert torch.equal(target.ops.masked_mul(t, m), expected)
        assert torch.equal(*target.ops.masked_muls([t], [m]), expected)
        assert torch.equal(target.ops.masked_mul_(t.clone(), m), expected)
        if target.differentiable:
            x, y = t.clone().requires_grad_(), t.clone().requires_grad_()
            target.ops.masked_mul(x, m).square().sum().backward()
            (m * y).square().sum().backward()
            assert torch.equal(x.grad, y.grad)  # type: ignore[arg-type]


def test_list_with_and_without_gradient(target: Target) -> None:
    target.needs_autograd()
    a, b, c = (torch.randn(5, device=target.device) for _ in range(3))
    a.requires_grad_()
    c.requires_grad_()
    masks = [mask("random", 5, torch.float32).to(target.device) for _ in range(3)]
    products = target.ops.masked_muls([a, b, c], masks)
    products[0].sum().backward()
    assert_same_bits(a.grad, masks[0])
    assert b.grad is None
    assert c.grad is None or not c.grad.any()
    assert not products[1].requires_grad


def test_a_leaf_cannot_be_changed_in_place(target: Target) -> None:
    target.needs_autograd()
    t = torch.ones(3, device=target.device, requires_grad=True)
    m = torch.zeros(3, device=target.device)
    with pytest.raises(RuntimeError, match="leaf"):
        target.ops.masked_mul_(t, m)
    assert t.tolist() == [1, 1, 1]
    with torch.no_grad():
        target.ops.masked_mul_(t, m)
    assert t.tolist() == [0, 0, 0]


def test_in_place_bumps_the_version(target: Target) -> None:
    target.needs_autograd()
    t = torch.ones(3, device=target.device, requires_grad=True)
    doubled = 2 * t
    square = doubled * doubled
    target.ops.masked_mul_(doubled, torch.zeros(3, device=target.device))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.sum().backward()


def test_no_graph_without_need(target: Target) -> None:
    m = torch.ones(3, device=target.device)
    assert target.ops.masked_mul(torch.ones(3, device=target.device), m).grad_fn is None
    with torch.no_grad():
        t = torch.ones(3, device=target.device, requires_grad=True)
        assert not target.ops.masked_mul(t, m).requires_grad
    with torch.inference_mode():
        assert target.ops.masked_mul(t, m).is_inference()


def test_empty_list() -> None:
    assert fastprune.ops.masked_muls([], []) == []


def test_lists(target: Target) -> None:
    sizes = [5, 0, 257, 1, 1025, 256, *range(1, 70)]
    ts = [values("normal", size, torch.float32).to(target.device) for size in sizes]
    masks = [mask("random", size, torch.float32).to(target.device) for size in sizes]
    products = target.ops.masked_muls(ts, masks)
    assert len(products) == len(sizes)
    for product, t, m in zip(products, ts, masks, strict=True):
        assert_same_bits(product, reference.masked_mul(t, m))


@pytest.mark.parametrize("under_no_grad", [False, True])
def test_in_place_is_seen_by_graphs_that_saved_the_tensor(
    target: Target, under_no_grad: bool
) -> None:
    target.needs_autograd()
    x = torch.ones(3, device=target.device, requires_grad=under_no_grad)
    w = torch.ones(3, device=target.device, requires_grad=True)
    y = x * w
    with torch.set_grad_enabled(not under_no_grad):
        target.ops.masked_mul_(x, torch.zeros(3, device=target.device))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_view_of_a_leaf_cannot_be_changed_in_place(target: Target) -> None:
    target.needs_autograd()
    leaf = torch.ones(3, device=target.device, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        target.ops.masked_mul_(leaf.view(-1), torch.zeros(3, device=target.device))
    assert leaf.tolist() == [1, 1, 1]


def test_each_of_a_list_goes_backward_alone() -> None:
    ts = [torch.randn(5, requires_grad=True), torch.randn(7), torch.randn(3, requires_grad=True)]
    masks = [(torch.rand_like(t) > 0.5).to(t.dtype) for t in ts]
    _, pruned = fastprune.ops.topk_prune(ts, [], ts, 0.5)
    for products in (fastprune.ops.masked_muls(ts, masks), pruned):
        assert [p.requires_grad for p in products] == [True, False, True]
        products[0].sum().backward()
        products[2].sum().backward()


@pytest.mark.parametrize("form", ["out_of_place", "in_place"])
def test_strides_of_dims_of_size_1_make_no_copy(target: Target, form: str) -> None:
    """As of a 1 x 1 convolution's weight in channels_last and its gradient."""
    t = torch.randn(6, 5, 1, 1, device=target.device).to(memory_format=torch.channels_last)
    m = mask("random", 30, torch.float32).view(6, 5, 1, 1).to(target.device)
    t, m = t.as_strided(t.shape, (5, 1, 5, 5)), m.as_strided(m.shape, (5, 1, 1, 1))
    with torch.autograd.profiler.profile() as profile:
        result = multiply(target, form, t, m)
    assert_same_bits(result, reference.masked_mul(t, m))
    copies = [event.name for event in profile.function_events if "copy" in event.name]
    assert copies == (["aten::copy_"] if form == "in_place" else [])  # of the test's own clone
