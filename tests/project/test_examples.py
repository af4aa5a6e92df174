"""The examples that need no pretrained weights, or make do with a small model of random ones."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXAMPLE = EXAMPLES / "prune_fsdp.py"


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


class TinyEncoder(nn.Module):
    """Takes the place of the pretrained encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(256, 16)
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def encode(self, sentences: Sequence[str], **kwargs: Any) -> Tensor:
        with torch.no_grad():
            letters = [self.letters(torch.tensor([*s.encode()])).unsqueeze(0) for s in sentences]
            means = torch.cat([self.layers(x).mean(dim=1) for x in letters])
            return nn.functional.normalize(means, dim=1)


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of ``prune_methods.py``, with the small encoder."""
    pytest.importorskip("rich")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("prune_methods")
    torch.manual_seed(0)
    monkeypatch.setattr(module, "load_model", TinyEncoder)
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


QUICK = ("--repeats", "1", "--threads", "1")


def test_methods_prune_as_others_do(methods: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert methods.main(QUICK) == 0
    said = capsys.readouterr().out
    assert "10 sentences to calibrate on, 30 others" in said
    assert len(re.findall(r"x +equal", said)) == 7
    assert "pruned the same entries." in said


def test_picture_of_methods(methods: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    peers = {"one": methods.PeerResult([0.2, 0.3], 0), "two": methods.PeerResult([0.5, 0.4], 1)}
    results = [methods.Result(name, 0.1, 0.8, 0.7, [0.01, 0.02], peers) for name in ("a", "b")]
    for name in ("picture.svg", "picture.png"):
        methods.draw(results, 30, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_picture_of_methods_without_matplotlib(
    methods: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert methods.main((*QUICK, "--picture", str(tmp_path / "picture.svg"))) == 1
    assert "matplotlib is not installed: pip install" in capsys.readouterr().err


def test_way_that_prunes_other_entries_is_told(
    methods: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def first_half(layer: nn.Linear, norms: Tensor) -> None:
        layer.weight.detach()[:, : layer.in_features // 2] = 0

    wrong = dataclasses.replace(methods.METHODS[1], peers={"wrong": first_half})
    monkeypatch.setattr(methods, "METHODS", (wrong,))
    assert methods.main(QUICK) == 1
    assert "50% Wanda, layers.0: masks differ" in capsys.readouterr().err


def test_ties_of_methods_are_counted(methods: Any) -> None:
    method = methods.METHODS[2]
    dense, ours, theirs = ({"layer": nn.Linear(4, 1)} for _ in range(3))
    for layers, weight in ((dense, [1, 2, 2, 3]), (ours, [0, 0, 2, 3]), (theirs, [0, 2, 0, 3])):
        layers["layer"].weight.data = torch.tensor([weight], dtype=torch.float32)
    assert methods.count_differing(method, dense, ours, theirs, {}) == 2


def test_order_of_neighbours(methods: Any) -> None:
    def at(*angles: float) -> Tensor:
        return torch.stack([torch.tensor(angles).cos(), torch.tensor(angles).sin()], dim=1)

    before, after = at(0, 0.1, 0.5), at(0, 0.5, 0.6)  # the second has another neighbour now
    assert methods.rank_correlation(before, before) == pytest.approx(1)
    assert methods.rank_correlation(before, after) == pytest.approx(1 / 3)
    many = at(0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.1)
    assert methods.neighbours_kept(many, many) == 1
    moved = at(0, 0.1, 0.3, 0.6, 1.0, 1.5, -0.2)  # of all but the last one of five is another
    assert 0.7 < methods.neighbours_kept(many, moved) < 1
