"""The examples in docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from typing import Any

import pytest
import torch
from torch import nn

import fastprune

PUBLIC: dict[str, Any] = {
    **{name: getattr(fastprune, name) for name in fastprune.__all__ if name != "ops"},
    **{f"ops.{name}": getattr(fastprune.ops, name) for name in fastprune.ops.__all__},
}
MODULES = [
    "fastprune",
    *(module.name for module in pkgutil.walk_packages(fastprune.__path__, "fastprune.")),
]


def examples() -> dict[str, doctest.DocTest]:
    """By name, all docstrings with an example in them."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found: dict[str, doctest.DocTest] = {}
    for name in MODULES:
        if name.endswith(("._C", ".__main__")):
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # of a package that is not installed
            continue
        for test in finder.find(module, name, module=module):
            if test.examples:
                found[test.name] = test
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str) -> None:
    torch.manual_seed(0)
    test = EXAMPLES[name]
    # What the reference says every example starts from, and nothing else.
    test.globs = {
        "torch": torch,
        "nn": nn,
        "prune": fastprune,
        "fastprune": fastprune,
        "ops": fastprune.ops,
    }
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    try:
        failed = runner.run(test, out=said.append).failed
    finally:
        fastprune.unpatch()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert not failed, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(PUBLIC[name]) or "")


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_is_one_that_runs(name: str) -> None:
    thing = PUBLIC[name]
    assert f"{thing.__module__}.{thing.__qualname__}" in EXAMPLES
