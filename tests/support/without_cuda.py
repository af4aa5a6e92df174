"""Leaves out the tests on CUDA where there is none, as to skip thousands takes half a minute.

A test is on CUDA if it takes the parameter "cuda" of the fixture `device` or `target`.
"""

from __future__ import annotations

import pytest
import torch

import fastprune

_FIXTURES = ("device", "target")


def why_no_cuda() -> str | None:
    """Why nothing can be tested on CUDA; None if it can."""
    if not fastprune._C.build_info()["cuda"]:
        return "fastprune was built without CUDA"
    return None if torch.cuda.is_available() else "there is no CUDA device"


def _is_on_cuda(item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    named = ",".join(str(mark.args[0]) for mark in item.iter_markers("parametrize") if mark.args)
    return any(params.get(name) == "cuda" and name not in named for name in _FIXTURES)


@pytest.hookimpl(trylast=True)  # of the tests that -k and the like have chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = why_no_cuda()
    on_cuda = [item for item in items if _is_on_cuda(item)] if why else []
    if on_cuda:  # one of them stays, is skipped and tells of all
        others = f", and so are {len(on_cuda) - 1} others" if len(on_cuda) > 1 else ""
        on_cuda[0].add_marker(pytest.mark.skip(reason=f"a test on CUDA: {why}{others}"))
        left_out = set(on_cuda[1:])
        # Not by pytest_deselected: it is the whole suite still, see cuda_on_host/every_kernel.py.
        items[:] = [item for item in items if item not in left_out]
