"""torch.func, torch.autograd.functional, forward-mode AD, autograd's own ways."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import functional as AF
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from .make import X, gradients, linear, loss_of, model, output_of, state, trained
from .registry import case

# ---- torch.func ----

Parts = tuple[Any, Any, dict[str, Tensor], dict[str, Tensor]]


def parts(prune: ModuleType) -> Parts:
    """A model's loss and output as pure functions, its parameters and buffers."""
    layers = model(prune)
    return loss_of(layers), output_of(layers), *state(layers)


def tangents(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.randn_like(t) for name, t in tree.items()}


def over_parameters(transform: str) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        loss, output, params, buffers = parts(prune)
        if transform in ("grad", "grad_and_value"):
            return getattr(torch.func, transform)(loss)(params, buffers, X)
        if transform in ("jacrev", "jacfwd"):
            return getattr(torch.func, transform)(output)(params, buffers, X)
        if transform == "hessian":
            return torch.func.hessian(loss)(params, buffers, X)
        if transform == "vjp":
            value, pull = torch.func.vjp(lambda p: output(p, buffers, X), params)
            return value, pull(torch.ones_like(value))
        at = lambda p: output(p, buffers, X)  # noqa: E731
        if transform == "jvp":
            return torch.func.jvp(at, (params,), (tangents(params),))
        if transform == "linearize":
            value, push = torch.func.linearize(at, params)
            return value, push(tangents(params))
        assert transform == "functionalize"
        return torch.func.functionalize(output)(params, buffers, X)

    return run


for _name in [
    "grad",
    "grad_and_value",
    "jacrev",
    "jacfwd",
    "hessian",
    "vjp",
    "jvp",
    "linearize",
    "functionalize",
]:
    case("torch.func", f"`{_name}` over parameters")(over_parameters(_name))


def over_input(transform: str) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        layers = model(prune)
        if transform == "jvp":
            return torch.func.jvp(layers, (X,), (torch.ones_like(X),))
        if transform == "hessian":
            return torch.func.hessian(lambda x: layers(x).square().sum())(X)
        if transform == "grad":
            return torch.func.grad(lambda x: layers(x).square().sum())(X)
        return getattr(torch.func, transform)(layers)(X)

    return run


for _name in ["grad", "jacrev", "jacfwd", "hessian", "jvp"]:
    case("torch.func", f"`{_name}` over the input")(over_input(_name))


@case("torch.func", "`grad` and `jvp` over masks")
def _(prune: ModuleType) -> Any:
    loss, output, params, buffers = parts(prune)
    return (
        torch.func.grad(loss, argnums=1)(params, buffers, X),
        torch.func.jvp(lambda b: output(params, b, X), (buffers,), (tangents(buffers),)),
    )


@case("torch.func", "forward over reverse (`jvp` of `grad`)")
def _(prune: ModuleType) -> Any:
    loss, _, params, buffers = parts(prune)
    gradient = torch.func.grad(lambda p: loss(p, buffers, X))
    return torch.func.jvp(gradient, (params,), (tangents(params),))


@case("torch.func", "reverse over forward (`grad` of `jvp`)")
def _(prune: ModuleType) -> Any:
    loss, _, params, buffers = parts(prune)
    directions = tangents(params)
    push = lambda p: torch.func.jvp(lambda q: loss(q, buffers, X), (p,), (directions,))[1]  # noqa: E731
    return torch.func.grad(push)(params)


@case("torch.func", "`vmap` over inputs")
def _(prune: ModuleType) -> Any:
    return torch.vmap(model(prune))(X)


@case("torch.func", "`vmap` over stacked parameters and masks")
def _(prune: ModuleType) -> Any:
    layers = [linear(prune) for _ in range(3)]
    params, buffers = torch.func.stack_module_state(layers)
    output = output_of(layers[0])
    return (
        torch.vmap(output, in_dims=(0, 0, None))(params, buffers, X),
        torch.vmap(output, in_dims=(0, None, None))(params, state(layers[0])[1], X),
        torch.vmap(output, in_dims=(None, 0, None))(state(layers[0])[0], buffers, X),
    )


@case("torch.func", "`vmap` of `grad`: gradients by sample")
def _(prune: ModuleType) -> Any:
    loss, _, params, buffers = parts(prune)
    return torch.vmap(torch.func.grad(loss), in_dims=(None, None, 0))(params, buffers, X)


@case("torch.func", "`vmap` with a chunk size, `randomness='different'`")
def _(prune: ModuleType) -> Any:
    layers = nn.Sequential(linear(prune), nn.Dropout(0.5))
    return torch.vmap(layers, chunk_size=2, randomness="different")(X)


@case("torch.func", "`functional_call` with other weights, tied weights and masks")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    other = {"weight_orig": torch.ones(3, 4), "weight_mask": torch.ones(3, 4).tril()}
    return functional_call(layer, other, (X,)), layer(X)


@case("torch.func", "`functional_call` on a pruned submodule of a larger model")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    params, _ = state(layers)
    leaves = {name: p.requires_grad_() for name, p in params.items()}
    functional_call(layers, leaves, (X,)).square().sum().backward()
    return {name: p.grad for name, p in leaves.items()}, gradients(layers)


@case("torch.func", "pruning inside of `grad` by hand (`method.prune`)")
def _(prune: ModuleType) -> Any:
    method = prune.L1Unstructured(5)
    return torch.func.grad(lambda w: method.prune(w).square().sum())(torch.randn(3, 4))


@case("torch.func", "pruning inside of `jvp` by hand (`method.prune`)")
def _(prune: ModuleType) -> Any:
    w = torch.randn(3, 4)
    return [
        torch.func.jvp(method.prune, (w,), (torch.ones(3, 4),))
        for method in (prune.L1Unstructured(5), prune.LnStructured(1, 2, 0))
    ]


@case("torch.func", "pruning inside of `vmap` by hand (`method.prune`)")
def _(prune: ModuleType) -> Any:
    return torch.vmap(prune.LnStructured(1, 2, 0).prune)(torch.randn(2, 3, 4))


# ---- torch.autograd.functional ----


def autograd_functional(name: str, **options: Any) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        layer = linear(prune)
        names = ["weight_orig", "bias"]
        at = tuple(getattr(layer, n).detach().clone() for n in names)

        def output(*tensors: Tensor) -> Tensor:
            result: Tensor = functional_call(layer, dict(zip(names, tensors, strict=True)), (X,))
            return result

        def loss(*tensors: Tensor) -> Tensor:
            return output(*tensors).square().sum()

        function = loss if name in ("hessian", "hvp", "vhp") else output
        vectors: tuple[Any, ...] = ()
        if name in ("jvp", "hvp", "vhp"):
            vectors = (tuple(torch.ones_like(t) for t in at),)
        if name == "vjp":
            vectors = (torch.ones(5, 3),)
        return getattr(AF, name)(function, at, *vectors, **options)

    return run


for _name in ["vjp", "jvp", "jacobian", "hessian", "hvp", "vhp"]:
    case("torch.autograd.functional", f"`{_name}`")(autograd_functional(_name))
    case("torch.autograd.functional", f"`{_name}`, `create_graph`")(
        autograd_functional(_name, create_graph=True)
    )
for _name in ["jacobian", "hessian"]:
    case("torch.autograd.functional", f"`{_name}`, `vectorize`")(
        autograd_functional(_name, vectorize=True)
    )
case("torch.autograd.functional", "`jacobian`, forward mode")(
    autograd_functional("jacobian", vectorize=True, strategy="forward-mode")
)
case("torch.autograd.functional", "`hessian`, outer forward mode")(
    autograd_functional("hessian", vectorize=True, outer_jacobian_strategy="forward-mode")
)

# ---- forward-mode AD ----


def dual(what: str, requires_grad: bool) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        layer = linear(prune).requires_grad_(requires_grad)
        name = {"weight": "weight_orig", "mask": "weight_mask"}.get(what)
        with fwAD.dual_level():
            x = X
            if name is None:
                x = fwAD.make_dual(X, torch.ones_like(X))
            else:
                primal = getattr(layer, name)
                store = layer._parameters if what == "weight" else layer._buffers
                made = fwAD.make_dual(primal.detach().clone(), torch.randn_like(primal))
                if requires_grad and what == "weight":
                    made = fwAD.make_dual(
                        primal.detach().clone().requires_grad_(), torch.randn_like(primal)
                    )
                if what == "weight":
                    del store[name]
                    object.__setattr__(layer, name, made)
                else:
                    store[name] = made
            return tuple(fwAD.unpack_dual(layer(x)))

    return run


for _what in ["input", "weight", "mask"]:
    for _grad in (False, True):
        case("forward-mode AD", f"dual {_what}, parameters {'with' if _grad else 'without'} grad")(
            dual(_what, _grad)
        )


@case("forward-mode AD", "dual tensors and a backward over them")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    with fwAD.dual_level():
        x = fwAD.make_dual(X, torch.ones_like(X))
        tangent = fwAD.unpack_dual(layer(x)).tangent
        return torch.autograd.grad(tangent.square().sum(), layer.weight_orig)


# ---- gradients of masks ----


@case("gradients of masks", "`weight_mask.requires_grad_()`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_mask.requires_grad_()
    return trained(layer, X)


@case("gradients of masks", "the same, weight frozen")
def _(prune: ModuleType) -> Any:
    layer = linear(prune).requires_grad_(False)
    layer.weight_mask.requires_grad_()
    return trained(layer, X)


@case("gradients of masks", "the same, of dtype float64 over float32")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_mask = layer.weight_mask.double().requires_grad_()
    return trained(layer, X)


@case("gradients of masks", "a mask that is an `nn.Parameter`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    mask = layer.weight_mask
    del layer._buffers["weight_mask"]
    layer.weight_mask = nn.Parameter(mask)
    return trained(layer, X)


@case("gradients of masks", "a mask computed from logits in every step")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    logits = torch.randn(3, 4, requires_grad=True)
    results = []
    for _ in range(2):
        layer.weight_mask = torch.sigmoid(logits)
        layer(X).square().sum().backward()
        results.append(logits.grad.clone())  # type: ignore[union-attr]
    return results, gradients(layer)["weight_orig"]


@case("gradients of masks", "straight-through estimator")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    scores = torch.randn(3, 4, requires_grad=True)
    hard = (scores > 0).float()
    layer.weight_mask = hard + scores - scores.detach()
    layer(X).square().sum().backward()
    return scores.grad


@case("gradients of masks", "`custom_from_mask` of a mask that requires a gradient")
def _(prune: ModuleType) -> Any:
    mask = torch.rand(3, 4, requires_grad=True)
    layer = prune.custom_from_mask(nn.Linear(4, 3), "weight", mask)
    layer(X).square().sum().backward()
    again = torch.rand(3, 4, requires_grad=True)
    prune.custom_from_mask(layer, "weight", again)
    layer(X).square().sum().backward()
    return mask.grad, again.grad, layer.weight, layer.weight_mask


@case("gradients of masks", "pruned again while the mask requires a gradient")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_mask.requires_grad_()
    prune.l1_unstructured(layer, "weight", 2)
    return trained(layer, X), layer.weight_mask


@case("gradients of masks", "`global_unstructured` while a mask requires a gradient")
def _(prune: ModuleType) -> Any:
    a, b = linear(prune), nn.Linear(4, 3)
    old = a.weight_mask.requires_grad_()
    prune.global_unstructured([(a, "weight"), (b, "weight")], prune.L1Unstructured, amount=3)
    (a(X) + b(X)).square().sum().backward()
    return a.weight_mask, b.weight_mask, old.grad, gradients(a)["bias"]


@case("gradients of masks", "`method.prune` and `compute_mask` with such a default mask")
def _(prune: ModuleType) -> Any:
    results = []
    for method in (
        prune.L1Unstructured(3),
        prune.LnStructured(1, 2, 0),
        prune.Identity(),
        prune.CustomFromMask(torch.ones(3, 4).tril()),
        prune.RandomUnstructured(3),
        prune.RandomStructured(1, 0),
    ):
        mask = torch.rand(3, 4, requires_grad=True)
        t = torch.randn(3, 4, requires_grad=True)
        method.prune(t, default_mask=mask).square().sum().backward()
        results.append((t.grad, mask.grad, method.compute_mask(t, default_mask=mask)))
    return results


@case("gradients of masks", "second derivatives in weight and mask")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    both = (layer.weight_orig, layer.weight_mask.requires_grad_())
    first = torch.autograd.grad(layer(X).square().sum(), both, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), both)


# ---- autograd ----


@case("autograd", "double backward")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    params = list(layers.parameters())
    first = torch.autograd.grad(layers(X).square().sum(), params, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), params)


@case("autograd", "batched gradients (`is_grads_batched`)")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    out = layer(X)
    return torch.autograd.grad(
        out, list(layer.parameters()), torch.randn(2, *out.shape), is_grads_batched=True
    )


@case("autograd", "gradient checkpointing, both kinds")
def _(prune: ModuleType) -> Any:
    results = []
    for reentrant in (False, True):
        layers = model(prune)
        x = X.clone().requires_grad_()
        checkpoint(layers, x, use_reentrant=reentrant).square().sum().backward()
        results.append((x.grad, gradients(layers)))
    return results


@case("autograd", "saved-tensor hooks (`save_on_cpu`)")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    with torch.autograd.graph.save_on_cpu():
        out = layers(X)
    out.square().sum().backward()
    return gradients(layers)


@case("autograd", "anomaly detection")
def _(prune: ModuleType) -> Any:
    with torch.autograd.detect_anomaly():
        return trained(model(prune), X)


@case("autograd", "compiled autograd")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    loss = layers(X).square().sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    return gradients(layers)


@case("autograd", "hooks on the original parameter, post-accumulate hooks")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    seen: list[Any] = []
    layer.weight_orig.register_hook(lambda g: seen.append(g.clone()))
    layer.weight_orig.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    layer(X).square().sum().backward()
    return seen


@case("autograd", "frozen weight, trained bias")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_orig.requires_grad_(False)
    return trained(layer, X)


@case("autograd", "`inference_mode`, `no_grad`, and grad again")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    with torch.inference_mode():
        first = layer(X).clone()
    with torch.no_grad():
        second = layer(X)
    return first.sum().item(), second, trained(layer, X)


@case("autograd", "autocast to bfloat16")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    with torch.autocast("cpu", torch.bfloat16):
        out = layers(X)
    out.float().square().sum().backward()
    return out, gradients(layers)


@case("autograd", "recurrent use: one layer three times in a graph")
def _(prune: ModuleType) -> Any:
    layer = prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    return trained(nn.Sequential(layer, nn.Tanh(), layer, layer), X)


@case("autograd", "product of a forward, changed weights, backward")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    out = layer(X).square().sum()
    with torch.no_grad():
        layer.weight_orig.add_(1)  # no product saves it
    out.backward()
    return gradients(layer)


class NoGradient(torch.autograd.Function):
    """A function whose backward has nothing to give."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        return x @ w.t()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, None


@case("autograd", "no gradient for the product: none for the parameter, weight decay included")
def _(prune: ModuleType) -> Any:
    results = []
    for pruned in (linear(prune), prune.ln_structured(nn.Linear(4, 3), "weight", 1, 2, 0)):
        (hook,) = pruned._forward_pre_hooks.values()
        optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1, weight_decay=0.5)
        for refresh in (False, True):  # by the operator that pruned, and by the hook
            if refresh:
                hook(pruned, None)
            (NoGradient.apply(X, pruned.weight) + pruned.bias).sum().backward()
            optimizer.step()
        results.append((gradients(pruned), pruned.weight_orig))
    return results


@case("autograd", "masks of other dtypes changed between forward and backward")
def _(prune: ModuleType) -> Any:
    results = []
    for dtype in (torch.bool, torch.uint8, torch.float64):
        layer = linear(prune)
        layer.weight_mask = layer.weight_mask.to(dtype)
        out = layer(X).sum()
        layer.weight_mask.copy_(1 - layer.weight_mask.float())
        out.backward()
        results.append(gradients(layer)["weight_orig"])
    return results


@case("autograd", "mask changed between forward and backward")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    out = F.linear(X, layer.weight).sum()
    layer.weight_mask.zero_()
    out.backward()
    return gradients(layer)
