"""Which kernels a call launches on a GPU, and how long each of them runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from harness.timing import Contender

CALLS = 5


def cuda_kernels(contender: Contender) -> dict[str, float]:
    """Seconds a call by kernel, in the order of their first launch, as torch's profiler has them.

    What lies between kernels is not in their times, and the L2 cache holds what the last call left:
    they say which kernels take the time of a call, not how long it takes.
    """
    contender.once()
    states = [contender.setup() for _ in range(CALLS)]
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        results = [contender.run(state) for state in states]
        torch.cuda.synchronize()
    del results
    kernels = by_kernel(profiler.events(), CALLS)
    if not kernels:
        raise RuntimeError("the profiler saw no kernel")
    return kernels


def by_kernel(events: Iterable[Any], calls: int) -> dict[str, float]:
    """Seconds a call by kernel, of the profiler's events."""
    on_device = [event for event in events if event.device_type == DeviceType.CUDA]
    seconds: dict[str, float] = {}
    for event in sorted(on_device, key=lambda event: event.time_range.start):
        name = short_name(event.name)
        seconds[name] = seconds.get(name, 0.0) + event.time_range.elapsed_us() * 1e-6 / calls
    return seconds


def short_name(name: str) -> str:
    """A kernel's name without namespaces, template arguments and parameters."""
    plain = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    return plain.partition("<")[0].partition("(")[0].strip().rpartition("::")[2]
