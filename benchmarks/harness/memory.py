"""How much memory there is, how much a case needs, and how much a call uses at its peak.

On a GPU torch counts. On the CPU nobody does, so each contender gets a process of its own: it makes
the data, has the system forget the process's peak so far, makes one call, and reads the new peak.

Run as a program, this is that process.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from harness.records import UPSTREAM
from harness.timing import Contender
from suite.cases import Case

_BENCHMARKS = Path(__file__).resolve().parents[1]
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


def needed(case: Case, contender: str) -> int:
    """Bytes that a case takes with one contender, about, and rather too many."""
    # Everyone holds the weights, an old mask, and what a call makes: a mask and a product.
    held = 5 * case.itemsize * case.numel
    # Upstream works on one flat copy of what it ranks, and torch.topk on pairs of value and index.
    ranked_at_once = case.numel if case.variant.endswith("-global") else case.widest
    if case.family == "global":
        ranked_at_once = case.numel
    if contender == UPSTREAM:
        return held + (8 * case.itemsize + 24) * ranked_at_once
    return held + (4 * case.itemsize + 16) * case.widest  # what checks.py takes


def lacking(case: Case, contender: str) -> str | None:
    """Why there is too little memory for a contender; None if there is enough."""
    need, have = needed(case, contender), available(case.device)
    if need <= have:
        return None
    return f"needs about {need / 2**30:.1f} GiB of memory, {have / 2**30:.1f} are free"


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


def cpu_peak(case: Case, contender: str) -> int | None:
    """Bytes by which a call raises the memory of its process at the peak, results included; None
    where the process fails.
    """
    command = [sys.executable, "-m", "harness.memory", json.dumps(asdict(case)), contender]
    command += ["--threads", str(torch.get_num_threads())]
    child = subprocess.run(command, cwd=_BENCHMARKS, capture_output=True, text=True, check=False)
    return int(child.stdout) if child.returncode == 0 else None


def _kib_fields(path: Path) -> dict[str, int]:
    """The "Name: 123 kB" lines of a file in /proc."""
    fields = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            fields[name] = int(value.split()[0])
    return fields


def _own_peak(contender: Contender) -> int:
    """Bytes by which one call raises the memory of this process at its peak."""
    state = contender.setup()
    with contextlib.suppress(AttributeError, OSError):  # give back what building the data left
        ctypes.CDLL(None).malloc_trim(0)
    try:
        before = _kib_fields(_STATUS)["VmRSS"]
        _CLEAR_REFS.write_text("5")  # the peak is from now on
    except (OSError, KeyError):
        # A peak that cannot be forgotten: what building the data took may hide a part of the call.
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        contender.run(state)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    contender.run(state)
    return (_kib_fields(_STATUS)["VmHWM"] - before) << 10


def _contender(case: Case, name: str) -> Contender:
    from suite.workloads import build  # the parent process needs it not

    return next(c for c in build(case).contenders if c.name == name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the peak of one contender of one case, in bytes."""
    parser = argparse.ArgumentParser(description="Print the peak memory of one call, in bytes.")
    parser.add_argument("case", help="a cases.Case as JSON")
    parser.add_argument("contender")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    fields = json.loads(options.case)
    case = Case(**fields | {"shapes": tuple(map(tuple, fields["shapes"]))})
    small = replace(case, shapes=((512, 512),), family="local", data="normal")
    _contender(small, options.contender).once()  # thread pools and the like are not its memory
    print(_own_peak(_contender(case, options.contender)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
