"""Every kind of tensor that a parameter, a mask or a score can be."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from .make import X, gradients, linear, trained
from .registry import case

# What is done to a parameter. Magnitudes are distinct, so that ties do not matter.
METHODS: dict[str, Callable[[ModuleType, nn.Module], Any]] = {
    "l1_unstructured": lambda p, m: p.l1_unstructured(m, "weight", 0.4),
    "random_unstructured": lambda p, m: p.random_unstructured(m, "weight", 0.4),
    "ln_structured": lambda p, m: p.ln_structured(m, "weight", 1, 2, 0),
    "random_structured": lambda p, m: p.random_structured(m, "weight", 1, 1),
    "identity": lambda p, m: p.identity(m, "weight"),
    "custom_from_mask": lambda p, m: p.custom_from_mask(
        m, "weight", torch.ones(m.weight.shape).tril().to(m.weight.device)
    ),
    "global_unstructured": lambda p, m: p.global_unstructured(
        [(m, "weight")], p.L1Unstructured, amount=0.3
    ),
}


class Holder(nn.Module):
    """Multiplies by its weight, whatever kind of tensor that is."""

    def __init__(self, weight: Tensor, requires_grad: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def distinct() -> Tensor:
    """Twelve values of distinct magnitude that every dtype can hold."""
    values = torch.arange(1.0, 13)[torch.randperm(12)]
    return (values * torch.tensor([1.0, -1]).repeat(6)).view(3, 4)


def twice(apply: Callable[[ModuleType, nn.Module], Any], prune: ModuleType, m: nn.Module) -> Any:
    """Prune, look, prune again, look, remove, look."""
    seen = []
    for _ in range(2):
        torch.manual_seed(2)
        apply(prune, m)
        seen.append((m.weight_mask, m.weight, dict(m.state_dict())))
    prune.remove(m, "weight")
    return seen, m.weight


def of_dtype(dtype: torch.dtype, method: str) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        values = distinct().to(dtype)
        if dtype.is_complex:
            values = values * torch.tensor(1 + 0.5j, dtype=dtype)
        differentiable = dtype.is_floating_point or dtype.is_complex
        module = Holder(values, requires_grad=differentiable)
        seen = twice(METHODS[method], prune, module)
        if dtype.is_complex or (dtype.is_floating_point and dtype.itemsize > 1):
            METHODS[method](prune, module)
            out = module(torch.ones(3, 4, dtype=dtype))
            out.abs().square().sum().backward()
            return seen, out, gradients(module)
        return seen

    return run


DTYPES = [torch.float64, torch.float32, torch.complex64, torch.complex128, torch.float8_e4m3fn]
DTYPES += [torch.float8_e5m2, torch.int8, torch.int64, torch.uint8, torch.bool]
for _dtype in DTYPES:
    for _method in METHODS:
        case("dtypes", f"{str(_dtype).removeprefix('torch.')}: `{_method}`")(
            of_dtype(_dtype, _method)
        )


def sixteen_bits(dtype: torch.dtype, method: str) -> Callable[[ModuleType], Any]:
    """Random methods draw in the tensor's dtype, where upstream leaves ties open."""

    def run(prune: ModuleType) -> Any:
        module = Holder(distinct().to(dtype))
        METHODS[method](prune, module)
        module(torch.ones(3, 4, dtype=dtype)).float().sum().backward()
        return module.weight_mask.sum(), module.weight.dtype, module.weight_mask.dtype

    return run


for _dtype in (torch.float16, torch.bfloat16):
    for _method in METHODS:
        case("dtypes", f"{str(_dtype).removeprefix('torch.')}: `{_method}`")(
            sixteen_bits(_dtype, _method)
        )


# ---- masks ----


@case("masks", "set by hand: bool, uint8, int64, float64, complex")
def _(prune: ModuleType) -> Any:
    results = []
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float64, torch.complex64):
        layer = linear(prune)
        layer.weight_mask = torch.ones(3, 4).tril().to(dtype)
        results.append(trained(layer, X))
    return results


@case("masks", "set by hand: of a shape that broadcasts")
def _(prune: ModuleType) -> Any:
    results = []
    for shape in ((4,), (3, 1), (1, 4), ()):
        layer = linear(prune)
        layer.weight_mask = torch.ones(shape)
        results.append(trained(layer, X))
    return results


@case("masks", "set by hand: of a shape that does not broadcast")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_mask = torch.ones(4, 3)
    return layer(X)


@case("masks", "set by hand: not binary, then pruned again")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_mask = torch.full((3, 4), 0.5)
    first = trained(layer, X)
    layer.weight_mask[0] = 1
    prune.l1_unstructured(layer, "weight", 2)
    return first, trained(layer, X)


@case("masks", "given: bool, uint8, float64, transposed, expanded")
def _(prune: ModuleType) -> Any:
    given = torch.ones(3, 4).tril()
    results = []
    for mask in (given.bool(), given.byte(), given.double(), given.t().clone().t()):
        layer = prune.custom_from_mask(nn.Linear(4, 3), "weight", mask)
        results.append(trained(layer, X))
    layer = prune.custom_from_mask(nn.Linear(4, 3), "weight", torch.ones(1, 4).expand(3, 4))
    return results, trained(layer, X)


@case("masks", "sparse, set by hand")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_mask = layer.weight_mask.to_sparse()
    return layer(X)


# ---- importance scores ----


def scores(dtype: torch.dtype) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        given = distinct().to(dtype)
        first = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.4, importance_scores=given)
        prune.l1_unstructured(first, "weight", 2, importance_scores=given)
        pairs = [(nn.Linear(4, 3), "weight")]
        prune.global_unstructured(
            pairs, prune.L1Unstructured, importance_scores={pairs[0]: given}, amount=5
        )
        return trained(first, X), trained(pairs[0][0], X)

    return run


for _dtype in [torch.float64, torch.float16, torch.int64, torch.int8, torch.complex64]:
    case("importance scores", f"{str(_dtype).removeprefix('torch.')}, local and global")(
        scores(_dtype)
    )


@case("importance scores", "on the CPU, for a parameter elsewhere")
def _(prune: ModuleType) -> Any:
    layer = nn.Linear(4, 3, device="meta")
    return prune.l1_unstructured(layer, "weight", 2, torch.rand(3, 4)).weight_mask


@case("importance scores", "that require a gradient")
def _(prune: ModuleType) -> Any:
    given = torch.randn(3, 4, requires_grad=True)
    layer = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.4, importance_scores=given)
    return trained(layer, X), given.grad


# ---- layouts and devices ----

LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: distinct().t().contiguous().t(),
    "a slice": lambda: torch.cat([distinct(), distinct()], 1)[:, ::2],
    "a negative view": lambda: torch._neg_view(distinct()),
    "zero elements": lambda: torch.ones(0, 4),
}
for _name, _make in LAYOUTS.items():
    for _method in METHODS:

        def _layout(
            prune: ModuleType, make: Callable[[], Tensor] = _make, method: str = _method
        ) -> Any:
            return twice(METHODS[method], prune, Holder(make()))

        if _name != "zero elements" or "_structured" not in _method:  # whose amount is a channel
            case("layouts", f"{_name}: `{_method}`")(_layout)


@case("layouts", "channels_last convolution")
def _(prune: ModuleType) -> Any:
    conv = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    prune.custom_from_mask(conv, "weight", torch.ones(4, 4, 3, 3).tril())
    return trained(conv, torch.randn(1, 4, 5, 5))


@case("layouts", "shared memory")
def _(prune: ModuleType) -> Any:
    layer = nn.Linear(4, 3).share_memory()
    prune.l1_unstructured(layer, "weight", 0.5)
    layer.share_memory()
    return trained(layer, X)


@case("layouts", "a sparse parameter, mask given")
def _(prune: ModuleType) -> Any:
    module = Holder(distinct().to_sparse(), requires_grad=False)
    return prune.custom_from_mask(module, "weight", torch.ones(3, 4).to_sparse()).weight


@case("layouts", "a quantized parameter")
def _(prune: ModuleType) -> Any:
    weight = torch.quantize_per_tensor(distinct(), 0.1, 0, torch.qint8)
    return prune.identity(Holder(weight, requires_grad=False), "weight").weight


@case("layouts", "an inference tensor")
def _(prune: ModuleType) -> Any:
    with torch.inference_mode():
        module = Holder(distinct(), requires_grad=False)
        prune.l1_unstructured(module, "weight", 0.5)
        return module(torch.ones(3, 4)).sum().item()


@case("layouts", "complex weights in `inference_mode`")
def _(prune: ModuleType) -> Any:
    module = prune.identity(Holder(distinct().cfloat()), "weight")
    with torch.inference_mode():
        return torch.view_as_real(module(torch.ones(3, 4))).tolist()


for _method in METHODS:

    @case("devices", f"meta: `{_method}`")
    def _(prune: ModuleType, method: str = _method) -> Any:
        module = nn.Linear(4, 3, device="meta")
        METHODS[method](prune, module)
        return module(torch.ones(5, 4, device="meta")), dict(module.state_dict())


for _method in ("custom_from_mask", "l1_unstructured", "ln_structured"):

    @case("devices", f"meta: pruned again, `{_method}`")
    def _(prune: ModuleType, method: str = _method) -> Any:
        module = prune.l1_unstructured(nn.Linear(4, 3, device="meta"), "weight", 0.5)
        METHODS[method](prune, module)
        return module(torch.ones(5, 4, device="meta")), dict(module.state_dict())


@case("devices", "moved to meta and materialised (`to_empty`)")
def _(prune: ModuleType) -> Any:
    layer = linear(prune).to("meta")
    layer.to_empty(device="cpu")
    with torch.no_grad():
        layer.weight_orig.fill_(1)
        layer.bias.fill_(0)
        layer.weight_mask.fill_(1)
    return layer(X)


# ---- sparse gradients ----


def embedding_of(kind: Any, prune: ModuleType) -> nn.Module:
    """A pruned embedding whose weight gets sparse gradients."""
    result: nn.Module = prune.l1_unstructured(kind(6, 4, sparse=True), "weight", 0.5)
    return result


def embedding(kind: type[nn.Module]) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        module = embedding_of(kind, prune)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        module(torch.tensor([[1, 2, 1]])).square().sum().backward()
        gradient = module.weight_orig.grad
        optimizer.step()
        return gradient, module.weight_orig, module(torch.tensor([[0, 1]]))

    return run


case("sparse gradients", "`nn.Embedding(sparse=True)`, a step of SGD")(embedding(nn.Embedding))
case("sparse gradients", "`nn.EmbeddingBag(sparse=True)`, a step of SGD")(
    embedding(nn.EmbeddingBag)
)


# ---- subclasses ----


class Tagged(Tensor):
    """A subclass that only has a name."""


class Counting(Tensor):
    """A subclass that sees every function of torch."""

    seen: list[str] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("mul", "__mul__", "to"):
            cls.seen.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


class TaggedParameter(nn.Parameter):
    """A Parameter with something more to it."""


def of_subclass(make: Callable[[], nn.Module]) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        results = []
        for method in ("l1_unstructured", "ln_structured", "custom_from_mask"):
            module = make()
            METHODS[method](prune, module)
            METHODS[method](prune, module)
            out = module(torch.ones(3, 4))
            out.square().sum().backward()
            results.append((out, module.weight, module.weight_mask, module.weight_orig.grad))
        return results

    return run


def holder_of(parameter: nn.Parameter) -> nn.Module:
    module = Holder(torch.ones(3, 4))
    module.weight = parameter
    return module


case("tensor subclasses", "a plain subclass of Tensor")(
    of_subclass(lambda: holder_of(nn.Parameter(distinct().as_subclass(Tagged))))
)
case("tensor subclasses", "a subclass of Parameter")(
    of_subclass(lambda: holder_of(TaggedParameter(distinct())))
)
case("tensor subclasses", "a wrapper with `__torch_dispatch__` (TwoTensor)")(
    of_subclass(lambda: holder_of(nn.Parameter(TwoTensor(distinct(), distinct()))))
)


@case("tensor subclasses", "a subclass with `__torch_function__`, which sees the same calls")
def _(prune: ModuleType) -> Any:
    Counting.seen.clear()
    module = holder_of(nn.Parameter(distinct().as_subclass(Counting)))
    prune.custom_from_mask(module, "weight", torch.ones(3, 4).tril())
    Counting.seen.clear()
    module(torch.ones(3, 4))
    return list(Counting.seen), module.weight


@case("tensor subclasses", "a mask that is a subclass")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_mask = layer.weight_mask.as_subclass(Tagged)
    return layer(X), layer.weight


@case("tensor subclasses", "`UninitializedParameter` of `LazyLinear`")
def _(prune: ModuleType) -> Any:
    return prune.l1_unstructured(nn.LazyLinear(3), "weight", 0.5)


# ---- DTensor ----


@contextmanager
def one_rank() -> Iterator[Any]:
    """A mesh of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield dist.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def let_threads_go() -> None:
    """Wait until threads of gloo have dropped what they hold of Python, which takes the GIL.

    A group that Python frees, holding the GIL, waits for its threads.
    """
    dist.barrier()
    time.sleep(0.05)


def next_placement(placement: Any) -> Any:
    """Another one than this."""
    from torch.distributed.tensor import Shard

    return Shard(1) if placement == Shard(0) else Shard(0)


def of_dtensor(apply: Callable[[ModuleType, nn.Module, Any], Any]) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor

        results = []
        with one_rank() as mesh:
            for placement in (Shard(0), Shard(1), Replicate()):
                module = Holder(torch.ones(3, 4))
                module.weight = nn.Parameter(distribute_tensor(distinct(), mesh, [placement]))
                mask = distribute_tensor(torch.ones(3, 4).tril(), mesh, [placement])
                apply(prune, module, mask)
                out = module(distribute_tensor(torch.ones(3, 4), mesh, [placement]))
                out.square().sum().backward()
                results.append(
                    [t.full_tensor() for t in (out, module.weight_mask, module.weight_orig.grad)]
                )
        return results

    return run


case("DTensor", "`custom_from_mask`: forward and backward")(
    of_dtensor(lambda p, m, mask: p.custom_from_mask(m, "weight", mask))
)
case("DTensor", "`custom_from_mask`: a mask with other placements")(
    of_dtensor(
        lambda p, m, mask: p.custom_from_mask(
            m, "weight", mask.redistribute(placements=[next_placement(mask.placements[0])])
        )
    )
)
case("DTensor", "`custom_from_mask`: a plain mask")(
    of_dtensor(lambda p, m, mask: p.custom_from_mask(m, "weight", mask.full_tensor()))
)
case("DTensor", "`custom_from_mask`, twice")(
    of_dtensor(
        lambda p, m, mask: [p.custom_from_mask(m, "weight", t) for t in (mask, mask.flip(0))]
    )
)
case("DTensor", "`identity`: forward and backward")(
    of_dtensor(lambda p, m, mask: p.identity(m, "weight"))
)
case("DTensor", "`l1_unstructured`")(
    of_dtensor(lambda p, m, mask: p.l1_unstructured(m, "weight", 0.5))
)
case("DTensor", "`ln_structured`")(
    of_dtensor(lambda p, m, mask: p.ln_structured(m, "weight", 1, 2, 0))
)


case("DTensor", "`random_unstructured`")(
    of_dtensor(lambda p, m, mask: p.random_unstructured(m, "weight", 0.5))
)
case("DTensor", "`random_structured`")(
    of_dtensor(lambda p, m, mask: p.random_structured(m, "weight", 1, 0))
)


def after_no_default_device(prune: ModuleType, module: nn.Module, mask: Any) -> None:
    torch.set_default_device(None)
    prune.random_structured(module, "weight", 1, 0)


case("DTensor", "`random_structured` after `torch.set_default_device(None)`")(
    of_dtensor(after_no_default_device)
)
case("DTensor", "`global_unstructured`")(
    of_dtensor(
        lambda p, m, mask: p.global_unstructured([(m, "weight")], p.L1Unstructured, amount=5)
    )
)
case("DTensor", "`l1_unstructured` after a mask")(
    of_dtensor(
        lambda p, m, mask: (
            p.custom_from_mask(m, "weight", mask),
            p.l1_unstructured(m, "weight", 2),
        )
    )
)


@case("DTensor", "deep copy without a graph, state dict")
def _(prune: ModuleType) -> Any:
    from torch.distributed.tensor import Shard, distribute_tensor

    with one_rank() as mesh, torch.no_grad():
        module = Holder(torch.ones(3, 4))
        module.weight = nn.Parameter(distribute_tensor(distinct(), mesh, [Shard(0)]))
        prune.identity(module, "weight")
        copied = copy.deepcopy(module)
        return {name: t.full_tensor() for name, t in copied.state_dict().items()}, [
            copied.weight.full_tensor(),
            prune.is_pruned(copied),
        ]


@case("DTensor", "`remove`: names and placements")
def _(prune: ModuleType) -> Any:
    from torch.distributed.tensor import Shard, distribute_tensor

    with one_rank() as mesh:
        module = Holder(torch.ones(3, 4))
        parameter = module.weight = nn.Parameter(distribute_tensor(distinct(), mesh, [Shard(0)]))
        prune.identity(module, "weight")
        prune.remove(module, "weight")
        assert module.weight is parameter
        return list(module.state_dict()), str(parameter.placements), parameter.full_tensor()


def parallelized(style: str) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        from torch.distributed.tensor import parallel

        with one_rank() as mesh:
            layers = nn.Sequential(linear(prune))
            parallel.parallelize_module(layers, mesh, {"0": getattr(parallel, style)()})
            out = layers(X)
            out.square().sum().backward()
            return out, layers[0].weight_orig.grad.full_tensor()

    return run


case("DTensor", "pruned, then `ColwiseParallel`")(parallelized("ColwiseParallel"))
case("DTensor", "pruned, then `RowwiseParallel`")(parallelized("RowwiseParallel"))


@case("DTensor", "tensor parallelism (`parallelize_module`), then a mask")
def _(prune: ModuleType) -> Any:
    from torch.distributed.tensor import DTensor, distribute_tensor
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with one_rank() as mesh:
        parallelize_module(layers, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        for layer in (layers[0], layers[2]):
            weight = layer.weight
            assert isinstance(weight, DTensor)
            mask = torch.ones(weight.shape).tril()
            prune.custom_from_mask(
                layer, "weight", distribute_tensor(mask, mesh, weight.placements)
            )
        out = layers(X)
        out.square().sum().backward()
        return out, [p.grad.full_tensor() for p in layers.parameters()]


@case("DTensor", "`DistributedDataParallel` of a pruned model")
def _(prune: ModuleType) -> Any:
    with one_rank():
        model = nn.parallel.DistributedDataParallel(linear(prune))
        result = trained(model, X)
        let_threads_go()
        return result


@case("DTensor", "pruned, then `fully_shard`")
def _(prune: ModuleType) -> Any:
    from torch.distributed.fsdp import fully_shard

    with one_rank() as mesh:
        layer = linear(prune)
        fully_shard(layer, mesh=mesh)
        out = layer(X)
        out.square().sum().backward()
        return out, layer.weight_orig.grad.full_tensor()


def fully_sharded(
    then: Callable[[ModuleType, nn.Module], Any],
) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        from torch.distributed.fsdp import fully_shard

        with one_rank() as mesh:
            layer = linear(prune)
            fully_shard(layer, mesh=mesh)
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            then(prune, layer)
            layer(X).square().sum().backward()
            optimizer.step()
            state = layer.state_dict()
            return {n: getattr(t, "full_tensor", lambda t=t: t)() for n, t in state.items()}

    return run


def again_after_forward(prune: ModuleType, layer: nn.Module) -> None:
    with torch.no_grad():
        layer(X)
    prune.l1_unstructured(layer, "weight", 0.5)


case("DTensor", "pruned, then `fully_shard`: a step of SGD, state dict")(
    fully_sharded(lambda p, m: None)
)
case("DTensor", "pruned, then `fully_shard`: pruned again after a forward")(
    fully_sharded(again_after_forward)
)
case("DTensor", "pruned, then `fully_shard`: a mask")(
    fully_sharded(lambda p, m: p.custom_from_mask(m, "weight", torch.ones(3, 4).tril()))
)
case("DTensor", "pruned, then `fully_shard`: `remove`")(
    fully_sharded(lambda p, m: p.remove(m, "weight"))
)


@case("DTensor", "`fully_shard`, then a plain mask")
def _(prune: ModuleType) -> Any:
    from torch.distributed.fsdp import fully_shard

    with one_rank() as mesh:
        layer = nn.Linear(4, 3)
        fully_shard(layer, mesh=mesh)
        return prune.custom_from_mask(layer, "weight", torch.ones(3, 4).tril())


@case("DTensor", "pruned, then `FullyShardedDataParallel`")
def _(prune: ModuleType) -> Any:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with one_rank():
        model = FullyShardedDataParallel(
            nn.Sequential(linear(prune)), use_orig_params=True, device_id=torch.device("cpu")
        )
        result = trained(model, X)
        let_threads_go()
        return result


@case("DTensor", "`FullyShardedDataParallel`, then a mask")
def _(prune: ModuleType) -> Any:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with one_rank():
        layers = nn.Sequential(nn.Linear(4, 3))
        model = FullyShardedDataParallel(
            layers, use_orig_params=True, device_id=torch.device("cpu")
        )
        prune.custom_from_mask(layers[0], "weight", torch.ones(layers[0].weight.shape))
        return trained(model, X)
