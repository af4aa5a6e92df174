"""Modules whose parameters get a shape in their first forward: LazyLinear and its like."""

from __future__ import annotations

from typing import Any

from torch import nn


def no_shape(
    t: Any, module: nn.Module, name: str, error: type[Exception] = ValueError
) -> Exception:
    """The error for a lazy parameter; by default of the type that torch raises for most calls."""
    return error(
        f"expected {name} of {module} to have a shape, got an {type(t).__name__}: "
        "run a forward of the model before pruning"
    )
