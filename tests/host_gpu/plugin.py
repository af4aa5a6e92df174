"""Has torch take the device of device.cpp for a GPU: ``pytest -p host_gpu.plugin``.

Before torch is imported, and with ``site`` of build.py in front of what is installed.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "build" / "host_gpu"
if "torch" in sys.modules:
    raise ImportError("torch was imported before host_gpu.plugin")
ctypes.CDLL(str(FOLDER / "libdevice.so"), mode=ctypes.RTLD_GLOBAL)

import torch  # noqa: E402

#: What this device has not, by what the names of the tests that need it contain.
WITHOUT = {
    "test_cuda_streams.py": "streams and graphs",
    "test_host_code.py": "code of nvcc",
    "::test_compiled": "Triton",
    "::test_sparse_gradients": "sparse tensors",
    "to be strided": "sparse tensors",
    "[Ss]parse": "sparse tensors",
}


def _believe() -> None:
    """What torch asks of libtorch_cuda in Python."""
    cuda: Any = torch.cuda
    cuda._lazy_init = lambda: None
    cuda._exchange_device = cuda._maybe_exchange_device = lambda index: 0
    cuda.is_available = lambda: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.get_device_capability = lambda device=None: (9, 0)
    cuda.is_current_stream_capturing = lambda: False
    cuda.synchronize = lambda device=None: None
    for module in (cuda, cuda.random):  # random numbers are the CPU's
        module.get_rng_state = lambda device=None: torch.get_rng_state()
        module.set_rng_state = lambda state, device=None: torch.set_rng_state(state)


_believe()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name, what in WITHOUT.items():
            if name in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=f"the device has no {what}"))
