"""A pytest plugin: tests that use torch.nn.utils.prune get fastprune, in the way MODE says.

    upstream         not at all, for comparison
    name replaced    torch.nn.utils.prune is fastprune, before anything imports it
    patched before   fastprune.patch(), before the client is imported
    patched after    fastprune.patch(), when the client and its tests are imported

Loaded by ``-p``, that is before any conftest.py.
"""

from __future__ import annotations

import os
import sys

import pytest
import torch
import torch.nn.utils.prune as upstream

MODES = ("upstream", "name replaced", "patched before", "patched after")
MODE = os.environ["FASTPRUNE_CLIENT_MODE"]
if MODE not in MODES:
    raise ValueError(f"expected FASTPRUNE_CLIENT_MODE to be one of {MODES}, got {MODE!r}")

_GLOBAL = upstream.global_unstructured

if MODE == "name replaced":
    import fastprune

    torch.nn.utils.prune = sys.modules["torch.nn.utils.prune"] = fastprune
elif MODE == "patched before":
    import fastprune

    fastprune.patch()


def pytest_collection_finish() -> None:
    if MODE == "patched after":
        import fastprune

        fastprune.patch()


@pytest.fixture(autouse=True)
def _as_mode_says() -> None:
    """Fails a test for which the mode is not in effect any more."""
    found = "upstream"
    if sys.modules["torch.nn.utils.prune"] is not upstream:
        assert torch.nn.utils.prune is sys.modules["torch.nn.utils.prune"]
        found = "name replaced"
    elif upstream.global_unstructured is not _GLOBAL:
        found = "patched"
    assert MODE.startswith(found), f"expected {MODE}, found {found}"
