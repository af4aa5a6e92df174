"""The life of a pruned module: methods of users, amounts, copies, files, hooks, errors."""

from __future__ import annotations

import copy
import copyreg
import functools
import io
import pickle
import threading
import types
from collections.abc import Callable
from fractions import Fraction
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .make import X, gradients, linear, model, trained
from .registry import case

try:
    import torch.ao.quantization as ao
except ImportError:  # which torch means to drop
    ao = None  # type: ignore[assignment]

# ---- methods of users ----


def with_other_type(method: str, kind: str) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        base = getattr(prune, method)
        options: dict[str, Any] = {"amount": 2} if kind != "structured" else {"amount": 1}
        if "Structured" in method:
            options["dim"] = 0
        if method == "LnStructured":
            options["n"] = 2
        cls = type("Other", (base,), {"PRUNING_TYPE": kind, "dim": 0})
        layer = linear(prune)
        # Past the base's own apply, whose arguments differ by method.
        apply = prune.BasePruningMethod.apply.__func__
        apply(cls, layer, "weight", **options)
        return trained(layer, X)

    return run


for _method in ["L1Unstructured", "RandomUnstructured", "LnStructured", "RandomStructured"]:
    for _kind in ("unstructured", "structured", "global"):
        case("methods of users", f"subclass of `{_method}` with `PRUNING_TYPE = {_kind!r}`")(
            with_other_type(_method, _kind)
        )


@case("methods of users", "such a subclass in `global_unstructured`")
def _(prune: ModuleType) -> Any:
    kind = type("Everywhere", (prune.L1Unstructured,), {"PRUNING_TYPE": "global"})
    prune.global_unstructured([(linear(prune), "weight")], kind, amount=2)


@case("methods of users", "subclasses of `Identity` and `CustomFromMask` with other types")
def _(prune: ModuleType) -> Any:
    results = []
    for base, arguments in ((prune.Identity, ()), (prune.CustomFromMask, (torch.ones(6),))):
        cls = type("Other", (base,), {"PRUNING_TYPE": "unstructured"})
        layer = linear(prune)
        prune.BasePruningMethod.apply.__func__(cls, layer, "weight", *arguments)
        results.append(trained(layer, X))
    return results


def override(name: str) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        calls: list[str] = []

        def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            result = getattr(super(cls, self), name)(*args, **kwargs)
            return result * 2 if name in ("apply_mask", "prune") else result

        cls = type("Own", (prune.L1Unstructured,), {name: replaced})
        layer = nn.Linear(4, 3)
        cls.apply(layer, "weight", 5)
        first = trained(layer, X)
        cls.apply(layer, "weight", 2)
        second = trained(layer, X)
        by_hand = cls(2).prune(torch.randn(3, 4))
        prune.remove(layer, "weight")
        return calls, first, second, by_hand, layer.weight

    return run


for _name in ["compute_mask", "apply_mask", "prune", "__call__", "remove"]:
    case("methods of users", f"subclass of `L1Unstructured` with its own `{_name}`")(
        override(_name)
    )


@case("methods of users", "mixed with a class that has `__slots__`")
def _(prune: ModuleType) -> Any:
    class Slotted:
        __slots__ = ("note",)

    class Own(prune.L1Unstructured, Slotted):  # type: ignore[misc, name-defined]
        """A method with a slot."""

    layer = nn.Linear(4, 3)
    hook = Own.apply(layer, "weight", 5)
    hook.note = "kept"
    twin = copy.deepcopy(hook)
    return trained(layer, X), twin.note, sorted(vars(hook)), sorted(vars(twin))


@case("methods of users", "with `__getstate__` and `__setstate__` of its own")
def _(prune: ModuleType) -> Any:
    class Own(prune.L1Unstructured):  # type: ignore[misc, name-defined]
        def __getstate__(self) -> Any:
            return {"packed": dict(self.__dict__)}

        def __setstate__(self, state: Any) -> None:
            self.__dict__.update(state["packed"], unpacked=True)

    layer = nn.Linear(4, 3)
    Own.apply(layer, "weight", 5)
    with torch.no_grad():
        layer(X)
    twin = copy.deepcopy(layer)
    (hook,) = twin._forward_pre_hooks.values()
    return sorted(vars(hook)), twin(X)


def noted(function: Any, calls: list[int]) -> Any:
    @functools.wraps(function)
    def wrapped(self: Any, t: Tensor, default_mask: Tensor) -> Any:
        calls.append(1)
        return function(self, t, default_mask)

    return wrapped


@case("methods of users", "`compute_mask` wrapped by `functools.wraps`")
def _(prune: ModuleType) -> Any:
    calls: list[int] = []
    results = []
    for base, arguments in (
        (prune.L1Unstructured, (2,)),
        (prune.CustomFromMask, (torch.ones(3, 4).tril(),)),
    ):
        own = type("Own", (base,), {"compute_mask": noted(base.compute_mask, calls)})
        layer = nn.Linear(4, 3)
        own.apply(layer, "weight", *arguments)
        own.apply(layer, "weight", *arguments)
        results.append(trained(layer, X))
    return len(calls), results


@case("methods of users", "with attributes of its own: `_amount`, `_module`, `_home`")
def _(prune: ModuleType) -> Any:
    class Own(prune.LnStructured):  # type: ignore[misc, name-defined]
        def __init__(self, amount: float, n: int, dim: int) -> None:
            super().__init__(amount, n, dim)
            self._amount, self._module, self._home = amount, "module", "home"

    layer = nn.Linear(4, 3)
    hook = Own.apply(layer, "weight", 1, 2, 0)
    return trained(layer, X), vars(hook)


@case("methods of users", "that is a dict too, and one with its own `__reduce__`")
def _(prune: ModuleType) -> Any:
    class Mapping(dict, prune.L1Unstructured):  # type: ignore[misc, name-defined, type-arg]
        """A method with items."""

    class Locked(prune.L1Unstructured):  # type: ignore[misc, name-defined]
        def __init__(self, amount: int) -> None:
            super().__init__(amount)
            self.lock = threading.Lock()

        def __reduce__(self) -> Any:
            return type(self), (self.amount,)

    return Mapping(2).prune(torch.randn(3, 4)), copy.deepcopy(Locked(2)).amount


@case("methods of users", "deep copies of one with items, and of one registered with `copyreg`")
def _(prune: ModuleType) -> Any:
    class Mapping(dict, prune.L1Unstructured):  # type: ignore[misc, name-defined, type-arg]
        amount = 2

    class Registered(prune.L1Unstructured):  # type: ignore[misc, name-defined]
        """Copied as its entry in the table of reductions says."""

    copyreg.pickle(Registered, lambda method: (Registered, (method.amount + 1,)))
    try:
        mapping = Mapping(note=[1])
        twin = copy.deepcopy(mapping)
        same = twin["note"] is mapping["note"]
        return dict(twin), same, vars(copy.deepcopy(Registered(2)))
    finally:
        del copyreg.dispatch_table[Registered]


@case("methods of users", "a container that derives from upstream's")
def _(prune: ModuleType) -> Any:
    class Own(torch.nn.utils.prune.PruningContainer):
        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            return torch.zeros_like(t)

    layer = nn.Linear(4, 3)
    method = prune.L1Unstructured(2)
    method._tensor_name = "weight"
    prune.identity(layer, "weight")
    layer._forward_pre_hooks.clear()
    layer.register_forward_pre_hook(Own(method))
    prune.l1_unstructured(layer, "weight", 1)
    (hook,) = layer._forward_pre_hooks.values()
    return type(hook).__name__, trained(layer, X)


@case("methods of users", "an instance with its own `apply_mask` and `compute_mask`")
def _(prune: ModuleType) -> Any:
    class Own(prune.L1Unstructured):  # type: ignore[misc, name-defined]
        def __init__(self, amount: int) -> None:
            super().__init__(amount)
            self.compute_mask = lambda t, default_mask: torch.ones_like(t).tril()
            self.apply_mask = lambda module: module.weight_orig * 3

    layer = nn.Linear(4, 3)
    Own.apply(layer, "weight", 1)
    return trained(layer, X)


@case("methods of users", "written from scratch: unstructured, structured, global; repeated")
def _(prune: ModuleType) -> Any:
    results = []
    for kind in ("unstructured", "structured", "global"):

        class Own(prune.BasePruningMethod):  # type: ignore[misc, name-defined]
            PRUNING_TYPE = kind
            dim = 0

            def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
                mask = default_mask.clone()
                mask.view(-1)[::3] = 0
                return mask

        layer = nn.Linear(4, 3)
        for _ in range(2):
            Own.apply(layer, "weight")
        prune.l1_unstructured(layer, "weight", 1)
        results.append(trained(layer, X))
    return results


@case("methods of users", "one that answers with the mask it was given, changed in place")
def _(prune: ModuleType) -> Any:
    class Own(prune.BasePruningMethod):  # type: ignore[misc, name-defined]
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            default_mask.view(-1)[0] = 0
            return default_mask

    layer = linear(prune)
    old = layer.weight_mask
    Own.apply(layer, "weight")
    return old, trained(layer, X)


# ---- amounts ----

AMOUNTS: dict[str, Any] = {
    "`True`": True,
    "`False`": False,
    "`numpy.int64`": np.int64(1),
    "`numpy.float32`": np.float32(0.25),
    "`Fraction`": Fraction(1, 3),
    "a tensor": torch.tensor(0.5),
    "a string": "half",
    "`None`": None,
    "negative": -1,
    "above one": 1.5,
    "more than there is": 100,
    "NaN": float("nan"),
}


def with_amount(amount: Any, function: str) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        layer = nn.Linear(4, 3)
        options: dict[str, Any] = {}
        if "_structured" in function:
            options["dim"] = 0
        if function == "ln_structured":
            options["n"] = 2
        for _ in range(2):
            getattr(prune, function)(layer, "weight", amount=amount, **options)
        return trained(layer, X)

    return run


for _title, _amount in AMOUNTS.items():
    for _function in (
        "l1_unstructured",
        "random_unstructured",
        "ln_structured",
        "random_structured",
    ):
        case("amounts", f"{_title}: `{_function}`")(with_amount(_amount, _function))


@case("amounts", "`True` globally")
def _(prune: ModuleType) -> Any:
    prune.global_unstructured([(nn.Linear(4, 3), "weight")], prune.L1Unstructured, amount=True)


# ---- global_unstructured ----


@case("global_unstructured", "no parameters")
def _(prune: ModuleType) -> Any:
    prune.global_unstructured([], prune.L1Unstructured, amount=0.5)


@case("global_unstructured", "a generator")
def _(prune: ModuleType) -> Any:
    pairs = [(nn.Linear(4, 3), "weight")]
    prune.global_unstructured((pair for pair in pairs), prune.L1Unstructured, amount=0.5)
    return trained(pairs[0][0], X)


@case("global_unstructured", "a tuple, mixed dtypes, pruned and unpruned, weights and biases")
def _(prune: ModuleType) -> Any:
    layers = [linear(prune), nn.Linear(4, 3), nn.Linear(4, 3).double()]
    pairs = tuple((layer, name) for layer in layers for name in ("weight", "bias"))
    for _ in range(2):
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.3)
    return [trained(layer, X.to(layer.bias.dtype)) for layer in layers]


@case("global_unstructured", "a method written from scratch, one of upstream's, `Identity`")
def _(prune: ModuleType) -> Any:
    class Own(prune.BasePruningMethod):  # type: ignore[misc, name-defined]
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            mask = default_mask.clone()
            mask[::2] = 0
            return mask

    results = []
    for method, options in (
        (Own, {}),
        (torch.nn.utils.prune.L1Unstructured, {"amount": 0.5}),
        (prune.Identity, {}),
        (prune.RandomUnstructured, {"amount": 0.5}),
    ):
        layers = [linear(prune), nn.Linear(4, 3)]
        prune.global_unstructured([(layer, "weight") for layer in layers], method, **options)
        results.append([trained(layer, X) for layer in layers])
    return results


# ---- what pruning leaves on the module ----


@case("what is left on the module", "`vars` of a new hook and of a container")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    (hook,) = layer._forward_pre_hooks.values()
    layer(X)
    first = sorted(vars(hook))
    prune.l1_unstructured(layer, "weight", 2)
    (container,) = layer._forward_pre_hooks.values()
    return first, sorted(vars(container)), [sorted(vars(m)) for m in container]


SECOND: dict[str, Callable[[ModuleType, nn.Module], Any]] = {
    "identity": lambda p, m: p.identity(m, "weight"),
    "custom_from_mask": lambda p, m: p.custom_from_mask(m, "weight", torch.ones(3, 4)),
    "l1_unstructured": lambda p, m: p.l1_unstructured(m, "weight", 0),
    "random_unstructured": lambda p, m: p.random_unstructured(m, "weight", 0),
    "ln_structured": lambda p, m: p.ln_structured(m, "weight", 0, 2, 0),
    "random_structured": lambda p, m: p.random_structured(m, "weight", 0, 0),
    "global_unstructured": lambda p, m: p.global_unstructured([(m, "weight")], p.Identity),
}
for _name in SECOND:

    @case("what is left on the module", f"the old mask after `{_name}`: storage of its own")
    def _(prune: ModuleType, name: str = _name) -> Any:
        layer = linear(prune)
        old = layer.weight_mask
        SECOND[name](prune, layer)
        shared = old.data_ptr() == layer.weight_mask.data_ptr()
        layer.weight_mask.zero_()
        return shared, old, trained(layer, X)


@case("what is left on the module", "a pruned vector, pruned structurally")
def _(prune: ModuleType) -> Any:
    results: list[Any] = []
    for amount, dim in ((1, 0), (0, 0), (0.4, -1), (1, 1)):
        for method in (prune.LnStructured(amount, 2, dim), prune.RandomStructured(amount, dim)):
            layer = linear(prune)
            prune.l1_unstructured(layer, "bias", 1)
            try:
                type(method).apply(layer, "bias", **vars(method))
                results.append([layer.bias_mask, trained(layer, X)])
            except Exception as error:
                results.append(type(error).__name__)
    return results


@case("what is left on the module", "the given mask after `custom_from_mask`")
def _(prune: ModuleType) -> Any:
    given = torch.ones(3, 4).tril()
    layer = prune.custom_from_mask(nn.Linear(4, 3), "weight", given)
    given.zero_()
    return trained(layer, X)


@case("what is left on the module", "names, their order, types and state dict")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    return (
        [name for name, _ in layers.named_parameters()],
        [name for name, _ in layers.named_buffers()],
        dict(layers.state_dict()),
        [type(layers[0].weight).__name__, layers[0].weight.requires_grad],
        sorted(k for k in vars(layers[0]) if not k.startswith("_")),
        repr(layers),
    )


@case("what is left on the module", "hooks of others, before and after")
def _(prune: ModuleType) -> Any:
    seen: list[str] = []
    layer = nn.Linear(4, 3)
    layer.register_forward_pre_hook(lambda m, i: seen.append("first"))
    linear_hook = lambda m, i: seen.append(type(m.weight).__name__)  # noqa: E731
    prune.l1_unstructured(layer, "weight", 0.5)
    layer.register_forward_pre_hook(linear_hook, prepend=True)
    prune.l1_unstructured(layer, "weight", 2)
    kinds = [type(h).__name__ for h in layer._forward_pre_hooks.values()]
    return kinds, trained(layer, X), seen


@case("what is left on the module", "`is_pruned` of a model with a scripted module")
def _(prune: ModuleType) -> Any:
    scripted = torch.jit.script(nn.Linear(3, 3))
    return prune.is_pruned(nn.Sequential(scripted)), prune.is_pruned(
        nn.Sequential(linear(prune), scripted)
    )


@case("what is left on the module", "`remove`, `is_pruned`, pruned again")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    parameter = layer.weight_orig
    seen = [prune.is_pruned(layer)]
    prune.remove(layer, "weight")
    seen += [prune.is_pruned(layer), layer.weight is parameter]
    first = trained(layer, X)
    prune.l1_unstructured(layer, "weight", 0.75)
    return seen, first, trained(layer, X)


# ---- edits by hand ----


@case("edits by hand", "`weight` replaced by a Parameter, then a forward")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight = nn.Parameter(torch.ones(3, 4))
    return layer(X)


@case("edits by hand", "`weight` replaced by a Parameter, then pruned again")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight = nn.Parameter(torch.ones(3, 4))
    return prune.l1_unstructured(layer, "weight", 2)


@case("edits by hand", "`weight_orig` replaced: Parameter, `.data`, `copy_`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_orig = nn.Parameter(torch.ones(3, 4))
    first = trained(layer, X)
    layer.weight_orig.data = torch.full((3, 4), 2.0)
    second = layer(X)
    with torch.no_grad():
        layer.weight_orig.copy_(torch.randn(3, 4))
    return first, second, layer(X)


@case("edits by hand", "`weight_mask` changed in place, replaced, made a non-persistent buffer")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    layer.weight_mask[0] = 0
    first = layer(X)
    layer.weight_mask = torch.ones(3, 4)
    second = layer(X)
    layer.register_buffer("weight_mask", torch.ones(3, 4).tril(), persistent=False)
    prune.l1_unstructured(layer, "weight", 2)
    return first, second, layer(X), list(layer.state_dict())


@case("edits by hand", "`weight` deleted before a forward")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    del layer.weight
    return layer(X)


@case("edits by hand", "the mask deleted before a forward")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    del layer.weight_mask
    return layer(X)


@case("edits by hand", "the hook called without a forward")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    with torch.no_grad():
        layer.weight_orig.fill_(1)
    (hook,) = layer._forward_pre_hooks.values()
    return hook(layer, None), layer.weight, hook.apply_mask(layer)


@case("edits by hand", "`compute_mask` and `prune` with default masks of other shapes")
def _(prune: ModuleType) -> Any:
    t = torch.randn(3, 4)
    return [
        prune.LnStructured(1, 2, 0).prune(t, torch.ones(1, 4)),
        prune.LnStructured(1, 2, 0).compute_mask(t, torch.ones(4)),
        prune.RandomStructured(1, 0).compute_mask(t, torch.ones(())),
        prune.L1Unstructured(1).compute_mask(t, torch.ones(12)),
        prune.LnStructured(1, None, 0).prune(t),
    ]


@case("edits by hand", "an attribute that hides the parameter or the mask")
def _(prune: ModuleType) -> Any:
    a, b = linear(prune), linear(prune)
    a.__dict__["weight_orig"] = torch.full((3, 4), 7.0)
    b.__dict__["weight_mask"] = torch.ones(3, 4).tril()
    return a(X), b(X)


@case("edits by hand", "the hook called with something that is no module")
def _(prune: ModuleType) -> Any:
    (hook,) = linear(prune)._forward_pre_hooks.values()
    other = types.SimpleNamespace(weight_orig=torch.ones(2), weight_mask=torch.tensor([0.0, 1]))
    hook(other, None)
    return other.weight


@case("edits by hand", "a container made by hand")
def _(prune: ModuleType) -> Any:
    methods = [prune.L1Unstructured(2), prune.LnStructured(1, 2, 0)]
    for method in methods:
        method._tensor_name = "weight"
    container = prune.PruningContainer(methods[0])
    container.add_pruning_method(methods[1])
    mask = torch.ones(3, 4)
    mask[0] = 0
    return (  # upstream writes into the mask that it is given
        container.compute_mask(torch.randn(3, 4), mask.clone()),
        len(container),
        container.prune(torch.randn(3, 4), mask.clone()),
    )


# ---- copies, files, moves ----


@case("copies and files", "`pickle`, `torch.save` of module and state dict, strict load")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    with torch.no_grad():
        layers(X)
    for layer in layers:
        if "weight" in vars(layer):
            layer.weight = layer.weight.detach()
    file = io.BytesIO()
    torch.save(layers, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    unpickled = pickle.loads(pickle.dumps(layers))
    twin = model(prune)
    twin.load_state_dict(layers.state_dict())
    return trained(loaded, X), trained(unpickled, X), trained(twin, X)


@case("copies and files", "`copy.deepcopy` while no gradient is carried")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    with torch.no_grad():
        layers(X)
    return trained(copy.deepcopy(layers), X)


@case("copies and files", "`copy.deepcopy` while a gradient is carried")
def _(prune: ModuleType) -> Any:
    return copy.deepcopy(linear(prune))(X)


@case("copies and files", "`AveragedModel` of a pruned model")
def _(prune: ModuleType) -> Any:
    return torch.optim.swa_utils.AveragedModel(linear(prune))(X)


@case("copies and files", "EMA by `.data`, and by `AveragedModel` while no gradient is carried")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    with torch.no_grad():
        layers(X)
        average, by_data = torch.optim.swa_utils.AveragedModel(layers), copy.deepcopy(layers)
    for _ in range(3):
        layers(X).square().sum().backward()
        torch.optim.SGD(layers.parameters(), lr=0.1).step()
        average.update_parameters(layers)
        for ours, new in zip(by_data.parameters(), layers.parameters(), strict=True):
            ours.data.mul_(0.9).add_(new.data, alpha=0.1)
    return trained(average, X), trained(by_data, X)


@case("copies and files", "`half`, `bfloat16`, `cpu`, to meta and `to_empty`, `share_memory`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    first = [trained(layer.half().float(), X), trained(layer.bfloat16().float(), X)]
    layer.to("meta")
    shapes = layer(X.to("meta"))
    layer.to_empty(device="cpu").zero_grad()
    layer.load_state_dict({key: torch.ones_like(t) for key, t in layer.state_dict().items()})
    return first, shapes, trained(layer.cpu().share_memory(), X), layer.weight_mask.is_shared()


@case("copies and files", "`ForkingPickler`, while no gradient is carried")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    with torch.no_grad():
        layers(X)
    return trained(pickle.loads(ForkingPickler.dumps(layers)), X)


@case("copies and files", "`ForkingPickler`, while a gradient is carried")
def _(prune: ModuleType) -> Any:
    return trained(pickle.loads(ForkingPickler.dumps(model(prune))), X)


@case("copies and files", "`copy.copy`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    twin = copy.copy(layer)
    return twin(X), trained(layer, X)


@case("copies and files", "`double`, `to`, `apply`, `requires_grad_`, `zero_grad`, `train`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune).double().float().to(torch.float64)
    layer.apply(lambda m: None).train(False).zero_grad()
    return trained(layer, X.double())


# ---- training ----


@case("training", "SGD with momentum, AdamW, clipping, pruned between steps")
def _(prune: ModuleType) -> Any:
    results = []
    for make in (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01),
    ):
        layers = model(prune)
        optimizer = make(layers.parameters())
        for _ in range(4):
            prune.l1_unstructured(layers[0], "weight", 1)
            optimizer.zero_grad()
            layers(X).square().sum().backward()
            nn.utils.clip_grad_norm_(layers.parameters(), 1.0)
            optimizer.step()
        results.append(dict(layers.state_dict()))
    return results


def tied() -> nn.Sequential:
    """Two layers with one weight."""
    layers = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    layers[2].weight = layers[0].weight
    return layers


@case("training", "tied weights: one Parameter in two modules, the same amount in both")
def _(prune: ModuleType) -> Any:
    results = []
    for function, options in (
        (prune.l1_unstructured, {"amount": 0.5}),
        (prune.ln_structured, {"amount": 2, "n": 2, "dim": 0}),
        (prune.custom_from_mask, {"mask": torch.ones(4, 4).tril()}),
        (prune.identity, {}),
    ):
        layers = tied()
        for layer in (layers[0], layers[2]):
            function(layer, "weight", **options)
        results.append(trained(layers, X))
    return results


@case("training", "tied weights pruned in one of two modules, and removed")
def _(prune: ModuleType) -> Any:
    layers = tied()
    prune.l1_unstructured(layers[0], "weight", 0.5)
    first = trained(layers, X)
    prune.remove(layers[0], "weight")
    prune.random_unstructured(layers[2], "weight", 0.25)
    return first, trained(layers, X)


@case("training", "`nn.DataParallel` without a GPU, gradient accumulation")
def _(prune: ModuleType) -> Any:
    layers = model(prune)
    parallel = nn.DataParallel(layers)
    for _ in range(2):
        parallel(X).square().sum().backward()
    return gradients(layers)


@case("training", "forwards from several threads")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    outputs: list[Any] = [None] * 4

    def run(i: int) -> None:
        outputs[i] = layer(X * i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outputs


@case("training", "`torch.ao.quantization.quantize_dynamic` after `remove`")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    prune.remove(layer, "weight")
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear})
    return quantized(X)


def quantized(quantize: Callable[[nn.Module], Any]) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        layers = nn.Sequential(ao.QuantStub(), linear(prune), ao.DeQuantStub())
        layers.qconfig = ao.default_qconfig
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = torch.backends.quantized.supported_engines[-1]
        try:
            return quantize(layers)(X)
        finally:
            torch.backends.quantized.engine = before

    return run


def prepared(layers: nn.Module) -> nn.Module:
    copy_of = ao.prepare(layers.eval())
    copy_of(X)
    return copy_of


def prepared_for_training(layers: nn.Module) -> nn.Module:
    layers.qconfig = ao.default_qat_qconfig
    return ao.prepare_qat(layers, inplace=True)


if ao is not None:
    for _title, _quantize in {
        "`quantize_dynamic`": lambda m: ao.quantize_dynamic(m, {nn.Linear}),
        "`prepare`": prepared,
        "`prepare` and `convert`": lambda m: ao.convert(prepared(m)),
        "`prepare_qat`, which moves Parameters; prune afterwards": prepared_for_training,
    }.items():
        case("training", f"`torch.ao.quantization` of a pruned model: {_title}")(
            quantized(_quantize)
        )


# ---- errors ----


def before_the_first_forward(
    make: Callable[[], nn.Module], do: Callable[[ModuleType, nn.Module], Any]
) -> Callable[[ModuleType], Any]:
    return lambda prune: do(prune, make())


LAZY: dict[str, Callable[[], nn.Module]] = {
    "LazyLinear": lambda: nn.LazyLinear(3),
    "LazyConv2d": lambda: nn.LazyConv2d(3, 2),
    "LazyBatchNorm1d": nn.LazyBatchNorm1d,
}
LAZILY: dict[str, Callable[[ModuleType, nn.Module], Any]] = {
    **SECOND,
    "l1_unstructured with scores": lambda p, m: p.l1_unstructured(
        m, "weight", 1, importance_scores=torch.ones(3, 4)
    ),
    "global_unstructured": lambda p, m: p.global_unstructured(
        [(nn.Linear(4, 3), "weight"), (m, "weight")], p.L1Unstructured, amount=1
    ),
}
for _title, _make in LAZY.items():
    for _function, _do in LAZILY.items() if _title == "LazyLinear" else [*LAZILY.items()][:1]:
        case("errors", f"`{_title}` before its first forward: `{_function}`")(
            before_the_first_forward(_make, _do)
        )


def with_attribute(module: nn.Module, name: str, value: Any) -> nn.Module:
    setattr(module, name, value)
    return module


ERRORS: dict[str, Callable[[ModuleType], Any]] = {
    "a name that is nothing": lambda p: p.l1_unstructured(nn.Linear(4, 3), "nothing", 1),
    "a bias that is None": lambda p: p.l1_unstructured(nn.Linear(4, 3, bias=False), "bias", 1),
    "a bias that is None, as an attribute": lambda p: p.l1_unstructured(
        with_attribute(nn.Linear(4, 3), "gain", None), "gain", 1
    ),
    "a tensor that is no parameter": lambda p: p.l1_unstructured(
        with_attribute(nn.Linear(4, 3), "gain", torch.ones(3)), "gain", 1
    ),
    "a bias that is None, globally": lambda p: p.global_unstructured(
        [(nn.Linear(4, 3, bias=False), name) for name in ("weight", "bias")],
        p.L1Unstructured,
        amount=1,
    ),
    "`named_parameters()` as parameters": lambda p: p.global_unstructured(
        list(nn.Linear(4, 3).named_parameters()), p.L1Unstructured, amount=1
    ),
    "names as modules": lambda p: p.global_unstructured(
        [("0", "weight")], p.L1Unstructured, amount=1
    ),
    "`remove` of a pair": lambda p: p.remove((nn.Linear(4, 3), "weight"), "weight"),
    "`is_pruned` of a pair": lambda p: p.is_pruned((nn.Linear(4, 3), "weight")),
    "a weight of a pruned module that `torch.compile` wrapped": lambda p: p.l1_unstructured(
        torch.compile(p.l1_unstructured(nn.Linear(4, 3), "weight", 1), backend="eager"), "weight", 1
    ),
    "a weight of the module that `torch.compile` wrapped": lambda p: p.l1_unstructured(
        torch.compile(nn.Linear(4, 3), backend="eager"), "weight", 1
    ),
    "a count beyond 64 bits": lambda p: p.l1_unstructured(nn.Linear(4, 3), "weight", 2**70),
    "a number of channels beyond 64 bits": lambda p: p.ln_structured(
        nn.Linear(4, 3), "weight", 2**70, 2, 0
    ),
    "a count beyond 64 bits, globally": lambda p: p.global_unstructured(
        [(nn.Linear(4, 3), "weight")], p.L1Unstructured, amount=2**70
    ),
    "a module of `torch.jit.script`": lambda p: p.l1_unstructured(
        torch.jit.script(nn.Linear(4, 3)), "weight", 1
    ),
    "a module of `torch.jit.trace`": lambda p: p.l1_unstructured(
        torch.jit.trace(nn.Linear(4, 3), X), "weight", 1
    ),
    "scores of another shape": lambda p: p.l1_unstructured(
        nn.Linear(4, 3), "weight", 1, torch.ones(4, 3)
    ),
    "a mask of another shape": lambda p: p.custom_from_mask(
        nn.Linear(4, 3), "weight", torch.ones(4, 3)
    ),
    "a mask that is a list": lambda p: p.custom_from_mask(nn.Linear(4, 3), "weight", [1, 0]),
    "structured, of a bias": lambda p: p.ln_structured(nn.Linear(4, 3), "bias", 1, 2, 0),
    "a dim out of range": lambda p: p.ln_structured(nn.Linear(4, 3), "weight", 1, 2, 2),
    "a dim that is a float": lambda p: p.ln_structured(nn.Linear(4, 3), "weight", 1, 2, 0.0),
    "the computed weight of the old `spectral_norm`": lambda p: p.l1_unstructured(
        nn.utils.spectral_norm(nn.Linear(4, 3)), "weight", 1
    ),
    "global scores of another size": lambda p: p.global_unstructured(
        [(layer := nn.Linear(4, 3), "weight")],
        p.L1Unstructured,
        {(layer, "weight"): torch.ones(5)},
        amount=1,
    ),
    "`apply_mask` of a method that was not applied": lambda p: p.L1Unstructured(1).apply_mask(
        nn.Linear(4, 3)
    ),
    "`prune` of a list": lambda p: p.L1Unstructured(1).prune([1.0, 2.0]),
    "`prune` of a list, with scores": lambda p: p.L1Unstructured(1).prune(
        [1.0, 2.0], importance_scores=torch.ones(2)
    ),
    "`prune` of a number, with a mask": lambda p: p.CustomFromMask(torch.ones(4)).prune(
        3.0, default_mask=torch.ones(4)
    ),
    "an unknown norm": lambda p: p.ln_structured(nn.Linear(4, 3), "weight", 1, "l2", 0),
    "`remove` of what is not pruned": lambda p: p.remove(nn.Linear(4, 3), "weight"),
    "a structured method globally": lambda p: p.global_unstructured(
        [(nn.Linear(4, 3), "weight")], p.LnStructured, amount=1, n=2
    ),
    "global scores that are a list": lambda p: p.global_unstructured(
        [(nn.Linear(4, 3), "weight")], p.L1Unstructured, [1], amount=1
    ),
    "global parameters that are a number": lambda p: p.global_unstructured(
        3, p.L1Unstructured, amount=1
    ),
    "a missing amount": lambda p: p.l1_unstructured(nn.Linear(4, 3), "weight"),
    "the abstract base": lambda p: p.BasePruningMethod(),
}
for _title, _run in ERRORS.items():
    case("errors", _title)(_run)
