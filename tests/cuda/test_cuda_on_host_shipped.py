"""The CUDA kernels on the host with block, tile and grid sizes as shipped.

All other tests run them with small ones, where vector widths, keys a thread and tiles take other
values. These are a few operator tests of each family whose inputs span several tiles and blocks.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cuda_on_host import build, session

#: By family, the tests as pytest's -k selects them. Inputs of topk from 2^20 entries on take too
#: long on the host.
TESTS = {
    "topk": "(test_masks and few and random and float16)"
    " or (test_when_the_sample_is_of_no_use and normal and float32)"
    " or (test_products and blocks and bfloat16 and own)"
    " or (test_thresholds_among_equals and zeros50 and float64)",
    "channels": "test_many_chunks or test_more_channels_than_every_block_selects_among"
    " or (test_paths and (float32 or int16) and (5000 or 4100 or 9000 or 700) and not -1])"
    " or (test_same_bits_as_two_operators and float32 and (64 or 9001))",
    "elementwise": "test_sizes and (1025 or 10007) and not float64",
}


def test_all_paths_of_all_kernels() -> None:
    """The cases for compute-sanitizer on a GPU: results as on the CPU, with up to 1.2M entries."""
    if session.sanitized():
        pytest.skip("runs without sanitizers")
    done = subprocess.run(
        [sys.executable, "-m", "cuda_on_host.cases"],
        cwd=build.ROOT / "tests",
        env={**os.environ, "CUDA_ON_HOST_SHIPPED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,  # of which a compilation with the race detector may take a third
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("family", TESTS)
def test_operators_pass(family: str) -> None:
    if session.sanitized():
        pytest.skip("runs without sanitizers")
    environ = {**os.environ, "CUDA_ON_HOST_SHIPPED": "1"}
    for name in ("CI", "CUDA_ON_HOST_SEEDS"):  # so with one seed
        environ.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=8"]
    command += ["-k", f"{session.NAME} and ({TESTS[family]})"]
    done = subprocess.run(
        [*command, str(build.ROOT / "tests" / "ops" / family)],
        cwd=build.ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
