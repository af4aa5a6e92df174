"""The targets of the operator tests: a set of operators, and the device of their tensors.

The usual target is ``fastprune.ops`` on "cpu" or "cuda". Another one, such as the CUDA kernels
compiled for the host and run on CPU tensors, has the same operators under another namespace:
``Target("cuda_on_host", "cpu", NamespaceOps("fastprune_host"), max_numel=5000)``.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import fastprune
from fastprune.ops.arguments import as_scalars


class Hooks:
    """Forces selections onto their rare paths, and counts those that took them."""

    def __init__(self, native: Any, prefix: str) -> None:
        self._native = native
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, self._prefix + name)

    def reset(self) -> None:
        self.force_fallback(False)  # resets force_fallback_from_above, too
        self.force_overflow(False)
        self.watch_fallbacks(False)


@dataclass(frozen=True)
class Target:
    """A target. ``ops`` has the names and signatures of ``fastprune.ops``."""

    name: str
    device: str
    ops: Any
    max_numel: int = 1 << 62
    differentiable: bool = True
    hooks: Any = None

    def needs(self, numel: int) -> None:
        """Skip the test if this target is too slow for so many elements."""
        if numel > self.max_numel:
            pytest.skip(f"{self.name} takes at most {self.max_numel} elements, this is {numel}")

    def needs_autograd(self) -> None:
        """Skip the test if this target has no gradients."""
        if not self.differentiable:
            pytest.skip(f"{self.name} has no gradients: they are the same code for all devices")


class NamespaceOps:
    """The operators of ``torch.ops.<namespace>`` with the signatures of ``fastprune.ops``.

    Each is made from two sources: the wrapper of its name in ``fastprune.ops`` says how it is
    called, its schema what is passed on. A new operator needs nothing here.
    """

    def __init__(self, namespace: str) -> None:
        self._native: Any = getattr(torch.ops, namespace)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = _as_in_fastprune(name, getattr(self._native, name).default)
        setattr(self, name, call)
        return call


def _as_in_fastprune(name: str, op: torch._ops.OpOverload) -> Callable[..., Any]:
    """Call ``op`` as ``fastprune.ops.<name>`` is called."""
    signature = inspect.signature(getattr(fastprune.ops, name))
    arguments = op._schema.arguments
    if (expected := [a.name for a in arguments]) != (actual := list(signature.parameters)):
        raise TypeError(f"fastprune.ops.{name} takes {actual}, its schema {expected}")
    floats = [a.name for a in arguments if str(a.type) == "float"]
    scalars = [a.name for a in arguments if str(a.type) == "List[number]"]
    written = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        values.update({key: float(values[key]) for key in floats})
        values.update({key: as_scalars(name, values[key], values["scores"]) for key in scalars})
        result = op(*values.values())
        return result if op._schema.returns else values[written[0]]

    return call
