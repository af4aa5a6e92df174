"""Runs scripts/kernel_cases.py on the emulator, in the build that the environment selects.

Results must equal those of the CPU kernels, bit for bit, and every kernel must have run: so these
are the cases that compute-sanitizer should watch on a GPU.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from cuda_on_host import build, session

sys.path.append(str(build.ROOT / "scripts"))
import kernel_cases


def on_host() -> kernel_cases.Target:
    """The operators on the emulator, whose library is loaded."""
    ops = session.operators()
    return kernel_cases.Target(ops, "cpu", build.namespace().force_fallback)


def sizes_for(dtype: torch.dtype) -> kernel_cases.Sizes:
    """Those of the policy that the environment selects."""
    if not session.shipped():
        return kernel_cases.SMALL
    if dtype == torch.float16:  # as bfloat16, and the largest list takes half a minute
        return replace(kernel_cases.SHIPPED, lists=kernel_cases.SHIPPED.lists[:-1])
    return kernel_cases.SHIPPED


def main() -> None:
    session.load()
    for family in kernel_cases.FAMILIES:
        for dtype in kernel_cases.DTYPES:
            found = list(kernel_cases.differences(on_host(), sizes_for(dtype), family, dtype))
            assert not found, "\n\n".join(found)
    missing = build.kernels() - set(build.launched())
    assert not missing, f"no case launches {', '.join(sorted(missing))}"


if __name__ == "__main__":
    main()
