"""The clocks of the benchmarks; that of a GPU on a simulated device, which keeps the time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
OVERHEAD = 2e-6  # seconds between an event and what comes after it


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("harness.timing")


class Device:
    """A GPU that does nothing but let time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.flushed = 0
        self.captured: list[float] | None = None

    def work(self, seconds: float) -> None:
        if self.captured is None:
            self.now += seconds
        else:
            self.captured.append(seconds)

    def wait_for_host(self) -> None:
        if self.captured is not None:
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, timing: ModuleType) -> Device:
    """Stands in for torch.cuda as far as the clock uses it."""
    simulated = Device()

    class Event:
        def __init__(self, **_: Any) -> None:
            self.at = 0.0

        def record(self) -> None:
            simulated.now += OVERHEAD / 2
            self.at = simulated.now

        def synchronize(self) -> None: ...

        def elapsed_time(self, other: Event) -> float:
            return 1e3 * (other.at - self.at)

    class Graph:
        def __init__(self) -> None:
            self.seconds = 0.0

        def replay(self) -> None:
            simulated.work(self.seconds)

    @contextlib.contextmanager
    def graph(captured: Graph) -> Iterator[None]:
        simulated.captured = []
        try:
            yield
            captured.seconds = sum(simulated.captured)
        finally:
            simulated.captured = None

    def flush(size: int, **_: Any) -> Any:
        def read() -> None:
            simulated.flushed += 1

        return SimpleNamespace(sum=read)

    def sleep(cycles: int) -> None:
        simulated.slept.append(cycles / 2e9)

    cuda = SimpleNamespace(
        Event=Event,
        CUDAGraph=Graph,
        graph=graph,
        _sleep=sleep,
        synchronize=lambda: None,
        current_device=lambda: 0,
        get_device_properties=lambda _: SimpleNamespace(L2_cache_size=50 << 20),
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch, "zeros", flush)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: None)
    monkeypatch.setattr(torch, "mm", lambda *_: None)
    monkeypatch.setattr(timing, "RAISE_CLOCKS", 0.0)
    return simulated


def contender(timing: ModuleType, run: Callable[[], object]) -> Any:
    return timing.Contender("fastprune", lambda _: run())


def measured(timing: ModuleType, clock: Any, *contenders: Any) -> dict[str, Any]:
    timings, failed = timing.measure(contenders, clock, timing.Budget(0.02, 0.02, 5))
    assert failed == {}
    return dict(timings)


def test_short_calls_are_replayed_from_a_graph(timing: ModuleType, device: Device) -> None:
    """So that a microsecond or two of the events are shared by many calls."""
    clock = timing.CudaClock(warm=False)
    result = measured(timing, clock, contender(timing, lambda: device.work(5e-6)))["fastprune"]
    assert result.loops == timing.GRAPH_CALLS
    assert result.median == pytest.approx(5e-6 + OVERHEAD / 2 / timing.GRAPH_CALLS)
    assert clock.empty_pair == pytest.approx(OVERHEAD / 2)


def test_long_calls_are_timed_one_by_one(timing: ModuleType, device: Device) -> None:
    clock = timing.CudaClock(warm=False)
    result = measured(timing, clock, contender(timing, lambda: device.work(1e-3)))["fastprune"]
    assert result.loops == 1
    assert result.median == pytest.approx(1e-3, rel=0.01)


def test_a_long_call_that_stands_for_a_short_one_is_timed_alone(
    timing: ModuleType, device: Device
) -> None:
    """As the floor: a copy of a GiB took 1.6 times as long in a graph."""
    copy = timing.Contender("floor", lambda _: device.work(1e-3), scale=1e-2)
    result = measured(timing, timing.CudaClock(warm=False), copy)["floor"]
    assert result.loops == 1
    assert result.median == pytest.approx(1e-5, rel=0.01)


def test_calls_that_wait_for_the_device_cannot_be_captured(
    timing: ModuleType, device: Device
) -> None:
    def run() -> None:
        device.work(5e-6)
        device.wait_for_host()

    result = measured(timing, timing.CudaClock(warm=False), contender(timing, run))["fastprune"]
    assert result.loops == 1
    assert result.median == pytest.approx(5e-6 + OVERHEAD / 2)


def test_every_sample_begins_with_a_flush_and_a_delay(timing: ModuleType, device: Device) -> None:
    clock = timing.CudaClock(warm=False)
    before = device.flushed
    clock.sample(contender(timing, lambda: device.work(1e-3)), 1)
    assert device.flushed == before + 1
    assert all(timing.SHORTEST_DELAY <= s <= timing.LONGEST_DELAY for s in device.slept)


def test_contenders_get_samples_of_one_length(
    timing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to be measured finds its caches cold, which must not make its samples shorter."""
    now = 0.0
    cold = [2**-10, 2**-10]  # sums of such numbers are exact

    def run() -> None:
        nonlocal now
        now += cold.pop() if cold else 2**-15

    # On a machine that does other things at the time a call may take any time.
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now))
    clock = timing.CpuClock()
    first, second = (timing.Contender(name, lambda _: run()) for name in ("fastprune", "upstream"))
    result = measured(timing, clock, first, second)
    assert result["fastprune"].loops == result["upstream"].loops == 7
