"""Runs scripts/kernel_cases.py on the emulator, in the build that the environment selects.

Results must equal those of the CPU kernels, bit for bit, and every kernel must have run: so these
are the cases that compute-sanitizer should watch on a GPU.
"""

from __future__ import annotations

import sys

from cuda_on_host import build, session

sys.path.append(str(build.ROOT / "scripts"))
import kernel_cases


def on_host() -> kernel_cases.Target:
    """The operators on the emulator, whose library is loaded."""
    ops = session.operators()
    return kernel_cases.Target(ops, "cpu", build.namespace().force_fallback)


def main() -> None:
    sizes = kernel_cases.SHIPPED if session.shipped() else kernel_cases.SMALL
    session.load()
    for family in kernel_cases.FAMILIES:
        for dtype in kernel_cases.DTYPES:
            found = list(kernel_cases.differences(on_host(), sizes, family, dtype))
            assert not found, "\n\n".join(found)
    missing = build.kernels() - set(build.launched())
    assert not missing, f"no case launches {', '.join(sorted(missing))}"


if __name__ == "__main__":
    main()
