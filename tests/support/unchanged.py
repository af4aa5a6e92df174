"""Checks that a module did not change."""

import copy
from typing import Any

import torch
from torch import nn


def snapshot(module: nn.Module) -> dict[str, Any]:
    """All state that pruning touches: tensors, hooks in order, attributes."""
    hooks = list(module._forward_pre_hooks.items())
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "state": {key: value.clone() for key, value in module.state_dict().items()},
        "ids": {key: id(value) for key, value in tensors.items()},
        "hooks": [(key, id(hook)) for key, hook in hooks],
        "insides": [{k: _kept(v) for k, v in vars(hook).items()} for _, hook in hooks],
        "attributes": {key: id(value) for key, value in vars(module).items()},
    }


def _kept(value: Any) -> Any:
    """What an attribute of a hook is compared by."""
    if isinstance(value, torch.Tensor):
        return id(value)
    return copy.copy(value) if isinstance(value, (list, tuple, dict, set)) else value


def assert_unchanged(module: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(module)
    for key in ("ids", "hooks", "insides", "attributes"):
        assert after[key] == before[key], key
    assert list(after["state"]) == list(before["state"])
    for key, value in before["state"].items():
        assert torch.equal(after["state"][key], value), key
