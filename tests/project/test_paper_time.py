"""The arithmetic of docs/design.md about the CUDA kernels is that of scripts/paper_time.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_time", ROOT / "scripts" / "paper_time.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_docs_have_the_kernels_of_groups(model: ModuleType) -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for kernel in model.KERNELS:
        assert f"| {' | '.join(model.kernel_row(kernel))} |" in design
    text = " ".join(design.split())
    usual, small = model.block_launches(4096 * 4096 // 16), model.block_launches(4096 * 4096 // 4)
    assert f"It is {usual} launches at 16 x 16 and 4 x 4, and {small} at 1 x 4" in text
    assert model.block_launches(4096 * 4096 // 256) == usual
    norms, write = (
        next(kernel for kernel in model.KERNELS if kernel.name == f"block_{name}, 4 x 4, fp32")
        for name in ("norms", "prune")
    )
    assert f"these two launches move {norms.moved + write.moved:.1f} bytes an entry" in text


def test_nm_is_at_its_bytes_on_paper(model: ModuleType) -> None:
    for kernel in model.KERNELS:
        if kernel.name.startswith("nm_"):
            assert kernel.seconds <= 1.2 * kernel.floor, kernel.name
