"""The times of kernels in the benchmarks, of events as torch's profiler has them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("harness.kernels")


def event(name: str, start: float, end: float, device: DeviceType = DeviceType.CUDA) -> Any:
    between = SimpleNamespace(start=start, elapsed_us=lambda: end - start)
    return SimpleNamespace(name=name, device_type=device, time_range=between)


def test_by_kernel(kernels: ModuleType) -> None:
    sweep = "void fastprune::cuda::topk_sweep_kernel<fastprune::Scores<Fp32> >(TensorList, bool)"
    events = [
        event(sweep, 30, 40),
        event("Memset (Device)", 10, 12),
        event("cudaLaunchKernel", 0, 90, DeviceType.CPU),
        event(sweep, 50, 56),
    ]
    times = kernels.by_kernel(events, 2)
    assert list(times) == ["Memset", "topk_sweep_kernel"]
    assert times == pytest.approx({"Memset": 1e-6, "topk_sweep_kernel": 8e-6})


def test_of_the_profilers_own_events(kernels: ModuleType) -> None:
    """They have what `by_kernel` reads; those of a CPU are no kernels."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.ones(3).add(1)
    found = list(profiler.events())
    assert found
    assert kernels.by_kernel(found, 1) == {}
    assert all(e.time_range.elapsed_us() >= 0 and e.time_range.start >= 0 for e in found)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void at::native::(anonymous namespace)::fill<int, 4>(int*)", "fill"),
        ("fastprune::cuda::store_items(Items, TensorItem*)", "store_items"),
        ("Memcpy DtoH (Device -> Pinned)", "Memcpy DtoH"),
    ],
)
def test_short_names(kernels: ModuleType, name: str, short: str) -> None:
    assert kernels.short_name(name) == short


def test_in_the_result_file_and_a_table(kernels: ModuleType, tmp_path: Path) -> None:
    records, tables = import_module("harness.records"), import_module("harness.tables")
    timing = records.Timing(1.0, None, 1, 1)
    record = records.Record(
        name="cuda/local/dense/float32/1/normal/50%",
        device="cuda",
        family="local",
        variant="dense",
        dtype="float32",
        numel=1,
        tensors=1,
        data="normal",
        amount=0.5,
        bytes=1,
        contenders={"fastprune": timing, "floor": timing},
        kernels={"a": 3e-6, "b": 1e-6},
    )
    records.save(records.Result({}, {}, [record]), tmp_path / "a.jsonl")
    table = tables.make_table(records.load(tmp_path / "a.jsonl"), "kernels")
    assert [row[3:] for row in table.rows] == [["a", "3.00 µs", "75%"], ["b", "1.00 µs", "25%"]]
    assert table.rows[1][:3] == ["", "", ""]
