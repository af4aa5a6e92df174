"""The examples that run in some processes at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "prune_fsdp.py"


def run(processes: int, *arguments: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(EXAMPLE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trained_pruned_and_saved_by_four_loaded_by_two(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    said = run(4, "--checkpoint", str(folder), "--steps", "12", "--rounds", "2")
    assert "saved by 4" in said
    saved = json.loads((folder / "summary.json").read_text())
    assert abs(saved["sparsity"] - (1 - 0.75**2)) < 1e-4
    assert "loaded by 2" in run(2, "--checkpoint", str(folder), "--load")
