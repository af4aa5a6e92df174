"""masked_muls_ and gradients, versions, transforms and tracers: ATen's mul_ and masked_fill_."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fastprune import ops
from fastprune.packing import packed
from support import reference
from support.compare import assert_same_bits
from support.inputs import LAYOUTS, SHAPE, mask, values

KINDS = ["bool", "packed", "float"]
kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, kept: Tensor) -> Tensor:
    return {"bool": kept, "packed": packed(kept), "float": kept.float()}[kind]


def pair(kind: str, device: str) -> tuple[Tensor, Tensor]:
    t = values("normal", (4, 11), torch.float32).to(device)
    return t, made(kind, mask("random", (4, 11), torch.bool)).to(device)


def result(t: Tensor, m: Tensor) -> Tensor:
    return reference.masked_muls_([t.detach()], [m])[0].to(t.device)


@kinds
def test_a_leaf_that_requires_a_gradient(device: str, kind: str) -> None:
    t, m = pair(kind, device)
    other = torch.ones(3, device=device)
    nothing = torch.zeros(3, dtype=torch.bool, device=device)
    leaf = nn.Parameter(t.clone())
    for view in (leaf, leaf.view(4, 11)):
        with pytest.raises(RuntimeError, match="leaf"):
            ops.masked_muls_([other, view], [nothing, m])
    assert torch.equal(leaf, t)
    assert other.all()
    with torch.no_grad():
        ops.masked_muls_([other, leaf], [nothing, m])
    assert_same_bits(leaf, result(t, m))
    assert not other.any()
    assert leaf.is_leaf and leaf.requires_grad


@kinds
def test_through_autograd(device: str, kind: str) -> None:
    t, m = pair(kind, device)
    x, y = t.clone().requires_grad_(), torch.ones(3, device=device)
    a, b = 2 * x, 3 * x
    ops.masked_muls_([a, y, b], [m, torch.zeros(3, device=device).bool(), m])
    assert_same_bits(a, result(2 * t, m))
    (a + b).sum().backward()
    assert torch.equal(x.grad, result(torch.full_like(t, 5), m))  # type: ignore[arg-type]
    assert not y.any()
    double = values("normal", (4, 11), torch.float64).to(device).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return ops.masked_muls_([x.clone()], [m])[0]

    assert torch.autograd.gradcheck(function, (double,))
    assert torch.autograd.gradgradcheck(function, (double,))


def test_a_mask_that_requires_a_gradient_gets_one(device: str) -> None:
    t = torch.randn(10, device=device)
    before = t.clone()
    m = torch.rand(10, device=device, requires_grad=True)
    ops.masked_muls_([t], [m])
    t.sum().backward()
    assert torch.equal(m.grad, before)  # type: ignore[arg-type]


@kinds
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_versions(device: str, mode: Any, kind: str) -> None:
    t, m = pair(kind, device)
    u = t.clone()
    w = torch.ones_like(t, requires_grad=True)
    y = u * w
    before = u._version
    with mode():
        ops.masked_muls_([t, u], [m, m])
    assert u._version == before + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_inference_tensors(device: str) -> None:
    with torch.inference_mode():
        t = torch.ones(3, device=device)
        ops.masked_muls_([t], [torch.tensor([True, False, True], device=device)])
    assert t.tolist() == [1, 0, 1]
    usual = torch.ones(3, device=device)
    none = torch.zeros(3, dtype=torch.bool, device=device)
    for ts in ([t], [usual, t]):
        with pytest.raises(RuntimeError, match=r"[Ii]nference"):
            ops.masked_muls_(ts, [none] * len(ts))
    assert t.tolist() == [1, 0, 1]
    assert usual.all()


@kinds
def test_transforms(device: str, kind: str) -> None:
    t, m = pair(kind, device)
    batch = torch.stack([t, -t, t + 1])

    def applied(t: Tensor, m: Tensor) -> Tensor:
        (result,) = ops.masked_muls_([t.clone()], [m])
        return result

    expected = torch.stack([result(each, m) for each in batch])
    assert torch.equal(torch.vmap(applied, (0, None))(batch, m), expected)
    assert torch.equal(torch.vmap(applied)(batch, torch.stack([m] * 3)), expected)
    assert torch.equal(torch.func.functionalize(applied)(t, m), result(t, m))
    grad = torch.func.grad(lambda t: applied(t, m).square().sum())(t)
    assert torch.equal(grad, 2 * result(t, m))
    value, tangent = torch.func.jvp(lambda t: applied(t, m), (t,), (torch.ones_like(t),))
    assert torch.equal(value, result(t, m))
    assert torch.equal(tangent, result(torch.ones_like(t), m))


class Model(nn.Module):
    def forward(self, t: Tensor, m: Tensor, u: Tensor, n: Tensor, v: Tensor, o: Tensor) -> Tensor:
        ts = [t * 2, u * 2, v * 2]
        ops.masked_muls_(ts, [m, n, o])
        return ts[0] + ts[1] + ts[2]


def inputs(device: str) -> list[Tensor]:
    return [x for kind in KINDS for x in pair(kind, device)]


def test_tracers_see_operators_of_aten() -> None:
    args = inputs("cpu")
    expected = Model()(*args)
    seen = []
    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(Model(), tracing_mode=mode)(*args)
        seen.append(str(graph.graph))
        assert torch.equal(graph(*args), expected)
    traced = torch.jit.trace(Model(), tuple(args))
    seen.append(str(traced.graph))
    assert torch.equal(traced(*args), expected)
    for strict in (False, True):
        program = torch.export.export(Model(), tuple(args), strict=strict)
        seen.append(str(program.graph))
        assert torch.equal(program.module()(*args), expected)
    with torch.inference_mode():
        seen.append(str(make_fx(Model())(*args).graph))
    assert all("masked_fill" in graph for graph in seen)
    assert not any("fastprune" in graph for graph in seen)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(device: str, dynamic: bool) -> None:
    args = inputs(device)
    seen = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.append(str(graph.graph))
        return make_boxed_func(graph.forward)

    compiled = torch.compile(
        Model(), fullgraph=True, backend=aot_autograd(fw_compiler=backend), dynamic=dynamic
    )
    assert torch.equal(compiled(*args), Model()(*args))
    assert len(seen) == 1
    assert "fastprune" not in seen[0]


@kinds
def test_compiled_in_place_of_an_input(device: str, kind: str) -> None:
    t, m = pair(kind, device)
    expected = result(t, m)
    torch.compile(lambda t, m: ops.masked_muls_([t], [m]), fullgraph=True, backend="aot_eager")(
        t, m
    )
    assert_same_bits(t, expected)


def test_compiled_masks_that_do_not_fit() -> None:
    compiled = torch.compile(lambda t, m: ops.masked_muls_([t], [m]), backend="eager")
    t = torch.ones(3, 9)
    for m in (torch.zeros(9).bool(), torch.zeros(9), torch.zeros(3, 3, dtype=torch.uint8)):
        with pytest.raises(RuntimeError, match=r"mask.*\[3, 9\]"):
            compiled(t, m)
    assert t.all()


@kinds
def test_meta_and_fake_tensors(kind: str) -> None:
    t, m = pair(kind, "cpu")
    ops.masked_muls_([t.to("meta")], [m.to("meta")])
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(t)
        ops.masked_muls_([fake], [mode.from_tensor(m)])
    assert fake.shape == t.shape


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "expanded"])
def test_opcheck(device: str, layout: str) -> None:
    t = LAYOUTS[layout](values("normal", SHAPE, torch.float32).to(device))
    kept = mask("random", SHAPE, torch.bool).to(device)
    masks = [kept, packed(kept), kept.float(), kept.double()]
    ts = [t.clone() for _ in masks]
    torch.library.opcheck(torch.ops.fastprune.masked_muls_.default, (ts, masks))
    torch.library.opcheck(
        torch.ops.fastprune.masked_muls_.default, ([t[:0], t[:1]], [kept[:0], kept[:1]])
    )
