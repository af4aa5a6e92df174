"""CONTRIBUTING.md's recipes, each followed in a temporary copy."""

from __future__ import annotations

import filecmp
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fastprune

ROOT = Path(__file__).resolve().parents[2]


def section(title: str) -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"CONTRIBUTING.md has no section {title!r}"
    return found[1]


def code(text: str, language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(block)


def changed(before: Path, after: Path) -> list[str]:
    """The files that differ between two folders, or are in one of them alone."""
    here, there = (
        {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
        for root in (before, after)
    )
    names = {name for name in here | there if "__pycache__" not in name}
    both = here & there
    return sorted(
        name
        for name in names
        if name not in both or not filecmp.cmp(before / name, after / name, shallow=False)
    )


USE = """
import torch
from torch import nn

import fastprune as prune

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
net(torch.randn(5, 8)).square().sum().backward()
scores = [(m.weight * m.weight.grad).abs().detach().flatten() for m in net]

def lowest(scores, count):
    return torch.ones(len(scores)).index_fill(0, scores.argsort(stable=True)[:count], 0)

alone = nn.Linear(8, 16)
alone.load_state_dict(net[0].state_dict())
alone.weight.grad = net[0].weight.grad
prune.Taylor.apply(alone, "weight", 0.25)
assert torch.equal(alone.weight_mask.flatten(), lowest(scores[0], 32))
prune.Taylor.apply(alone, "weight", 10)
assert torch.equal(alone.weight_mask.flatten(), lowest(scores[0], 42))
prune.global_unstructured([(m, "weight") for m in net], prune.Taylor, amount=50)
masks = torch.cat([m.weight_mask.flatten() for m in net])
assert torch.equal(masks, lowest(torch.cat(scores), 50))
assert "Taylor" in prune.__all__
"""


def test_adding_a_method(tmp_path: Path) -> None:
    package = Path(fastprune.__file__).parent
    copy = tmp_path / "fastprune"
    shutil.copytree(package, copy)
    with (copy / "methods.py").open("a") as methods:
        methods.write("\n\n" + code(section("Adding a method"), "python"))
    assert changed(package, copy) == ["methods.py"]
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
