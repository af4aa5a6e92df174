"""Pruned modules that torch.ao.quantization has converted."""

from __future__ import annotations

from torch import nn


def is_converted(module: nn.Module, name: str) -> bool:
    """Whether the module was made from one whose ``name`` was pruned.

    A converted module gets the forward pre-hooks of the one it was made from. It has neither the
    original nor a mask: its weight is that one's pruned weight, quantized, and stays as it is.
    """
    if not (hasattr(type(module), "from_float") or hasattr(type(module), "from_observed")):
        return False
    return not (hasattr(module, name + "_orig") or hasattr(module, name + "_mask"))
