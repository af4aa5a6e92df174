"""Compilers, exporters, tracers and modes: what they see of a pruned model, and what they give."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.reference
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from .make import X, gradients, linear, loss_of, model, output_of, state, trained
from .registry import case
from .tensors import METHODS

# ---- torch.compile ----


def compiled(backend: str, autocast: bool = False) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        torch._dynamo.reset()
        layers = model(prune)
        fast = torch.compile(layers, backend=backend, fullgraph=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return trained(fast, X)

    return run


for _backend in ["eager", "aot_eager", "inductor"]:
    for _autocast in (False, True):
        case(
            "torch.compile",
            f"forward and backward, `fullgraph`, {_backend}{', autocast' if _autocast else ''}",
        )(compiled(_backend, _autocast))


def graphs(run: Callable[[Any], Any]) -> list[str]:
    """The code of every graph that dynamo hands to a backend."""
    torch._dynamo.reset()
    seen: list[str] = []

    def backend(graph: fx.GraphModule, inputs: list[Tensor]) -> Any:
        seen.append(graph.print_readable(print_output=False))
        return graph.forward

    run(backend)
    return [re.sub(r" *#.*", "", code) for code in seen]


@case("torch.compile", "the graph that a backend is given")
def _(prune: ModuleType) -> Any:
    return graphs(lambda backend: torch.compile(model(prune), backend=backend)(X))


@case("torch.compile", "pruned again ten times: no more compilations than upstream, same outputs")
def _(prune: ModuleType) -> Any:
    layer = nn.Linear(16, 16)
    x = torch.randn(2, 16)
    outputs: list[Tensor] = []

    def run(backend: Any) -> None:
        fast = torch.compile(layer, backend=backend)
        for _ in range(10):
            prune.l1_unstructured(layer, "weight", 10)
            outputs.append(fast(x).detach())

    count = len(graphs(run))
    return outputs, count


@case("torch.compile", "a training step, optimizer included, over five steps")
def _(prune: ModuleType) -> Any:
    torch._dynamo.reset()
    layers = model(prune)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)

    @torch.compile(backend="aot_eager")
    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = layers(x).square().sum()
        loss.backward()
        optimizer.step()
        return loss

    return [step(X).detach() for _ in range(5)], state(layers)


@case("torch.compile", "`compute_mask` and `prune` inside of a compiled function")
def _(prune: ModuleType) -> Any:
    torch._dynamo.reset()
    method = prune.L1Unstructured(5)

    def both(t: Tensor, mask: Tensor) -> Any:
        return method.compute_mask(t, mask), method.prune(t)

    fast = torch.compile(both, backend="aot_eager", fullgraph=True)
    return fast(torch.randn(3, 4), torch.ones(3, 4))


@case("torch.compile", "modules pruned and made dense inside of a compiled function")
def _(prune: ModuleType) -> Any:
    torch._dynamo.reset()
    found: list[Any] = []
    for amount in (3, 4, 5):
        layer, other = nn.Linear(4, 3), nn.Linear(3, 3)

        @torch.compile(backend="eager")
        def step(x: Tensor, a: nn.Module, b: nn.Module, amount: int) -> Any:
            prune.l1_unstructured(a, "weight", amount)
            prune.custom_from_mask(a, "weight", torch.eye(3, 4))
            prune.global_unstructured(
                [(b, "weight"), (b, "bias")], prune.L1Unstructured, amount=amount
            )
            y = b(a(x))
            prune.remove(a, "weight")
            return y, a(x)

        for _ in range(2):
            found.append([y.detach() for y in step(X, layer, other, amount)])
            found.append([state(m) for m in (layer, other)])
            prune.remove(other, "weight")
            prune.remove(other, "bias")
    return found


@case("torch.compile", "removed after compiling")
def _(prune: ModuleType) -> Any:
    torch._dynamo.reset()
    layer = linear(prune)
    fast = torch.compile(layer, backend="aot_eager")
    first = fast(X).detach()
    prune.remove(layer, "weight")
    return first, trained(fast, X)


# ---- torch.export ----


def exported(strict: bool) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        layers = model(prune)
        program = torch.export.export(layers, (X,), strict=strict)
        targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        decomposed = program.run_decompositions()
        return (
            targets,
            [str(n.target) for n in decomposed.graph.nodes if n.op == "call_function"],
            program.module()(X),
            {k: v.detach() for k, v in program.state_dict.items()},
        )

    return run


case("torch.export", "`strict=True`, graph and results")(exported(True))
case("torch.export", "`strict=False`, graph and results")(exported(False))


@case("torch.export", "for training, then trained")
def _(prune: ModuleType) -> Any:
    program = torch.export.export(model(prune), (X,))
    return trained(program.module(), X)


@case("torch.export", "dynamic batch")
def _(prune: ModuleType) -> Any:
    batch = torch.export.Dim("batch")
    program = torch.export.export(model(prune), (X,), dynamic_shapes=({0: batch},))
    return program.module()(X[:3])


LOAD = """
import sys, torch
from torch import Tensor
saved, kind = sys.argv[1:]
x = torch.load(saved + ".x")
m = torch.export.load(saved).module() if kind == "export" else torch.jit.load(saved)
torch.save(m(x).detach(), saved + ".y")
assert "fastprune" not in sys.modules
"""


def loaded_elsewhere(save: Callable[[nn.Module, str], None], kind: str, prune: ModuleType) -> Any:
    """Save a pruned model, load it in a process that knows nothing of the library."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.pt2")
        layers = model(prune)
        save(layers, path)
        torch.save(X, path + ".x")
        subprocess.run([sys.executable, "-c", LOAD, path, kind], check=True, capture_output=True)
        return layers(X), torch.load(path + ".y")


@case("torch.export", "saved, and loaded in a process without the library")
def _(prune: ModuleType) -> Any:
    return loaded_elsewhere(
        lambda m, path: torch.export.save(torch.export.export(m, (X,)), path), "export", prune
    )


# ---- TorchScript ----


@case("TorchScript", "`jit.trace`, graph and results")
def _(prune: ModuleType) -> Any:
    traced = torch.jit.trace(model(prune), (X,))
    return [node.kind() for node in traced.inlined_graph.nodes()], trained(traced, X)


@case("TorchScript", "`jit.trace`, saved, and loaded in a process without the library")
def _(prune: ModuleType) -> Any:
    return loaded_elsewhere(lambda m, path: torch.jit.trace(m, (X,)).save(path), "jit", prune)


@case("TorchScript", "`jit.script`")
def _(prune: ModuleType) -> Any:
    return torch.jit.script(model(prune))(X)


@case("TorchScript", "`jit.script` after `remove`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    prune.remove(layer, "weight")
    return torch.jit.script(layer)(X)


# ---- ONNX ----


def onnx_of(prune: ModuleType, dynamo: bool) -> Any:
    file = io.BytesIO()
    layers = model(prune)
    if dynamo:
        program = torch.onnx.export(layers, (X,), dynamo=True, verbose=False)
        assert program is not None
        program.save(file)
    else:
        torch.onnx.export(layers, (X,), file, dynamo=False)
    made = onnx.load_from_string(file.getvalue())
    run = onnx.reference.ReferenceEvaluator(made)
    (out,) = run.run(None, {made.graph.input[0].name: X.numpy()})
    np.testing.assert_allclose(out, layers(X).detach().numpy(), rtol=1e-5, atol=1e-6)
    return [node.op_type for node in made.graph.node], torch.from_numpy(out)


@case("ONNX", "`torch.onnx.export(dynamo=True)`, nodes and results")
def _(prune: ModuleType) -> Any:
    return onnx_of(prune, True)


@case("ONNX", "`torch.onnx.export(dynamo=False)`, nodes and results")
def _(prune: ModuleType) -> Any:
    return onnx_of(prune, False)


# ---- fx ----


class Custom(nn.Module):
    """No module of torch.nn, so that fx traces through it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()


class Outer(nn.Module):
    """Holds one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x).relu()
        return result


@case("torch.fx", "`symbolic_trace` of a custom module: code, updates, two backwards")
def _(prune: ModuleType) -> Any:
    inner = prune.l1_unstructured(Custom(), "weight", 0.5)
    traced = fx.symbolic_trace(Outer(inner))
    results = [traced.code, list(traced.state_dict())]
    for _ in range(2):
        results.append(trained(traced, X))
        with torch.no_grad():
            traced.inner.weight_orig.mul_(2)
    return results


@case("torch.fx", "`symbolic_trace` of a model of leaf modules")
def _(prune: ModuleType) -> Any:
    traced = fx.symbolic_trace(model(prune))
    return traced.code, trained(traced, X)


@case("torch.fx", "the module after `symbolic_trace`")
def _(prune: ModuleType) -> Any:
    inner = prune.l1_unstructured(Custom(), "weight", 0.5)
    fx.symbolic_trace(Outer(inner))
    return trained(inner, X)


def traced_by_make_fx(mode: str, pre_dispatch: bool) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        layers = model(prune)
        params, buffers = state(layers)
        graph = make_fx(output_of(layers), tracing_mode=mode, pre_dispatch=pre_dispatch)(
            params, buffers, X
        )
        return graph.code, graph(params, buffers, X)

    return run


for _mode in ["real", "fake", "symbolic"]:
    case("torch.fx", f"`make_fx`, {_mode}")(traced_by_make_fx(_mode, False))
case("torch.fx", "`make_fx`, `pre_dispatch`")(traced_by_make_fx("fake", True))


@case("torch.fx", "`make_fx` of `grad`")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    params, buffers = state(layers)
    graph = make_fx(torch.func.grad(loss_of(layers)))(params, buffers, X)
    return graph.code, graph(params, buffers, X)


# ---- modes ----


class Names(TorchDispatchMode):
    """Records the operators that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Records the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if name != "__get__":  # attributes, which are looked at in another order
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@case("modes", "what a `TorchDispatchMode` sees of a forward and backward")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    with Names() as names:
        result = trained(layers, X)
    return names.seen, result


@case("modes", "what a `TorchDispatchMode` sees of pruning")
def _(prune: ModuleType) -> Any:
    layer = nn.Linear(4, 3)
    with Names() as names:
        prune.l1_unstructured(layer, "weight", 0.5)
        prune.ln_structured(layer, "weight", 1, 2, 0)
        prune.random_unstructured(layer, "bias", 1)
    return names.seen, trained(layer, X)


@case("modes", "what a `TorchFunctionMode` sees of a forward")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    with Functions() as functions:
        out = layers(X)
    return functions.seen, out


@case("modes", "`torch.set_default_device`, `set_default_dtype`")
def _(prune: ModuleType) -> Any:
    with torch.device("cpu"):
        first = trained(model(prune), X)
    with torch.device("meta"):
        second = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5).weight_mask
    torch.set_default_dtype(torch.float64)
    try:
        return first, second, trained(model(prune), X.double())
    finally:
        torch.set_default_dtype(torch.float32)


def default_device(method: str) -> Callable[[ModuleType], Any]:
    """Pruned and run on the CPU, while tensors are made elsewhere."""

    def run(prune: ModuleType) -> Any:
        layer = nn.Linear(4, 3)
        with torch.device("meta"):
            METHODS[method](prune, layer)
            METHODS[method](prune, layer)
            return layer.weight_mask, trained(layer, X)

    return run


for _method in METHODS:
    # These make their mask, or draw their numbers, inside, and so elsewhere.
    if _method not in ("custom_from_mask", "random_structured"):
        case("modes", f"`with torch.device(...)` of another device: `{_method}`")(
            default_device(_method)
        )


@case("modes", "`FakeTensorMode`: pruned and run inside")
def _(prune: ModuleType) -> Any:
    with FakeTensorMode():
        layers = model(prune)
        out = layers(torch.randn(5, 4))
        return tuple(out.shape), [tuple(b.shape) for b in layers.buffers()]


@case("modes", "`FlopCounterMode`")
def _(prune: ModuleType) -> Any:
    with FlopCounterMode(display=False) as flops:
        trained(model(prune), X)
    return flops.get_total_flops()


@case("modes", "the profiler sees the multiplication")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    with torch.profiler.profile() as profile:
        out = layer(X)
    names = {event.key for event in profile.key_averages()}
    return bool(names & {"aten::mul", "fastprune::masked_mul"}), out, gradients(layer)
