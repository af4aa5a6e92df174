"""Modules whose dicts of parameters, buffers or hooks are of another class, as DeepSpeed's are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune


class Owned(OrderedDict[str, Any]):
    """Takes an argument, as that of DeepSpeed's ZeRO stage 3."""

    def __init__(self, owner: nn.Module, *args: Any) -> None:
        super().__init__(*args)
        self.owner = owner


class Forgetful(Owned):
    """Whose copies are empty."""

    def copy(self) -> Any:
        return type(self)(self.owner)


class Fetching(Owned):
    """Has the values of parameters elsewhere until they are asked for."""

    elsewhere: dict[int, Tensor]

    def put_away(self) -> None:
        self.elsewhere = {}
        for parameter in self.values():
            self.elsewhere[id(parameter)] = parameter.data
            parameter.data = torch.full_like(parameter, torch.nan)

    def __getitem__(self, key: str) -> Any:
        parameter = super().__getitem__(key)
        if id(parameter) in getattr(self, "elsewhere", {}):
            parameter.data = self.elsewhere.pop(id(parameter))
        return parameter


class Doubling(Owned):
    """Computes what it is asked for."""

    def __getitem__(self, key: str) -> Any:
        return nn.Parameter(super().__getitem__(key).detach() * 2)


HOLDERS = ["_parameters", "_buffers", "_forward_pre_hooks"]
WAYS: dict[str, Callable[[ModuleType, nn.Module], Any]] = {
    "local": lambda p, m: p.l1_unstructured(m, "weight", 0.5),
    "again": lambda p, m: p.l1_unstructured(p.random_unstructured(m, "weight", 3), "weight", 4),
    "structured": lambda p, m: p.ln_structured(m, "weight", 0.5, 2, 0),
    "global": lambda p, m: p.global_unstructured(
        [(m, "weight"), (m, "bias")], p.L1Unstructured, amount=0.5
    ),
    "removed": lambda p, m: p.remove(p.l1_unstructured(m, "weight", 0.5), "weight"),
}


def layer(kind: type[Owned], holder: str) -> nn.Linear:
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    setattr(module, holder, kind(module, getattr(module, holder)))
    return module


def outcome(module: nn.Module) -> Iterator[Any]:
    yield module(torch.ones(2, 4)).detach()
    yield list(module.state_dict())
    yield from module.state_dict().values()


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for x, y in zip(outcome(a), outcome(b), strict=True):
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == y


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("kind", [Owned, Forgetful])
def test_every_holder(kind: type[Owned], holder: str, way: str) -> None:
    modules = []
    for library in (upstream, prune):
        module = layer(kind, holder)
        torch.manual_seed(1)
        WAYS[way](library, module)
        assert type(getattr(module, holder)) is kind
        modules.append(module)
    assert_same(*modules)


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("kind", [Owned, Forgetful])
def test_failures_leave_everything(kind: type[Owned], holder: str) -> None:
    module = layer(kind, holder)
    prune.l1_unstructured(module, "weight", 0.5)
    inside = getattr(module, holder)
    before = list(OrderedDict.items(inside))
    for name in ("weight", "bias"):  # which is renamed by then, if it was not before
        with pytest.raises(AssertionError, match="must match"):
            prune.custom_from_mask(module, name, torch.ones(7))
    assert getattr(module, holder) is inside
    for old, new in zip(before, OrderedDict.items(inside), strict=True):
        assert old[0] == new[0] and old[1] is new[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Fetching, Doubling])
def test_what_a_dict_gives_is_what_counts(kind: type[Owned], way: str) -> None:
    modules = []
    for library in (upstream, prune):
        module = layer(kind, "_parameters")
        if isinstance(module._parameters, Fetching):
            module._parameters.put_away()
        torch.manual_seed(1)
        WAYS[way](library, module)
        modules.append(module)
    assert_same(*modules)


@pytest.mark.parametrize("kind", [Fetching, Doubling])
def test_forwards(kind: type[Owned]) -> None:
    modules = []
    for library in (upstream, prune):
        torch.manual_seed(0)
        module = library.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
        module._parameters = kind(module, module._parameters)
        if isinstance(module._parameters, Fetching):
            module._parameters.put_away()
        modules.append(module)
    assert_same(*modules)
    assert modules[0].weight.abs().sum() > 0


class KeepsBuffers(nn.Linear):
    """Has its buffers as plain attributes."""

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        object.__setattr__(self, name, tensor)


@pytest.mark.parametrize("method", ["identity", "l1_unstructured", "custom_from_mask"])
def test_a_module_that_keeps_buffers_elsewhere(method: str) -> None:
    arguments: dict[str, Any] = {"l1_unstructured": [0.5], "custom_from_mask": [torch.eye(3, 4)]}
    results = []
    for library in (upstream, prune):
        torch.manual_seed(0)
        module = KeepsBuffers(4, 3)
        for _ in range(2):
            getattr(library, method)(module, "weight", *arguments.get(method, []))
        results.append([module(torch.ones(2, 4)), module.weight_mask, list(module.state_dict())])
    for theirs, ours in zip(*results, strict=True):
        assert torch.equal(ours, theirs) if isinstance(theirs, Tensor) else ours == theirs
