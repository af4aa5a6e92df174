"""Every module of torch.nn that holds a weight, and modules of users that know what they hold."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import _VF, Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from .make import X, linear, trained
from .registry import case

Make = Callable[[], nn.Module]

SEQUENCE = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(3))
IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(4))
VOLUME = torch.randn(2, 4, 5, 5, 5, generator=torch.Generator().manual_seed(5))
SIGNAL = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(6))
WORDS = torch.tensor([[1, 2, 4], [0, 2, 5]])

MODULES: dict[str, tuple[Make, tuple[Any, ...]]] = {
    "Linear": (lambda: nn.Linear(4, 3), (X,)),
    "Bilinear": (lambda: nn.Bilinear(4, 4, 3), (X, X)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3), (SIGNAL,)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), (IMAGE,)),
    "Conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (IMAGE,)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 3), (VOLUME,)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (SIGNAL,)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3), (IMAGE,)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 3), (VOLUME,)),
    "Embedding": (lambda: nn.Embedding(6, 4), (WORDS,)),
    "Embedding, padding and max_norm": (
        lambda: nn.Embedding(6, 4, padding_idx=0, max_norm=1.0),
        (WORDS,),
    ),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(6, 4), (WORDS,)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (SIGNAL,)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (IMAGE,)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(4), (VOLUME,)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True), (SIGNAL,)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), (IMAGE,)),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(4, affine=True), (VOLUME,)),
    "LayerNorm": (lambda: nn.LayerNorm(4), (X,)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (IMAGE,)),
    "RMSNorm": (lambda: nn.RMSNorm(4), (X,)),
    "PReLU": (lambda: nn.PReLU(4), (X,)),
    "RNN": (lambda: nn.RNN(4, 3), (SEQUENCE,)),
    "RNN, two layers, both directions": (
        lambda: nn.RNN(4, 3, num_layers=2, bidirectional=True),
        (SEQUENCE,),
    ),
    "LSTM": (lambda: nn.LSTM(4, 3), (SEQUENCE,)),
    "LSTM, projections": (lambda: nn.LSTM(4, 3, proj_size=2), (SEQUENCE,)),
    "GRU": (lambda: nn.GRU(4, 3), (SEQUENCE,)),
    "RNNCell": (lambda: nn.RNNCell(4, 3), (X,)),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3), (X,)),
    "GRUCell": (lambda: nn.GRUCell(4, 3), (X,)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2), (SEQUENCE,) * 3),
    "MultiheadAttention, other dims": (
        lambda: nn.MultiheadAttention(4, 2, kdim=4, vdim=4, bias=False),
        (SEQUENCE,) * 3,
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0),
        (SEQUENCE,),
    ),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0),
        (SEQUENCE, SEQUENCE),
    ),
    "AdaptiveLogSoftmaxWithLoss": (
        lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 12, [4, 8], div_value=2.0),
        (torch.ones(5, 16), torch.tensor([0, 1, 5, 9, 11])),
    ),
    "SyncBatchNorm, evaluating": (lambda: nn.SyncBatchNorm(4).eval(), (IMAGE,)),
    "LazyLinear, after its first forward": (lambda: _initialised(nn.LazyLinear(3), X), (X,)),
    "LazyConv2d, after its first forward": (
        lambda: _initialised(nn.LazyConv2d(6, 3), IMAGE),
        (IMAGE,),
    ),
    "ParameterList": (lambda: _Listed(nn.ParameterList([torch.randn(3, 4)]), 0), (X,)),
    "ParameterDict": (lambda: _Listed(nn.ParameterDict({"w": torch.randn(3, 4)}), "w"), (X,)),
    "CrossEntropyLoss": (lambda: nn.CrossEntropyLoss(torch.ones(3)), ()),
}


def _initialised(module: nn.Module, x: Tensor) -> nn.Module:
    module(x)
    return module


class _Listed(nn.Module):
    """Keeps its weight in a ParameterList or a ParameterDict."""

    def __init__(self, weights: Any, key: Any) -> None:
        super().__init__()
        self.weights = weights
        self.key = key

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x @ self.weights[self.key].t()
        return result


def of_module(make: Make, inputs: tuple[Any, ...]) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        module = make()
        results: list[Any] = []
        for step in range(2):
            for owner in list(module.modules()):
                names = [n.removesuffix("_orig") for n, _ in owner.named_parameters(recurse=False)]
                for name in names:
                    if getattr(owner, name).dim() > 1 and step:
                        prune.ln_structured(owner, name, 1, 2, 0)
                    else:
                        torch.manual_seed(9)
                        prune.random_unstructured(owner, name, 0.4)
            if inputs:
                results.append(trained(module, *inputs))
                module.zero_grad()
            results.append(_flat_weights(module))
        with torch.no_grad():
            results.append(module.eval()(*inputs)[0] if inputs else None)
        for owner in list(module.modules()):
            for name in [n for n, _ in owner.named_parameters(recurse=False) if "_orig" in n]:
                prune.remove(owner, name.removesuffix("_orig"))
        results.append(dict(module.state_dict()))
        return results

    return run


def _flat_weights(module: nn.Module) -> Any:
    """What an RNN computes with, and of which kind each is."""
    flat = getattr(module, "_flat_weights", [])
    return [(type(t).__name__, t.detach().clone()) for t in flat]


for _name, (_make, _inputs) in MODULES.items():
    case("modules of torch.nn", f"`{_name}`, every parameter, pruned twice and removed")(
        of_module(_make, _inputs)
    )


# ---- modules whose weights are read by others, and RNNs with their lists ----


def _pruned(prune: ModuleType, name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    make, inputs = MODULES[name]
    module = make()
    for owner in list(module.modules()):
        for weight, _ in list(owner.named_parameters(recurse=False)):
            prune.l1_unstructured(owner, weight, 0.4)
    return module, inputs


def _steps(module: nn.Module, inputs: tuple[Any, ...]) -> list[Any]:
    """Three training steps."""
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.5)
    results: list[Any] = []
    for _ in range(3):
        results.append(trained(module, *inputs))
        optimizer.step()
        optimizer.zero_grad()
    return results


def _removed(prune: ModuleType, module: nn.Module) -> nn.Module:
    for owner in list(module.modules()):
        for weight in [n for n, _ in owner.named_parameters(recurse=False)]:
            prune.remove(owner, weight.removesuffix("_orig"))
    return module


def _copied(prune: ModuleType, module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)


def _loaded(prune: ModuleType, module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    twin: nn.Module = torch.load(file, weights_only=False)
    return twin


def trained_around(
    between: Callable[[ModuleType, nn.Module], nn.Module],
) -> Callable[[str], Callable[[ModuleType], Any]]:
    """Training, what happens to the module, and training what came of it."""

    def of(name: str) -> Callable[[ModuleType], Any]:
        def run(prune: ModuleType) -> Any:
            module, inputs = _pruned(prune, name)
            results = _steps(module, inputs)
            twin = between(prune, module)
            return results, _steps(twin, inputs), _flat_weights(twin)

        return run

    return of


def moving(name: str) -> Callable[[ModuleType], Any]:
    def run(prune: ModuleType) -> Any:
        module, inputs = _pruned(prune, name)
        results = _steps(module, inputs)
        module.double()
        results += _steps(module, tuple(x.double() for x in inputs))
        results.append(_flat_weights(module))
        module.half()
        return results, module(*(x.half() for x in inputs)), _flat_weights(module)

    return run


_LIVES = {
    "trained, `remove`, trained": trained_around(_removed),
    "trained, deep-copied": trained_around(_copied),
    "trained, saved, loaded": trained_around(_loaded),
    "trained, `double`, trained, `half`": moving,
}
for _name in [
    "MultiheadAttention",
    "MultiheadAttention, other dims",
    "TransformerEncoderLayer",
    "TransformerDecoderLayer",
    "RNN, two layers, both directions",
    "LSTM",
    "LSTM, projections",
    "GRU",
]:
    for _life, _make_run in _LIVES.items():
        case("modules of torch.nn", f"`{_name}`: {_life}")(_make_run(_name))


# ---- modules that know what they hold ----


class FlatLSTM(nn.LSTM):
    """Computes with the list that nn.LSTM keeps, as torch.nn.quantizable and others do."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        zeros = torch.zeros(1, x.shape[1], self.hidden_size)
        out: Tensor = _VF.lstm(
            x, (zeros, zeros), self._flat_weights, True, 1, 0.0, False, False, False
        )[0]
        return out


@case("modules of users", "an LSTM subclass that reads `_flat_weights`")
def _(prune: ModuleType) -> Any:
    module = FlatLSTM(4, 3)
    for _ in range(2):
        prune.l1_unstructured(module, "weight_ih_l0", 0.5)
        prune.ln_structured(module, "weight_hh_l0", 1, 2, 0)
    module(SEQUENCE)
    return trained(module, SEQUENCE), _flat_weights(module)


class Caching(nn.Module):
    """Stores each attribute under a second name, too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            object.__setattr__(self, "cached", value)
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.cached.t()  # type: ignore[operator]


@case("modules of users", "a `__setattr__` that caches the weight")
def _(prune: ModuleType) -> Any:
    module = Caching()
    prune.l1_unstructured(module, "weight", 0.5)
    first = trained(module, X)
    prune.l1_unstructured(module, "weight", 2)
    return first, trained(module, X)


class Renaming(nn.Module):
    """Looks its tensors up under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if "asked" in self.__dict__:
            self.asked.append(name)
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()


@case("modules of users", "a `__getattr__`, which is asked in every forward")
def _(prune: ModuleType) -> Any:
    module = prune.l1_unstructured(Renaming(), "weight", 0.5)
    module.asked.clear()
    result = trained(module, X)
    return sorted(set(module.asked)), result


class Intercepting(nn.Linear):
    """Overrides how its weight is read."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return 2 * value if name == "weight" else value

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


class Doubling(nn.Linear):
    """Returns twice the original parameter."""

    def __getattribute__(self, name: str) -> Any:
        if name == "weight_orig":
            return 2 * self._parameters[name]
        return super().__getattribute__(name)


@case("modules of users", "a `__getattribute__`")
def _(prune: ModuleType) -> Any:
    return [
        trained(prune.l1_unstructured(kind(4, 3), "weight", 0.5), X)
        for kind in (Intercepting, Doubling)
    ]


class Registering(nn.Linear):
    """Records what is registered."""

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        self.__dict__.setdefault("noted", []).append(name)
        super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        self.__dict__.setdefault("noted", []).append(name)
        super().register_buffer(name, tensor, persistent)


@case("modules of users", "`register_parameter` and `register_buffer` overridden")
def _(prune: ModuleType) -> Any:
    module = prune.l1_unstructured(Registering(4, 3), "weight", 0.5)
    prune.l1_unstructured(module, "weight", 2)
    prune.remove(module, "weight")
    return module.noted, trained(module, X)


@case("modules of users", "global registration hooks of parameters and buffers")
def _(prune: ModuleType) -> Any:
    seen: list[str] = []
    note = lambda module, name, value: seen.append(name)  # noqa: E731
    handles = [
        nn.modules.module.register_module_parameter_registration_hook(note),
        nn.modules.module.register_module_buffer_registration_hook(note),
    ]
    try:
        linear(prune)
    finally:
        for handle in handles:
            handle.remove()
    return seen


# ---- parametrizations ----


@case("parametrizations", "pruned, `weight_norm` of `weight_orig`, pruned again")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    parametrizations.weight_norm(layer, "weight_orig")
    first = trained(layer, X)
    prune.l1_unstructured(layer, "weight", 2)
    prune.ln_structured(layer, "weight", 1, 2, 0)
    return first, trained(layer, X)


@case("parametrizations", "the same, global")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    parametrizations.weight_norm(layer, "weight_orig")
    prune.global_unstructured([(layer, "weight")], prune.L1Unstructured, amount=2)
    return trained(layer, X)


@case("parametrizations", "pruned, `spectral_norm` and `orthogonal` of `weight_orig`")
def _(prune: ModuleType) -> Any:
    results = []
    for parametrization in (parametrizations.spectral_norm, parametrizations.orthogonal):
        layer = linear(prune)
        torch.manual_seed(1)
        parametrization(layer, "weight_orig")
        results.append(trained(layer, X))
    return results


@case("parametrizations", "pruned, then removed from a parametrized original")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    parametrizations.weight_norm(layer, "weight_orig")
    return prune.remove(layer, "weight")


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


@case("parametrizations", "another parameter parametrized")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    parametrize.register_parametrization(layer, "bias", Doubled())
    prune.l1_unstructured(layer, "weight", 2)
    return trained(layer, X)


@case("parametrizations", "the original of a parametrization pruned")
def _(prune: ModuleType) -> Any:
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "weight", Doubled())
    prune.l1_unstructured(layer.parametrizations.weight, "original", 0.5)
    return trained(layer, X)


@case("parametrizations", "the parametrized weight itself pruned")
def _(prune: ModuleType) -> Any:
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "weight", Doubled())
    return prune.l1_unstructured(layer, "weight", 0.5)


@case("parametrizations", "the old `weight_norm` and `spectral_norm`, by hooks")
def _(prune: ModuleType) -> Any:
    a = torch.nn.utils.weight_norm(nn.Linear(4, 3))
    prune.l1_unstructured(a, "weight_v", 0.5)
    b = torch.nn.utils.spectral_norm(nn.Linear(4, 3))
    prune.l1_unstructured(b, "weight_orig", 0.5)
    return trained(a, X), trained(b, X)


@case("parametrizations", "copies of a pruned and parametrized module")
def _(prune: ModuleType) -> Any:
    layer = linear(prune)
    parametrizations.weight_norm(layer, "weight_orig")
    with torch.no_grad():
        layer(X)
    return copy.deepcopy(layer)(X)


class Proxy(nn.Module):
    """Shows the attributes of another module, its hooks, too."""

    def __init__(self, shown: nn.Module) -> None:
        super().__init__()
        self.__dict__["shown"] = shown
        del self.__dict__["_forward_pre_hooks"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["shown"], name)


class Walked:
    """Is no module, but has what `is_pruned` asks for."""

    __slots__ = ("_forward_pre_hooks",)

    def __init__(self, hooks: dict[int, Any]) -> None:
        self._forward_pre_hooks = hooks

    def named_modules(self) -> Any:
        return [("", self)]


@case("modules of users", "`is_pruned` of what is no ordinary module")
def _(prune: ModuleType) -> Any:
    layer = nn.Linear(4, 3)
    before = prune.is_pruned(Proxy(layer))
    prune.l1_unstructured(layer, "weight", 1)
    hooks = dict(layer._forward_pre_hooks)
    return before, prune.is_pruned(Proxy(layer)), [prune.is_pruned(Walked(h)) for h in ({}, hooks)]
