"""Every public name says what it takes, gives and raises, and where it comes from."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import fastprune as prune

PUBLIC: dict[str, Any] = {
    **{name: getattr(prune, name) for name in prune.__all__ if name != "ops"},
    **{f"ops.{name}": getattr(prune.ops, name) for name in prune.ops.__all__},
}
OURS = {name: thing for name, thing in PUBLIC.items() if thing.__module__.startswith("fastprune")}


def parameters(thing: Any) -> list[str]:
    """The arguments of a function, or of a class's constructor."""
    if inspect.isclass(thing) and not any("__init__" in vars(base) for base in thing.__mro__[:-1]):
        return []
    found = inspect.signature(thing).parameters.values()
    return [p.name for p in found if p.kind is not p.VAR_POSITIONAL]


@pytest.mark.parametrize("name", OURS)
def test_docstring_is_complete(name: str) -> None:
    thing = OURS[name]
    doc = inspect.getdoc(thing) or ""
    for parameter in parameters(thing):
        assert re.search(rf"^ +{parameter}: ", doc, re.MULTILINE), f"{parameter} is not described"
    if parameters(thing):
        assert "Raises:" in doc
    if inspect.isfunction(thing) and inspect.signature(thing).return_annotation != "None":
        assert "Returns:" in doc
    derived = r":(func|class):`~?(fastprune\.)?(masked_mul|Unstructured)"
    assert re.search(rf":(func|class|meth):`~?(torch|numpy)\.|et al\.|{derived}", doc), "no source"


def test_nothing_public_is_left_out() -> None:
    assert set(PUBLIC) == set(OURS)


def test_module_docstrings() -> None:
    for thing in (prune, prune.ops):
        assert inspect.getdoc(thing)
