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


def test_the_docs_have_its_table(model: ModuleType) -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    for case in model.CASES:
        floor = model.floor(case)
        before, now = (
            sum(model.phases(case, code).values()) / floor for code in (model.BEFORE, model.NOW)
        )
        row = f"| {case.name} | {floor * 1e6:.0f} | {before:.2f} | {now:.2f} |"
        assert row in design


def test_the_goals_are_reached_on_paper(model: ModuleType) -> None:
    times = {
        case.name: sum(model.phases(case, model.NOW).values()) / model.floor(case)
        for case in model.CASES
    }
    assert times["2^26 fp32, first"] <= 1.4
    assert times["226 tensors, 1B fp32, first"] <= 1.4
    assert times["2^26 bf16, first"] <= 1.8
