"""How much memory there is, and how much a call uses at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from pathlib import Path

import torch

from harness.timing import Contender

_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def available(device: str) -> int:
    """Bytes that can still be allocated, about."""
    if device == "cuda":
        free: int = torch.cuda.mem_get_info()[0]
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return free + cached
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, KeyError):
        whole = _kib_fields(Path("/proc/meminfo"))["MemAvailable"] << 10
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or one without a limit
        limit = int((_CGROUP / "memory.max").read_text())
        whole = min(whole, limit - int((_CGROUP / "memory.current").read_text()))
    return whole


def cuda_peak(contender: Contender) -> int:
    """Bytes that a call allocates on the device at its peak, results included."""
    state = contender.setup()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = contender.run(state)
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def process_peak(contender: Contender) -> int:
    """Bytes by which a call raises the memory of this process at its peak, results included."""
    state = contender.setup()
    with contextlib.suppress(AttributeError, OSError):  # give back what building the data left
        ctypes.CDLL(None).malloc_trim(0)
    try:
        before = _kib_fields(_STATUS)["VmRSS"]
        _CLEAR_REFS.write_text("5")  # resets the process's recorded peak
    except (OSError, KeyError):
        # The recorded peak cannot be reset: if building the data took more, it hides the call's.
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        contender.run(state)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    contender.run(state)
    return (_kib_fields(_STATUS)["VmHWM"] - before) << 10


def _kib_fields(path: Path) -> dict[str, int]:
    """The "Name: 123 kB" lines of a file in /proc."""
    fields = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            fields[name] = int(value.split()[0])
    return fields
