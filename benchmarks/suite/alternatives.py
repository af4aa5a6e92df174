"""What a user could write instead to get the mask of an l1_unstructured prune."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.utils.prune as upstream
from torch import Tensor

from harness.timing import Contender


def alternatives(weight: Tensor, k: int) -> list[Contender]:
    """What a user could write instead: each makes the mask that prunes the ``k`` smallest entries.

    Those that compare with a threshold prune all entries equal to it, which may be more.
    """
    ways: dict[str, Callable[[Tensor, int], Any]] = {
        "torch.kthvalue": _by_kthvalue,
        "torch.topk": _by_topk,
        "torch.sort": _by_sort,
    }
    if weight.device.type == "cpu":
        ways["numpy.partition"] = _by_numpy
    else:
        ways["upstream, compiled"] = _by_compiled_upstream
        if importlib.util.find_spec("cupy") is not None:
            ways["cupy.partition"] = _by_cupy
        if _toolkit_has("cub/device/device_topk.cuh") and weight.dtype == torch.float32:
            ways["cub::DeviceTopK"] = _by_cub
    return [
        Contender(name, lambda _, way=way: way(weight, k))  # type: ignore[misc]
        for name, way in ways.items()
    ]


def _by_kthvalue(weight: Tensor, k: int) -> Tensor:
    magnitude = weight.abs()
    return (magnitude > magnitude.flatten().kthvalue(k).values).to(weight.dtype)


def _by_topk(weight: Tensor, k: int) -> Tensor:
    mask = torch.ones_like(weight)
    indices = weight.abs().flatten().topk(k, largest=False, sorted=False).indices
    mask.view(-1).scatter_(0, indices, 0)
    return mask


def _by_sort(weight: Tensor, k: int) -> Tensor:
    mask = torch.ones_like(weight)
    indices = weight.abs().flatten().sort(stable=True).indices[:k]
    mask.view(-1).scatter_(0, indices, 0)
    return mask


def _by_compiled_upstream(weight: Tensor, k: int) -> Any:
    return _compiled(k)(weight, torch.ones_like(weight))


@functools.cache
def _compiled(k: int) -> Callable[[Tensor, Tensor], Any]:
    compiled: Any = torch.compile(upstream.L1Unstructured(k).compute_mask)
    return compiled  # type: ignore[no-any-return]


def _cpp_extension() -> Any:
    # Imported late: without a GPU the import warns of it, also a run that needs none.
    return importlib.import_module("torch.utils.cpp_extension")


def _toolkit_has(header: str) -> bool:
    root = Path(_cpp_extension().CUDA_HOME or "/nowhere")
    return any((root / folder / header).exists() for folder in ("include", "include/cccl"))


def _by_cub(weight: Tensor, k: int) -> Tensor:
    mask = torch.ones_like(weight)
    indices = _cub().smallest(weight.abs().flatten(), k)
    mask.view(-1)[indices.long()] = 0
    return mask


@functools.cache
def _cub() -> Any:
    include = Path(_cpp_extension().CUDA_HOME or "/nowhere") / "include" / "cccl"
    return _cpp_extension().load(
        "fastprune_cub_topk",
        [str(Path(__file__).with_name("cub_topk.cu"))],
        extra_include_paths=[str(include)],
        extra_cuda_cflags=["-O3"],
    )


def _by_numpy(weight: Tensor, k: int) -> Any:
    magnitude = np.abs(weight.numpy())
    threshold = np.partition(magnitude.ravel(), k - 1)[k - 1]
    return (magnitude > threshold).astype(magnitude.dtype)


def _by_cupy(weight: Tensor, k: int) -> Any:
    cupy = importlib.import_module("cupy")
    magnitude = cupy.abs(cupy.from_dlpack(weight))
    threshold = cupy.partition(magnitude.ravel(), k - 1)[k - 1]
    return (magnitude > threshold).astype(magnitude.dtype)
