"""The command line: facts and self-test, and pruning of safetensors files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor, nn

import fastprune as prune
from fastprune.cli import job, main, output, selftest

safetensors = pytest.importorskip("safetensors")
from safetensors.torch import load_file, save_file  # noqa: E402


def tensors() -> dict[str, Tensor]:
    """Of several dtypes, with ties, NaN, an infinity, zeros and what cannot be pruned."""
    torch.manual_seed(1)
    found = {
        "a.weight": torch.randn(40, 24),
        "b.weight": torch.randn(17, 31).to(torch.bfloat16),
        "c.weight": torch.randn(9, 8, 3, 3).mul(4).round().div(4),
        "c.bias": torch.randn(9),
        "d.weight": torch.randn(12, 16).to(torch.float16),
        "e.weight": torch.randn(6, 20, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "ids": torch.arange(12).view(3, 4),
        "scale": torch.tensor(2.0),
    }
    found["a.weight"][0, 0] = torch.nan
    found["b.weight"][2, 3] = -torch.inf
    found["c.weight"][1] = 0
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path, {"made": "by hand"})
    return path


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors take the paths of large ones."""
    monkeypatch.setattr(job, "PIECE", 200)
    monkeypatch.setattr(job, "WHOLE", 300)


def in_file_order(path: Path) -> dict[str, Tensor]:
    """All tensors, in the order of their data."""
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    header.pop("__metadata__", None)
    loaded = load_file(path)
    return {n: loaded[n] for n in sorted(header, key=lambda n: header[n]["data_offsets"])}


def is_chosen(t: Tensor) -> bool:
    return t.is_floating_point() and t.dim() > 1


def bits(t: Tensor) -> bytes:
    """Signs of zeros count, those of NaN do not."""
    t = torch.where(t.isnan(), torch.nan, t) if t.is_floating_point() else t
    return t.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""


def as_modules(ts: dict[str, Tensor]) -> list[tuple[nn.Module, str]]:
    made: list[tuple[nn.Module, str]] = []
    for t in ts.values():
        module = nn.Module()
        module.weight = nn.Parameter(t.clone())
        made.append((module, "weight"))
    return made


def run(model: Path, *options: str) -> dict[str, Tensor]:
    """What is in the output; what no method touches was checked."""
    out = model.with_name("out.safetensors")
    assert main(["prune", str(model), str(out), "--quiet", *options]) == 0
    before, after = model.read_bytes(), out.read_bytes()
    length = 8 + int.from_bytes(before[:8], "little")
    assert after[:length] == before[:length] and len(after) == len(before)
    loaded = load_file(out)
    for name, t in tensors().items():
        assert loaded[name].dtype == t.dtype and loaded[name].shape == t.shape
        if not is_chosen(t):
            assert bits(loaded[name]) == bits(t)
    return loaded


def check(loaded: dict[str, Tensor], ts: dict[str, Tensor], modules: Sequence[Any]) -> None:
    for name, (module, _) in zip(ts, modules, strict=True):
        prune.remove(module, "weight")
        assert bits(loaded[name]) == bits(module.weight.detach()), name


@pytest.mark.parametrize("amount", ["0.5", "0.0", "1.0", "0.93"])
@pytest.mark.parametrize("pieces", ["large", "small"])
def test_global(
    model: Path, amount: str, pieces: str, request: pytest.FixtureRequest
) -> None:
    if pieces == "small":
        request.getfixturevalue("small_pieces")
    ts = {n: t for n, t in in_file_order(model).items() if is_chosen(t)}
    modules = as_modules(ts)
    prune.global_unstructured(modules, prune.L1Unstructured, amount=float(amount))
    check(run(model, "--sparsity", amount, "--scope", "global"), ts, modules)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_global_of_one_dtype_as_upstream(
    tmp_path: Path, dtype: torch.dtype, small_pieces: None
) -> None:
    path = tmp_path / "model.safetensors"
    permuted = torch.randperm(60 * 7).view(60, 7)  # no ties in 16 bits: upstream leaves them open
    save_file({"a": (permuted[:40] - 200.5).to(dtype), "b": (permuted[40:] + 1).to(dtype)}, path)
    ts = in_file_order(path)
    if dtype == torch.bfloat16:
        ts = {n: t.div(1) for n, t in ts.items()}
    modules = as_modules(ts)
    kind = prune.L1Unstructured if dtype in (torch.bfloat16, torch.float16) else None
    with_what = upstream if kind is None else prune
    with_what.global_unstructured(modules, kind or upstream.L1Unstructured, amount=0.6)
    out = tmp_path / "out"
    assert main(["prune", str(path), str(out), "--sparsity", "0.6", "--scope=global", "--quiet"]) == 0
    check(load_file(out), ts, modules)


@pytest.mark.parametrize("pieces", ["large", "small"])
@pytest.mark.parametrize(
    ("options", "apply"),
    [
        (["--sparsity", "0.7"], lambda m: prune.l1_unstructured(m, "weight", 0.7)),
        (["--method=row", "--sparsity=0.5"], lambda m: prune.row_unstructured(m, "weight", 0.5)),
        (["--method=row", "--amount=4"], lambda m: prune.row_unstructured(m, "weight", 4)),
        (["--method=nm"], lambda m: prune.nm_structured(m, "weight", 2, 4)),
        (["--method=nm", "--nm=1:8"], lambda m: prune.nm_structured(m, "weight", 1, 8)),
        (["--method=nm", "--sparsity=.5"], lambda m: prune.nm_structured(m, "weight", 2, 4)),
        (["--method=block", "--sparsity=0.5"], lambda m: prune.block_structured(m, "weight", 0.5)),
        (
            ["--method=block", "--block=3x2", "--sparsity=0.4"],
            lambda m: prune.block_structured(m, "weight", 0.4, block=(3, 2)),
        ),
    ],
)
def test_local(
    model: Path, options: list[str], apply: Any, pieces: str, request: pytest.FixtureRequest
) -> None:
    if pieces == "small":
        request.getfixturevalue("small_pieces")
    ts = {n: t for n, t in tensors().items() if is_chosen(t) and t.numel()}
    modules = as_modules(ts)
    for module, _ in modules:
        apply(module)
    check(run(model, *options, "--exclude", "^empty$"), ts, modules)
