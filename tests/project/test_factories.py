"""torch.set_default_device moves what a factory makes, unless the call says where."""

from __future__ import annotations

import ast
from pathlib import Path

from torch.utils._device import _device_constructors

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "fastprune"
FACTORIES = {function.__name__ for function in _device_constructors()}
#: Upstream draws the numbers of random_structured on the default device.
AS_UPSTREAM = {"scores.py": 3}


def without_device(source: str) -> list[int]:
    """The lines of calls of torch's factories that name no device."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "torch"
        and call.func.attr in FACTORIES
        and all(keyword.arg != "device" for keyword in call.keywords)
    ]


def test_they_are_found() -> None:
    assert {"tensor", "zeros", "rand", "arange"} <= FACTORIES
    assert without_device("torch.zeros(2)\ntorch.zeros(2, device=d)\ntorch.ones_like(t)") == [1]


def test_every_factory_names_its_device() -> None:
    found = {
        path.name: lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := without_device(path.read_text()))
    }
    assert {name: len(lines) for name, lines in found.items()} == AS_UPSTREAM, found
