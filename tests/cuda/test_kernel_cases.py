"""The cases of compute-sanitizer, compared with the CPU: every kernel, at sizes of a GPU."""

from __future__ import annotations

import pytest
import torch

from cuda_on_host.cases import kernel_cases
from support.compare import assert_same_bits


@pytest.mark.parametrize("dtype", kernel_cases.DTYPES, ids=str)
@pytest.mark.parametrize("family", kernel_cases.FAMILIES)
def test_the_same_on_every_device(device: str, family: str, dtype: torch.dtype) -> None:
    """On the CPU: the same with one thread as with several."""
    make = kernel_cases.FAMILIES[family]
    sizes = kernel_cases.ON_A_GPU if device == "cuda" else kernel_cases.SHIPPED
    if family == "large" and not sizes.large:
        pytest.skip("as many blocks as a GPU has would take too long")
    ours = [t.cpu() for t in make(kernel_cases.on(device), sizes, dtype)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reference = make(kernel_cases.on("cpu"), sizes, dtype)
        for actual, expected in zip(ours, reference, strict=True):
            assert_same_bits(actual, expected)
    finally:
        torch.set_num_threads(threads)
