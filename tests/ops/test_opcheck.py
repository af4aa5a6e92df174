"""torch.library.opcheck of every operator, and torch.compile over two of them."""

from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.fx.experimental.proxy_tensor import make_fx

import fastprune
from support.inputs import LAYOUTS, SHAPE, mask, values

OPS = torch.ops.fastprune


def tensors(device: str, layout: str, grad: bool) -> tuple[Tensor, Tensor]:
    t = LAYOUTS[layout](values("normal", SHAPE, torch.float32).to(device))
    m = LAYOUTS[layout](mask("random", SHAPE, torch.float32).to(device))
    return t.requires_grad_(grad), m


def check(op: Any, *args: Any, **kwargs: Any) -> None:
    torch.library.opcheck(op.default, args, kwargs)


grads = pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@grads
@layouts
def test_topk_masks(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    check(OPS.topk_masks, [t, t[:0]], [], [0.5], [])
    check(OPS.topk_masks, [t], [m], [11], [m[:1]])
    check(OPS.topk_masks, [t, t], [None, m.bool()], [0.5], [], active_only=False, largest=True)
    check(OPS.topk_masks, [t], [], [0.5], [None], dtype=torch.uint8)
    check(OPS.topk_masks, [t, t], [m, None], [0.5, 3], [])


@grads
@layouts
def test_topk_prune(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    scores = values("normal", SHAPE, torch.float32).to(device)
    check(OPS.topk_prune, [scores, scores[:0]], [], [t, t[:0]], [0.5], [])
    check(OPS.topk_prune, [t], [m], [t], [11], [m[:1]])
    check(OPS.topk_prune, [t, scores], [], [t, t], [0.5, 3], [])
    other = m.double() if grad else m.bool()  # see test_channel_prune
    check(OPS.topk_prune, [scores, t], [None, other], [t, t], [0.5], [], active_only=False)


@grads
@layouts
def test_nm_masks(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    factor = torch.rand(SHAPE[1], 1, 1, device=device)
    check(OPS.nm_masks, [t, t[:0]], [], 2, 4, 1, [])
    check(OPS.nm_masks, [t, t], [None, m.bool()], 3, 7, -1, [factor, None])
    check(OPS.nm_masks, [t], [], 1, 4, 0, [], is_signed=True, dtype=torch.uint8)


@grads
@layouts
def test_nm_prune(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    scores = values("normal", SHAPE, torch.float32).to(device)
    factor = torch.rand(SHAPE[1], 1, 1, device=device)
    check(OPS.nm_prune, [scores, scores[:0]], [], [t, t[:0]], 2, 4, 1, [])
    check(OPS.nm_prune, [t], [m], [t], 3, 7, -1, [factor])
    check(OPS.nm_prune, [scores], [None], [t], 1, 4, 0, [], is_signed=True)


@grads
@layouts
def test_row_masks(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    factor = torch.rand(SHAPE[1], 1, 1, device=device)
    check(OPS.row_masks, [t, t[:0]], [], 0.5, 1, [])
    check(OPS.row_masks, [t, t], [None, m.bool()], 0.4, -1, [factor, None], absolute=True)
    check(OPS.row_masks, [t], [], 2, 0, [], is_signed=True, dtype=torch.uint8)


@grads
@layouts
def test_row_prune(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    scores = values("normal", SHAPE, torch.float32).to(device)
    factor = torch.rand(SHAPE[1], 1, 1, device=device)
    check(OPS.row_prune, [scores, scores[:0]], [], [t, t[:0]], 0.5, 1, [])
    check(OPS.row_prune, [t], [m], [t], 0.4, -1, [factor], absolute=True)
    check(OPS.row_prune, [scores], [None], [t], 2, 0, [], is_signed=True)


@grads
@layouts
def test_blocks(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    check(OPS.block_norms, [t, t[:0]], [2, 3], 2.0)
    (norms,) = OPS.block_norms([t.detach()], [2, 3], 2.0)
    kept = norms > norms.mean()
    check(OPS.block_masks, [kept], [], [t], [2, 3])
    check(OPS.block_masks, [kept], [m.bool()], [t], [2, 3])
    check(OPS.block_prune, [kept], [None], [t], [2, 3])
    check(OPS.block_prune, [kept], [m], [t], [2, 3])


@grads
@layouts
def test_channel_norms(device: str, layout: str, grad: bool) -> None:
    t, _ = tensors(device, layout, grad)
    for p in (0.0, 2.0, float("inf")):
        check(OPS.channel_norms, t, p, 1)
    check(OPS.channel_norms, t, 1.0, -1)


@grads
@layouts
def test_channel_mask(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    scores = torch.randn(SHAPE[1], device=device, requires_grad=grad)
    check(OPS.channel_mask, scores, t, None, 0.5, 1)
    check(OPS.channel_mask, scores, t, m, 2, 1)
    check(OPS.channel_mask, scores, t, m.bool(), 0.5, -3, active_only=False)


@grads
@layouts
def test_channel_prune(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    scores = torch.randn(SHAPE[1], device=device, requires_grad=grad)
    check(OPS.channel_prune, scores, t, None, 0.5, 1)
    check(OPS.channel_prune, scores, t, m, 2, 1)
    # With gradients opcheck adds up all outputs in place: the first may not be of integers.
    other = m.double() if grad else m.bool()
    check(OPS.channel_prune, scores, t, other, 0.5, -3, active_only=False)


@layouts
def test_combine_masks(device: str, layout: str) -> None:
    t, m = tensors(device, layout, False)
    check(OPS.combine_masks, m, m)
    check(OPS.combine_masks, t, m.bool())
    check(OPS.combine_masks, m.to(torch.uint8), t)


@grads
@layouts
def test_masked_mul(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    check(OPS.masked_mul, t, m)
    check(OPS.masked_mul, t, m.bool())
    check(OPS.masked_mul, t, m.double())


@layouts
def test_masked_mul_in_place(device: str, layout: str) -> None:
    if layout == "expanded":
        pytest.skip("its elements overlap, which no operation in place takes")
    t, m = tensors(device, layout, False)
    check(OPS.masked_mul_, t, m)
    check(OPS.masked_mul_, t, m.bool())


@grads
@layouts
def test_masked_muls(device: str, layout: str, grad: bool) -> None:
    t, m = tensors(device, layout, grad)
    check(OPS.masked_muls, [t, t[:0]], [m, m[:0]])
    check(OPS.masked_muls, [t], [m.bool()])


def test_compiled_masked_mul(device: str) -> None:
    t, m = tensors(device, "contiguous", True)

    def loss(t: Tensor, m: Tensor) -> Tensor:
        return (fastprune.ops.masked_mul(t * 2, m) ** 2).sum()

    (expected,) = torch.autograd.grad(loss(t, m), t)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (actual,) = torch.autograd.grad(compiled(t, m), t)
    assert torch.equal(actual, expected)


def test_tracers_see_masked_mul_as_a_multiplication() -> None:
    class Model(torch.nn.Module):
        def forward(self, t: Tensor, m: Tensor) -> Tensor:
            (product,) = fastprune.ops.masked_muls([t], [m])
            return fastprune.ops.masked_mul(product, m) + fastprune.ops.masked_mul_(t * 2, m)

    t, m = tensors("cpu", "contiguous", False)
    expected = Model()(t, m)
    for strict in (False, True):
        program = torch.export.export(Model(), (t, m), strict=strict)
        assert "fastprune" not in str(program.graph)
        assert torch.equal(program.module()(t, m), expected)
    for graph in (
        make_fx(Model())(t, m),
        make_fx(Model(), tracing_mode="symbolic")(t, m),
        torch.jit.trace(Model(), (t, m)),
    ):
        assert "fastprune" not in str(graph.graph)
        assert torch.equal(graph(t, m), expected)
    seen = []
    with torch.inference_mode():
        graph = make_fx(Model())(t, m)
        seen.append(str(graph.graph))

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.append(str(graph.graph))
        return make_boxed_func(graph.forward)

    compiled = torch.compile(Model(), fullgraph=True, backend=aot_autograd(fw_compiler=backend))
    assert torch.equal(compiled(t, m), expected)
    assert len(seen) == 2
    assert not any("fastprune" in graph for graph in seen)


def test_compiled_topk_masks(device: str) -> None:
    t, m = tensors(device, "contiguous", True)

    def prune(t: Tensor, m: Tensor) -> Tensor:
        (new,) = fastprune.ops.topk_masks([t], [m], 0.5)
        return new * 3

    compiled = torch.compile(prune, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(t, m), prune(t, m))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compiled_pruned_module(device: str, layout: str) -> None:
    conv = torch.nn.Conv2d(8, 4, 3).to(device)
    if layout == "channels_last":
        conv = conv.to(memory_format=torch.channels_last)
    fastprune.l1_unstructured(conv, "weight", 0.5)
    x = torch.randn(2, 8, 9, 9, device=device)
    expected = torch.autograd.grad(conv(x).square().sum(), conv.weight_orig)
    compiled = torch.compile(conv, backend="aot_eager")
    actual = torch.autograd.grad(compiled(x).square().sum(), conv.weight_orig)
    torch.testing.assert_close(actual, expected)
