"""What nvcc lets pass: of a call of a __device__ function on the host it makes one of exit()."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import fastprune


@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm")
def test_the_host_calls_no_function_of_the_device() -> None:
    """Nothing else in the library calls exit()."""
    if not fastprune._C.build_info()["cuda"]:
        pytest.skip("fastprune was built without CUDA")
    (library,) = Path(fastprune.__file__).parent.glob("_C.*so")
    command = ["nm", "-D", "--undefined-only", str(library)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1].partition("@")[0] for line in said.splitlines()}
    assert any("cudaLaunchKernel" in name for name in names)
    assert "exit" not in names
