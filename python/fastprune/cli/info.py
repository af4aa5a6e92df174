"""Facts about an installation: versions, the build, this machine's instruction sets and devices."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import fastprune
from fastprune import _C


@dataclass(frozen=True)
class Device:
    """A CUDA device that torch sees."""

    name: str
    capability: str
    memory: int


@dataclass(frozen=True)
class Info:
    """What ``python -m fastprune`` prints above the self-test."""

    fastprune: str
    folder: str
    torch: str
    torch_cuda: str | None
    python: str
    platform: str
    built_for_torch: str
    built_with_cuda: bool
    compiler: str
    cpu_versions: list[str]
    cpu_version_used: str
    plain_because: str
    cpu_capability: str
    cpus: int
    threads: int
    devices: list[Device]

    def to_dict(self) -> dict[str, Any]:
        """Of JSON's types."""
        return asdict(self)

    def remarks(self) -> Iterator[str]:
        """What is likely to be slower, or less, than it could be."""
        if self.plain_because:
            yield (
                f"the CPU kernels were compiled by {self.compiler} as plain code only: "
                f"{self.plain_because}"
            )
        if self.built_for_torch != self.torch.partition("+")[0]:
            yield (
                f"built for torch {self.built_for_torch}, but this is torch {self.torch}: build "
                "fastprune again if anything fails"
            )
        if self.devices and not self.built_with_cuda:
            yield (
                f"torch sees {len(self.devices)} CUDA device(s), but fastprune was built without "
                "CUDA: FORCE_CUDA=1 pip install --no-build-isolation ."
            )


def collect() -> Info:
    """The facts of this process."""
    build = _C.build_info()
    return Info(
        fastprune=fastprune.__version__,
        folder=str(Path(fastprune.__file__).parent),
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        python=sys.version.split()[0],
        platform=platform.platform(),
        built_for_torch=build["torch"],
        built_with_cuda=build["cuda"],
        compiler=build["compiler"],
        cpu_versions=build["cpu_versions"],
        cpu_version_used=build["cpu_version_used"],
        plain_because=build["plain_because"],
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        cpus=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        devices=[_device(i) for i in range(torch.cuda.device_count())],
    )


def _device(index: int) -> Device:
    found = torch.cuda.get_device_properties(index)
    return Device(
        name=found.name,
        capability=f"{found.major}.{found.minor}",
        memory=found.total_memory,
    )


def rows(info: Info) -> Iterator[tuple[str, str]]:
    """The facts as labels and values, to be printed."""
    yield "fastprune", f"{info.fastprune} in {info.folder}"
    cuda = f"CUDA {info.torch_cuda}" if info.torch_cuda else "without CUDA"
    yield "torch", f"{info.torch}, {cuda}"
    yield "python", f"{info.python} on {info.platform}"
    kernels = "CPU and CUDA" if info.built_with_cuda else "CPU only"
    yield "built for", f"torch {info.built_for_torch}, {kernels}, by {info.compiler}"
    yield (
        "CPU kernels",
        f"compiled for {', '.join(info.cpu_versions)}; {info.cpu_version_used} is used here",
    )
    yield "CPU", f"{info.cpus} CPUs, {info.threads} threads, torch uses {info.cpu_capability}"
    for i, device in enumerate(info.devices):
        yield (
            f"cuda:{i}",
            f"{device.name}, compute capability {device.capability}, "
            f"{device.memory / 2**30:.0f} GiB",
        )
    if not info.devices:
        yield "CUDA devices", "none"
