"""`make clients`: what it makes of a client's tests, here of a small one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).resolve().parents[1] / "clients" / "run.py"
#: The second fails in each mode; the third where something is replaced before it is imported.
CLIENT = """
import pytest, torch
import torch.nn.utils.prune as prune

EARLY = prune.global_unstructured
WEIGHT = torch.nn.Linear(4, 3)

def test_passes():
    assert prune.l1_unstructured(WEIGHT, "weight", 6).weight_mask.sum() == 6

def test_needs_upstreams_method():
    assert prune.BasePruningMethod.prune.__module__ == "torch.nn.utils.prune"

def test_needs_upstreams_function():
    assert EARLY.__code__.co_filename.endswith("prune.py")

@pytest.mark.skip
def test_skipped(): ...

def test_fails_anyway():
    assert False
"""


def run(*options: str) -> tuple[int, str]:
    command = [sys.executable, str(RUN), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_each_mode(tmp_path: Path) -> None:
    (tmp_path / "test" / "nn").mkdir(parents=True)
    (tmp_path / "test" / "nn" / "test_pruning.py").write_text(CLIENT)
    status, out = run("--pytorch", str(tmp_path), "--logs", str(tmp_path / "logs"))
    assert status == 1, out
    assert "lightning: no checkout given (LIGHTNING=PATH)" in out
    (row,) = (line for line in out.splitlines() if line.startswith("pytorch   "))
    assert row.split("  ")[0] == "pytorch"
    figures = [part.strip() for part in row.removeprefix("pytorch").split("  ") if part.strip()]
    assert figures == ["3 / 1 / 1", "1 / 3 / 1", "1 / 3 / 1", "2 / 2 / 1"], out
    failed = [line.rpartition(".")[2] for line in out.splitlines() if line.startswith("pytorch, ")]
    assert failed == [
        *["test_needs_upstreams_function", "test_needs_upstreams_method"] * 2,
        "test_needs_upstreams_method",
    ]
    assert "test_fails_anyway fails with upstream" in out


def test_nothing_to_run() -> None:
    status, out = run()
    assert status == 1
    assert "nothing ran" in out


def test_a_checkout_without_the_tests(tmp_path: Path) -> None:
    status, out = run("--lightning", str(tmp_path))
    assert status == 1
    assert "test_pruning.py is missing" in out
