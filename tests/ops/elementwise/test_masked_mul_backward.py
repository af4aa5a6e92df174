"""The gradient of masked_mul takes the place of one that nobody else holds, and of no other.

Autograd counts a tensor that Python has seen as held, in releases of torch whose tensors keep their
Python object alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastprune

KINDS = [
    pytest.param((64, torch.bool), id="bool"),
    pytest.param((64, torch.float32), id="same dtype"),
    pytest.param((1 << 18, torch.float32), id="large"),
]


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, device: str) -> tuple[Tensor, Tensor]:
    size, dtype = request.param
    t = torch.linspace(-1, 1, size, device=device).requires_grad_()
    mask = (torch.arange(size, device=device) % 3 != 0).to(dtype)
    return t, mask


class Passes(torch.autograd.Function):
    """Gives back what ``make`` makes of the gradient."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.make = make
        return t.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.make(grads[0]), None


def backward(pair: tuple[Tensor, Tensor], make: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of t where its product's is ``make(ones)``."""
    t, mask = pair
    Passes.apply(fastprune.ops.masked_mul(t, mask), make).sum().backward()
    assert t.grad is not None
    return t.grad


def operators_of(call: Callable[[], None]) -> set[str]:
    with torch.autograd.profiler.profile() as profile:
        call()
    return {event.name for event in profile.function_events if event.name.startswith("fastprune::")}


def test_in_place_of_a_gradient_that_autograd_owns(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    loss = (fastprune.ops.masked_mul(t, mask) * 2).sum()
    assert operators_of(loss.backward) == {"fastprune::masked_mul_"}
    assert torch.equal(t.grad, 2.0 * mask)  # type: ignore[arg-type]


def test_transposed(device: str) -> None:
    t = torch.ones(8, 16, device=device).t().requires_grad_()
    mask = (torch.arange(128, device=device) % 3 != 0).view(16, 8)
    loss = (fastprune.ops.masked_mul(t, mask) * 2).sum()
    assert operators_of(loss.backward) == {"fastprune::masked_mul_"}
    assert torch.equal(t.grad, 2.0 * mask)  # type: ignore[arg-type]
    assert t.grad.stride() == t.stride()  # type: ignore[union-attr]


def test_of_a_gradient_without_memory_of_its_own(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    loss = fastprune.ops.masked_mul(t, mask).sum()  # whose gradient is one number, expanded
    assert operators_of(loss.backward) == {"fastprune::masked_mul"}
    assert torch.equal(t.grad, 1.0 * mask)  # type: ignore[arg-type]


HELD: dict[str, Callable[[Tensor, list[Any]], Tensor]] = {
    "reference": lambda grad, held: held.append(grad + 1) or held[0],
    "view": lambda grad, held: held.append(grad + 1) or held[0].view(-1),
    "viewed": lambda grad, held: (made := grad + 1, held.append(made[:]))[0],
    "storage": lambda grad, held: (made := grad + 1, held.append(made.untyped_storage()))[0],
    "expanded": lambda grad, held: held.append(made := grad.new_full((), 2))
    or made.expand_as(grad),
    "narrowed": lambda grad, held: (
        held.append(made := grad.new_full((2 * grad.numel(),), 2)) or made[: grad.numel()]
    ),
}


@pytest.mark.parametrize("kind", HELD)
def test_what_somebody_holds_does_not_change(pair: tuple[Tensor, Tensor], kind: str) -> None:
    held: list[Any] = []
    grad = backward(pair, lambda grad: HELD[kind](grad, held))
    assert torch.equal(grad, 2.0 * pair[1])
    seen = held[0]
    if kind == "storage":
        seen = grad.new_empty(0).set_(seen)
    assert bool((seen == 2).all())


def test_memory_that_torch_did_not_allocate() -> None:
    t = torch.ones(4).requires_grad_()
    mask = torch.tensor([True, False, True, False])
    numpy = torch.full((4,), 2.0).numpy().copy()
    grad = backward((t, mask), lambda _: torch.from_numpy(numpy))
    assert grad.tolist() == [2, 0, 2, 0]
    assert numpy.tolist() == [2, 2, 2, 2]


def test_a_gradient_that_is_passed_in(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    ones = torch.ones_like(t)
    fastprune.ops.masked_mul(t, mask).backward(ones)
    assert bool((ones == 1).all())
    assert torch.equal(t.grad, 1.0 * mask)  # type: ignore[arg-type]


def test_a_gradient_that_is_passed_in_and_given_up(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    fastprune.ops.masked_mul(t, mask).backward(torch.ones_like(t))
    assert torch.equal(t.grad, 1.0 * mask)  # type: ignore[arg-type]


def test_retained_and_hooked_gradients(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    product = fastprune.ops.masked_mul(t, mask)
    product.retain_grad()
    hooked: list[Tensor] = []
    product.register_hook(hooked.append)
    (product * 2).sum().backward()
    assert bool((product.grad == 2).all())  # type: ignore[union-attr]
    assert bool((hooked[0] == 2).all())
    assert torch.equal(t.grad, 2.0 * mask)  # type: ignore[arg-type]


def test_a_gradient_that_goes_two_ways(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    other = torch.ones_like(t).requires_grad_()
    ((fastprune.ops.masked_mul(t, mask) + other) * 2).sum().backward()
    assert torch.equal(t.grad, 2.0 * mask)  # type: ignore[arg-type]
    assert bool((other.grad == 2).all())  # type: ignore[union-attr]


def test_two_products_of_one_sum(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    flipped = (mask == 0).to(mask.dtype)
    both = fastprune.ops.masked_mul(t, mask) + fastprune.ops.masked_mul(t, flipped)
    (both * 2).sum().backward()
    assert bool((t.grad == 2).all())  # type: ignore[union-attr]


def test_captured_gradients(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    product = fastprune.ops.masked_mul(t, mask)
    of_product, of_t = torch.autograd.grad((product * 2).sum(), [product, t])
    assert bool((of_product == 2).all())
    assert torch.equal(of_t, 2.0 * mask)


def test_a_graph_that_is_kept(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    loss = fastprune.ops.masked_mul(t, mask).square().sum()
    first = torch.autograd.grad(loss, t, retain_graph=True)[0]
    second = torch.autograd.grad(loss, t)[0]
    assert torch.equal(first, second)
    assert torch.equal(first, 2 * t * mask)


def test_twice_differentiable(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    product = fastprune.ops.masked_mul(t, mask)
    (grad,) = torch.autograd.grad(product.square().sum(), t, create_graph=True)
    (again,) = torch.autograd.grad(grad.sum(), t)
    assert torch.equal(again, 2.0 * mask)


def test_the_graph_is_that_of_a_product_of_aten(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    node: Any = fastprune.ops.masked_mul(t, mask).grad_fn
    aten: Any = (mask.to(t.dtype) * t).grad_fn
    assert type(node) is type(aten)
    assert node.name() == "MulBackward0"
    (to_mask, _), (to_t, _) = node.next_functions
    assert to_mask is None
    assert to_t.variable is t
    assert torch.equal(node._saved_self, mask)
    assert node._saved_other is aten._saved_other is None
    assert "grad_fn=<MulBackward0>" in repr(fastprune.ops.masked_mul(t, mask))


def test_a_graph_that_is_gone(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    product = fastprune.ops.masked_mul(t, mask)
    product.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        product.sum().backward()


def test_a_mask_that_was_changed(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    expected = 1.0 * mask
    product = fastprune.ops.masked_mul(t, mask)
    mask.zero_()
    if mask.dtype == t.dtype:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()
    else:  # of which a copy is saved
        product.sum().backward()
        assert torch.equal(t.grad, expected)  # type: ignore[arg-type]


def test_masks_of_a_list_that_were_changed(pair: tuple[Tensor, Tensor]) -> None:
    t, mask = pair
    expected = 1.0 * mask
    masks = [mask.bool().clone(), mask.half()]
    products = fastprune.ops.masked_muls([t, t], masks)
    for one in masks:
        one.zero_()
    for product in products:
        (grad,) = torch.autograd.grad(product.sum(), t)
        assert torch.equal(grad, expected)


def test_layout(device: str) -> None:
    t = torch.ones(8, 8, device=device).requires_grad_()
    assert fastprune.ops.masked_mul(t, t.detach().clone().t()).stride() == t.stride()


def test_a_gradient_made_in_inference_mode(device: str) -> None:
    """What comes back can be saved for another backward, as a product in memory of its own."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, t: Tensor) -> Tensor:
            return t.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            with torch.inference_mode():
                return grads[0] * 2

    t = torch.ones(8, 8, device=device).requires_grad_()
    mask = torch.eye(8, device=device).bool()
    out: Any = Doubled.apply(fastprune.ops.masked_mul(t, mask).view(-1))
    out.sum().backward()
    assert not t.grad.is_inference()  # type: ignore[union-attr]
    assert torch.equal(t.grad, 2.0 * mask)  # type: ignore[arg-type]


def test_a_gradient_that_is_part_of_more(device: str) -> None:
    """Else `grad` would hold all of it."""
    t = torch.ones(8, device=device).requires_grad_()
    mask = torch.tensor([True, False], device=device).repeat(4)
    both = torch.cat([fastprune.ops.masked_mul(t, mask), torch.ones(8, device=device)])
    (both * 2).sum().backward()
    assert t.grad.untyped_storage().nbytes() == t.nbytes  # type: ignore[union-attr]
    assert torch.equal(t.grad, 2.0 * mask)  # type: ignore[arg-type]
