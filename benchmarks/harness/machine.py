"""The machine and the versions of a run."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import fastprune

_ROOT = Path(__file__).resolve().parents[2]


def describe(devices: list[str]) -> dict[str, Any]:
    """The machine and the versions, for the result file."""
    cuda = "cuda" in devices
    properties = torch.cuda.get_device_properties(torch.cuda.current_device()) if cuda else None
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": properties.name if properties else None,
        "gpu_memory_bytes": properties.total_memory if properties else None,
        "gpu_clocks": _gpu_clocks() if cuda else None,
        "system": platform.system(),
        # torch's switch to ask for huge pages for every large tensor
        "huge_pages": os.environ.get("THP_MEM_ALLOC_ENABLE") == "1",
        # glibc's switch to map every tensor from so many bytes on by itself
        "fresh_memory_from": int(os.environ.get("MALLOC_MMAP_THRESHOLD_", 0)) or None,
        # glibc's switch to keep freed memory of up to so many bytes at the top of the heap
        "kept_memory": int(os.environ.get("MALLOC_TRIM_THRESHOLD_", 0)) or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "fastprune": fastprune.__version__,
        "commit": _commit(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def file_name(machine: dict[str, Any]) -> str:
    """The name a result file has by convention: machine and version."""
    return f"{slug(machine)}-{machine['fastprune']}.jsonl"


def slug(machine: dict[str, Any]) -> str:
    """The GPU's name, or else the CPU's, in small letters, digits and hyphens."""
    name = re.sub(r"\(\w+\)", " ", machine["gpu"] or machine["cpu"])
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu_clocks() -> str | None:
    """Of the multiprocessors and of the memory, as nvidia-smi has them when a run begins."""
    command = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _commit() -> str | None:
    """FASTPRUNE_COMMIT if it is set, or the commit of the checkout, "+" if that has changes."""
    if given := os.environ.get("FASTPRUNE_COMMIT"):
        return given
    try:
        commit = _git("rev-parse", "--short=12", "HEAD").strip()
        # A run writes results; they are no change of what it measures.
        changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes.strip() else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
